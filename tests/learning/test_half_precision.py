"""Sums over examples and parameters that half precision does not hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import statistics
from jaxnn.learning import feedback, privacy
from jaxnn.training import metrics_of, task_of

MANY = 70_000  # more than the largest float16


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16], ids=lambda half: half.__name__)
def test_the_weighted_mean_and_the_accumulated_one_are_summed_in_float32(half):
    network, loss = nn.identity(), nn.half_squared_error()
    x, weights = jnp.full((MANY, 1), 2, half), jnp.ones(MANY, half)
    arguments = ((), (), x, jnp.zeros_like(x), None, weights)
    measuring = statistics.measuring(network, loss)

    @jax.jit
    def run():
        plain = nn.backprop(network, loss)
        return (
            plain(*arguments)[0][0],
            nn.autodiff(network, loss)(*arguments)[0][0],
            nn.accumulate(plain, 1, network=network)(*arguments)[0][0],
            measuring(*arguments)[0][0].loss,
        )

    for value in run():
        assert value.dtype == half
        assert value == 2


def test_the_shares_of_many_examples_are_not_lost():
    x, weights = jnp.full((MANY, 1), 2, jnp.float16), jnp.ones(MANY, jnp.float16)
    params = {"weight": jnp.ones((1, 1), jnp.float16)}
    gradient = nn.backprop(nn.dense(1, use_bias=False), nn.half_squared_error())
    found = jax.jit(gradient)(params, (), x, jnp.zeros_like(x), None, weights)[1]
    np.testing.assert_allclose(np.asarray(found["weight"], float), 4, rtol=0.02)


def test_the_value_of_private_training_is_summed_in_float32():
    run = privacy.private(
        nn.dense(1),
        nn.half_squared_error(),
        clip_norm=1.0,
        noise_multiplier=1.0,
        batch_size=1000,
    )
    values = jnp.full(1000, 100, jnp.float16)
    zeros = {"weight": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    sums = privacy.gradient.Sums(zeros, None)
    (value, _), _ = run.finish(zeros, (), values, None, sums, jax.random.key(0))
    assert value.dtype == jnp.float16
    assert value == 100


def test_the_magnitude_of_small_weights_is_not_0():
    weights = {"weight": jnp.full((3, 2), 1e-4, jnp.float16)}
    rule = feedback.sign_concordant(nn.dense(2))
    magnitude = rule.start(weights, lambda key: weights, jax.random.key(0))["weight"]
    assert magnitude.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(magnitude, float), 1e-4, rtol=1e-2)


def test_the_trace_of_a_hessian_is_added_in_float32():
    x = jnp.full((1, 300), 30, jnp.float16)
    network, loss = nn.dense(1, use_bias=False), nn.half_squared_error()
    params = {"weight": jnp.zeros((300, 1), jnp.float16)}
    trace = statistics.hessian_trace(network, loss, samples=4)
    target, key = jnp.zeros((1, 1), jnp.float16), jax.random.key(0)
    found = jax.jit(trace)(params, (), x, target, key)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (params, (), x, target))
    np.testing.assert_allclose(found, jax.jit(trace)(*wide, key), rtol=0.05)
    assert found.dtype == jnp.float32


def test_metrics_of_half_precision_predictions_are_summed_in_float32():
    loss = nn.mean_absolute_error()
    target = jnp.tile(jnp.array([[-300.0], [300.0]], jnp.float16), (500, 1))
    metrics = metrics_of(loss, task_of(loss, 0), target + 30, target)
    assert metrics["r2"] == pytest.approx(0.99, rel=1e-4)
    assert metrics["mae"] == pytest.approx(30)
