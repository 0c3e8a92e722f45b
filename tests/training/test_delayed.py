"""Delayed deltas: of which step each is, held against an account of all steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal

import jaxnn as nn
from jaxnn import training

LOSS = nn.mean_squared_error()
MIXED = nn.serial(
    nn.serial(nn.dense(6), nn.batch_norm(), nn.dropout(0.3)),
    nn.recompute(nn.serial(nn.dense(5), nn.tanh())),
    nn.dense(3),
)
BLOCK = nn.serial(nn.dense(4), nn.tanh())
BLOCKS = nn.serial(BLOCK, BLOCK, BLOCK)


def run(step, steps, size=8, width=4, target=4):
    x, wanted = normal(0, (steps, size, width)), normal(1, (steps, size, target))
    start = train_state = step.create_state(jax.random.key(0), x[0])
    compiled = jax.jit(step)
    for i in range(steps):
        train_state, _ = compiled(train_state, x[i], wanted[i])
    return start, train_state, x, wanted


def test_without_delays_it_is_backprop(x64):
    optimizer = optax.adam(0.05)
    step = training.delayed(MIXED, LOSS, optimizer, delays=(0, 0))
    start, own, x, target = run(step, 3, target=3)
    plain = jax.jit(training.make_step(nn.backprop(MIXED, LOSS), optimizer))
    expected = start._replace(optimizer_state=optimizer.init(start.params))
    for i in range(3):
        expected, _ = plain(expected, x[i], target[i])
    assert_agree((own.params, own.state), (expected.params, expected.state), 1e-10)


@pytest.mark.parametrize("delays", [(1, 1), (0, 2), (3, 1)])
def test_deltas_are_of_the_step_that_is_said(delays, x64):
    """y = tanh(x W + b), by hand."""
    rate, steps = 0.3, 7
    step = training.delayed(BLOCKS, LOSS, optax.sgd(rate), delays=delays)
    start, own, x, target = run(step, steps)
    assert step.ages == (delays[0] + delays[1], delays[1], 0)
    params = [{name: np.asarray(a) for name, a in block[0].items()} for block in start.params]
    kept, returned = {}, {}
    for t in range(steps):
        y = np.asarray(x[t])
        for i, p in enumerate(params):
            given, y = y, np.tanh(y @ p["weight"] + p["bias"])
            kept[i, t] = given, y
        waits = (*delays, 0)
        moves = []
        for i in (2, 1, 0):
            if i == 2:
                delta = 2 * (y - np.asarray(target[t])) / y.size
            elif (i + 1, t - waits[i]) in returned:
                delta = returned[i + 1, t - waits[i]]
            else:
                continue
            given, out = kept[i, t - step.ages[i]]
            delta = delta * (1 - out**2)
            returned[i, t] = delta @ params[i]["weight"].T
            moves.append((i, {"weight": given.T @ delta, "bias": delta.sum(0)}))
        for i, gradient in moves:
            params[i] = {name: params[i][name] - rate * gradient[name] for name in gradient}
    found = [{name: np.asarray(a) for name, a in block[0].items()} for block in own.params]
    assert_agree(found, params, 1e-10)


def test_train_takes_batches_of_one_size_alone():
    x = np.asarray(normal(0, (20, 4), np.float32))
    step = training.delayed(BLOCKS, LOSS, optax.sgd(0.1), delays=(1, 1))
    state = training.create_state(BLOCKS, step, jax.random.key(0), x[:5])
    (epoch,) = training.train(BLOCKS, LOSS, step, state, x, x, epochs=1, batch_size=5)
    assert np.isfinite(epoch.losses).all()
    with pytest.raises(ValueError, match="batches of the size of those whose deltas are on their"):
        training.train(BLOCKS, LOSS, step, state, x, x, epochs=1, batch_size=4)


class logarithm(nn.Layer):
    def forward(self, params, state, x, key):
        return jnp.log(jnp.abs(x)), state, x

    def backward(self, params, residuals, dy):
        return dy / residuals, ()


def test_what_is_kept_at_the_start_has_no_effect_even_where_its_derivative_is_infinite(x64):
    network = nn.serial(nn.serial(nn.dense(4, use_bias=False), logarithm()), nn.dense(3))
    step = training.delayed(network, LOSS, optax.sgd(0.1), delays=(2,))
    start, own, *_ = run(step, 2, target=3)
    assert_agree(own.params[0], start.params[0], 0)
    assert np.isfinite(own.params[1]["weight"]).all()


@pytest.mark.parametrize(
    ("network", "delays", "message"),
    [
        (BLOCKS, (1,), "delayed: expected 2 delays, one between every two of the 3 blocks, got 1"),
        (BLOCKS, (1, -1), "delayed: expected every one of delays to be"),
        (nn.dense(3), (), "delayed: expected network to be a serial of blocks"),
    ],
)
def test_delays_that_do_not_fit_are_refused(network, delays, message):
    with pytest.raises(ValueError, match=message):
        training.delayed(network, LOSS, optax.sgd(0.1), delays=delays)
