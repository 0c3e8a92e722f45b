"""A small classification that the tests of training share."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from jaxnn.training import create_state, make_optimizer

EXAMPLES, FEATURES, CLASSES, BATCH_SIZE = 23, 5, 3, 8  # three steps an epoch, the last of 7


def data():
    noise = np.random.default_rng(0)
    x = noise.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(np.argmax(x[:, :CLASSES], 1), jnp.int32)


def network():
    """With all that a saved state must hold: running statistics and random numbers.

    A bias before batch norm has a gradient of rounding errors alone, which Adam would magnify.
    """
    return nn.serial(
        nn.dense(6, use_bias=False), nn.batch_norm(), nn.relu(), nn.dropout(0.3), nn.dense(CLASSES)
    )


def start(network, optimizer=None, seed=0):
    """(network, loss, optimizer, train_state, x, target): the first arguments of `train`."""
    x, target = data()
    optimizer = optimizer or make_optimizer("adam", 0.03)
    train_state = create_state(network, optimizer, jax.random.key(seed), x[:1])
    return network, nn.softmax_cross_entropy(), optimizer, train_state, x, target
