"""The private gradient against its definition by autodiff, the reach of one example, the noise."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.learning.privacy import Privacy, clipped_sum, private

LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(nn.conv(3, (2, 2)), nn.group_norm(1), nn.tanh(), nn.flatten(), nn.dense(3))
BATCH = 5


def problem():
    x = normal(0, (BATCH, 3, 3, 1))
    return (*started(NETWORK, x), x, jnp.array([0, 2, 1, 1, 0]))


@jax.jit
def by_definition(params, state, x, target, weights, clip_norm):
    """The sum of gradients by autodiff, each clipped."""

    def own_loss(params, example, label, weight):
        y = NETWORK.forward(params, state, example[None], None)[0]
        return weight * LOSS.value(y, label[None])[0]

    each = jax.vmap(jax.grad(own_loss), (None, 0, 0, 0))(params, x, target, weights)
    norms = jnp.sqrt(sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(each)))
    clip = jnp.minimum(1, clip_norm / jnp.where(norms == 0, 1, norms))
    return jax.tree.map(lambda g: jnp.einsum("b,b...->...", clip, g), each)


@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 1.0, 2.5, 0.0)])
def test_the_clipped_sum_is_that_of_clipped_gradients_by_autodiff(clip_norm, weights, x64):
    params, state, x, target = problem()
    factors = jnp.ones(BATCH) if weights is None else jnp.array(weights)
    given_weights = None if weights is None else factors
    compute = _compiled(clip_norm)
    (values, _), total = compute(params, state, x, target, None, given_weights)
    assert values.shape == (BATCH,)
    assert_agree(total, by_definition(params, state, x, target, factors, clip_norm), 1e-9)


@given(
    seed=st.integers(0, 100),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
    weight=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_one_example_moves_the_clipped_sum_by_at_most_the_clip_norm(seed, size, weight, x64):
    clip_norm = 0.7
    params, state, x, target = problem()
    x = np.array(x)
    x[0] = np.asarray(normal(seed, x.shape[1:])) * size
    compute = _compiled(clip_norm)
    sums = [
        compute(params, state, x, target, None, np.array([w, *[1.0] * (BATCH - 1)]))[1]
        for w in (weight, 0.0)
    ]
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), *sums)
    assert np.sqrt(sum((m**2).sum() for m in jax.tree.leaves(moved))) <= clip_norm * (1 + 1e-9)


@cache
def _compiled(clip_norm):
    return jax.jit(clipped_sum(NETWORK, LOSS, clip_norm))


def test_the_noise_has_the_deviation_of_multiplier_times_clip_norm_and_the_mean_zero():
    """A gradient of zeros: what is left is noise, divided by the expected batch."""
    network = nn.dense(200)
    x = jnp.zeros((2, 300))
    params, state = network.init(jax.random.key(0), x)
    gradient = private(
        network, nn.half_squared_error(), clip_norm=0.5, noise_multiplier=3.0, batch_size=10
    )
    arguments = (params, state, x, jnp.zeros((2, 200)))
    (_, _), first = jax.jit(gradient)(*arguments, jax.random.key(1))
    (_, _), second = jax.jit(gradient)(*arguments, jax.random.key(2))
    noise = np.asarray(first["weight"])
    deviation = 3.0 * 0.5 / 10
    assert abs(noise.std() / deviation - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * deviation / np.sqrt(noise.size)
    correlation = np.corrcoef(noise.ravel(), np.asarray(second["weight"]).ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(noise.size)


def test_the_value_of_an_empty_sample_is_zero_and_its_gradient_noise():
    params, state, x, target = problem()
    gradient = private(NETWORK, LOSS, clip_norm=1.0, noise_multiplier=1e-3, batch_size=4)
    (value, _), gradients = jax.jit(gradient)(
        params, state, x, target, jax.random.key(0), jnp.zeros(BATCH)
    )
    assert value == 0
    assert all(0 < np.abs(np.asarray(g)).max() < 0.01 for g in jax.tree.leaves(gradients))


def test_a_half_precision_gradient_is_clipped_by_a_norm_in_float32():
    network = nn.dense(2)
    x = jnp.full((1, 4), 200.0, jnp.float16)  # the squared norm overflows float16
    params = {"weight": jnp.zeros((4, 2), jnp.float16), "bias": jnp.zeros(2, jnp.float16)}
    compute = clipped_sum(network, nn.half_squared_error(), 1.0)
    (_, _), total = jax.jit(compute)(params, (), x, jnp.full((1, 2), 3.0, jnp.float16))
    norm = np.sqrt(sum((np.asarray(g, float) ** 2).sum() for g in jax.tree.leaves(total)))
    assert {g.dtype for g in jax.tree.leaves(total)} == {jnp.dtype("float16")}
    assert abs(norm - 1) < 1e-2


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["clip_norm", "noise_multiplier"])
def test_a_clip_norm_or_noise_that_is_not_positive_is_refused(name, bad):
    numbers = {"clip_norm": 1.0, "noise_multiplier": 1.0} | {name: bad}
    with pytest.raises(ValueError, match=f"expected {name} to lie in"):
        private(NETWORK, LOSS, **numbers, batch_size=2)
    with pytest.raises(ValueError, match=f"expected {name} to lie in"):
        Privacy(**numbers, delta=1e-5).require_valid()


@pytest.mark.parametrize("delta", [0, 1, -0.1, 1.5, float("nan")])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(ValueError, match="expected delta to lie in"):
        Privacy(1.0, 1.0, delta).require_valid()


def test_batch_norm_in_training_is_refused_by_name():
    network = nn.serial(nn.dense(3), nn.batch_norm())
    x = normal(0, (BATCH, 4))
    params, state = network.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"1 batch_norm mixes the examples of a batch"):
        clipped_sum(network, LOSS, 1.0)(params, state, x, jnp.zeros(BATCH, int))


def test_a_private_gradient_without_a_key_is_refused():
    params, state, x, target = problem()
    gradient = private(NETWORK, LOSS, clip_norm=1.0, noise_multiplier=1.0, batch_size=4)
    with pytest.raises(ValueError, match="private: expected key to be a random key, got None"):
        gradient(params, state, x, target)
