"""Local losses: what every block and head learns is autodiff's, with no delta between blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import training

LOSS = nn.softmax_cross_entropy()
BLOCKS = nn.serial(
    first=nn.serial(nn.dense(6), nn.batch_norm(), nn.tanh(), nn.dropout(0.3)),
    second=nn.serial(nn.dense(5), nn.relu()),
    last=nn.dense(3),
)
HEADS = nn.parallel(nn.serial(nn.dense(4), nn.tanh(), nn.dense(3)), nn.dense(3))
NETWORK = nn.auxiliary_heads(BLOCKS, HEADS)
LABELS = jnp.arange(8) % 3


def test_gradients_are_autodiffs_of_the_sum_with_inputs_held_constant(x64):
    x, key = normal(0, (8, 5)), jax.random.key(2)
    params, state = started(NETWORK, x)
    weights = jnp.arange(1.0, 9.0)

    def total(params):
        y, values = x, []
        heads = (*HEADS.layers, nn.identity())
        keys, own = jax.random.split(key, 3), (*params[1], ())
        for i, (block, head) in enumerate(zip(BLOCKS.layers, heads, strict=True)):
            y, *_ = block.forward(params[0][i], state[0][i], jax.lax.stop_gradient(y), keys[i])
            predicted = head.predict(own[i], ((),) * 3 if i == 0 else (), y)
            values.append(jnp.sum(weights * LOSS.value(predicted, LABELS)) / jnp.sum(weights))
        return sum(values), values[-1]

    (_, value), expected = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    found = jax.jit(nn.local_losses(NETWORK, LOSS))(params, state, x, LABELS, key, weights)
    assert_agree((found[0][0], found[1]), (value, expected), 1e-10)


def test_without_heads_the_blocks_are_what_they_are(x64):
    x, key = normal(0, (8, 5)), jax.random.key(2)
    (params, of_heads), (state, _) = NETWORK.init(key, x)
    own, own_state = BLOCKS.init(key, x)
    assert_agree(params, own, 0.0)
    arguments = x, LABELS, key
    both = (params, of_heads), ((state), HEADS.init(key, (x[:, :1], x[:, :1]))[1])
    found = jax.jit(nn.backprop(NETWORK, LOSS))(*both, *arguments)
    expected = jax.jit(nn.backprop(BLOCKS, LOSS))(own, own_state, *arguments)
    assert_agree(found[1][0], expected[1], 1e-10)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(found[1][1]))


def test_they_train_a_network_which_is_crosschecked_by_its_true_gradient():
    x = np.asarray(normal(0, (24, 5), np.float32))
    labels = np.argmax(x[:, :3], 1).astype(np.int32)
    optimizer = optax.adam(0.05)
    state = training.create_state(NETWORK, optimizer, jax.random.key(0), x[:1])
    task = training.task_of(LOSS, 3)
    options = {"gradient": nn.local_losses(NETWORK, LOSS), "validation": (x, labels, task)}
    *_, last = training.train(
        NETWORK, LOSS, optimizer, state, x, labels, epochs=40, batch_size=12, **options
    )
    assert last.validation["accuracy"] > 0.8


def test_heads_that_do_not_fit_are_refused(untyped):
    with pytest.raises(ValueError, match="a head for every block but the last, 2, got 1"):
        nn.auxiliary_heads(BLOCKS, nn.parallel(nn.dense(3)))
    with pytest.raises(TypeError, match="expected blocks to be a serial, got"):
        nn.auxiliary_heads(nn.dense(3), HEADS)
    with pytest.raises(TypeError, match="expected network to be an auxiliary_heads"):
        nn.local_losses(BLOCKS, LOSS)
