"""Private training: a gradient mode of the loop, on Poisson samples inside of the scanned epoch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.learning.privacy import Privacy
from jaxnn.training import Diverged, create_state, make_optimizer, train


def private_training(network, privacy, epochs=3, train_state=None, **options):
    network, loss, optimizer, start, x, target = problems.start(
        network, make_optimizer("sgd", options.pop("learning_rate", 0.5))
    )
    return train(
        network,
        loss,
        optimizer,
        train_state or start,
        x,
        target,
        epochs=epochs,
        batch_size=problems.BATCH_SIZE,
        gradient=options.pop("gradient", "private"),
        privacy=privacy,
    )


NETWORK = nn.serial(nn.dense(6), nn.tanh(), nn.dropout(0.1), nn.dense(problems.CLASSES))


def test_training_with_little_noise_learns():
    epochs = list(private_training(NETWORK, Privacy(1.0, 1e-3, 1e-5), epochs=30))
    first, last = (np.mean([e.losses for e in part]) for part in (epochs[:5], epochs[-5:]))
    assert last < 0.5 * first


def test_noise_drowns_what_could_be_learnt():
    epochs = list(private_training(NETWORK, Privacy(1.0, 100.0, 1e-5), epochs=3))
    weight = np.asarray(epochs[-1].train_state.params[0]["weight"])
    assert weight.std() > 1


def test_stopped_and_resumed_private_training_has_the_numbers_of_one_never_stopped():
    privacy = Privacy(1.0, 0.5, 1e-5)
    *_, whole = private_training(NETWORK, privacy, epochs=3)
    *_, part = private_training(NETWORK, privacy, epochs=1)
    *_, resumed = private_training(NETWORK, privacy, 3, part.train_state)
    chex.assert_trees_all_equal(whole.train_state.params, resumed.train_state.params)


def test_private_training_that_diverges_says_so():
    with pytest.raises(Diverged, match="private training diverged in epoch"):
        list(private_training(NETWORK, Privacy(1.0, 1e30, 1e-5), learning_rate=1e30))


def test_privacy_belongs_to_the_private_gradient_alone():
    with pytest.raises(ValueError, match="expected privacy to be given where gradient"):
        private_training(NETWORK, None)
    with pytest.raises(ValueError, match="expected privacy to be given where gradient"):
        private_training(NETWORK, Privacy(1.0, 1.0, 1e-5), gradient="manual")


def test_a_network_that_mixes_examples_is_refused_before_the_first_epoch():
    network = nn.serial(nn.dense(3), nn.batch_norm(), nn.dense(problems.CLASSES))
    with pytest.raises(ValueError, match="1 batch_norm mixes the examples"):
        private_training(network, Privacy(1.0, 1.0, 1e-5))


def test_float64_trains_in_float64(x64):
    network, loss = nn.serial(nn.dense(3)), nn.softmax_cross_entropy()
    x, target = problems.data()
    x = x.astype(float)
    optimizer = make_optimizer("sgd", 0.1)
    state = create_state(network, optimizer, jax.random.key(0), x[:1])
    arguments = (network, loss, optimizer, state, x, target)
    privacy = Privacy(1.0, 1.0, 1e-5)
    (epoch,) = train(*arguments, epochs=1, batch_size=8, gradient="private", privacy=privacy)
    assert epoch.train_state.params[0]["weight"].dtype == jnp.float64
