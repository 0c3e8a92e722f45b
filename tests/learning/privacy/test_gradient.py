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
from jaxnn.rewrites.precision import DOUBLE_AFTER, adjust_scale

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


@cache
def _half(dtype):
    """A network of half precision, two batches of one example, and their targets."""
    network = nn.serial(nn.conv(4, (3, 3)), nn.relu(), nn.flatten(), nn.dense(16), nn.dense(3))
    x = normal(0, (2, 8, 8, 2), dtype)
    return network, *started(network, x), x


def norm_of(gradients):
    return np.sqrt(sum((np.asarray(g, float) ** 2).sum() for g in jax.tree.leaves(gradients)))


@pytest.mark.parametrize("clip_norm", [1e-4, 0.1])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_no_rounding_makes_an_example_reach_beyond_the_clip_norm(dtype, clip_norm):
    network, params, state, x = _half(dtype)
    compute = clipped_sum(network, LOSS, clip_norm)

    @jax.jit
    def both(example):
        arguments = (params, state, example, jnp.array([1]))
        return compute(*arguments)[1], compute.sums(*arguments)[1].gradient

    for size in (0.1, 1.0, 8.0):
        for gradients in both(x[:1] * jnp.asarray(size, dtype)):
            assert 0.99 * clip_norm < norm_of(gradients) <= clip_norm


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_sum_is_the_float32_one_rounded_towards_zero(dtype):
    network, params, state, x = _half(dtype)
    compute = clipped_sum(network, LOSS, 1.0)
    arguments = (params, state, x, jnp.array([1, 2]))
    (_, _), rounded = jax.jit(compute)(*arguments)
    (_, _), (sums, _) = jax.jit(compute.sums)(*arguments)
    step = float(jnp.finfo(dtype).eps)
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(sums), strict=True):
        assert (a.dtype, b.dtype) == (jnp.dtype(dtype), jnp.dtype("float32"))
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert np.all((np.abs(a) <= np.abs(b)) & (np.abs(a - b) <= step * np.abs(b) + 6e-8))


def test_the_noise_of_half_precision_parameters_is_added_in_float32():
    """Steps of bfloat16 near the sum, 2⁸ · 2⁻⁸, are larger than the noise: it is not lost in them
    but for the last rounding."""
    network = nn.dense(64, use_bias=False)
    params, x = {"weight": jnp.zeros((1, 64), jnp.bfloat16)}, jnp.ones((1, 1), jnp.bfloat16)
    options = {"clip_norm": 8.0, "noise_multiplier": 0.01, "batch_size": 1}
    gradient = private(network, nn.half_squared_error(), **options)
    arguments = (params, (), x, -jnp.ones((1, 64), jnp.bfloat16), jax.random.key(0))
    (_, _), gradients = jax.jit(gradient)(*arguments)
    assert gradients["weight"].dtype == jnp.bfloat16
    noise = np.asarray(gradients["weight"], float) - 1
    assert 0.04 < noise.std() < 0.16


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_an_example_whose_norm_is_not_finite_adds_nothing(bad):
    network = nn.serial(nn.conv(3, (2, 2)), nn.flatten(), nn.dense(3))
    loss = nn.half_squared_error()  # its gradient for 1e30 has a square beyond float32
    x, target = normal(0, (BATCH, 3, 3, 1), jnp.float32), jnp.zeros((BATCH, 3), jnp.float32)
    params, state = started(network, x)
    spoilt = x.at[1].set(bad)
    compute = jax.jit(clipped_sum(network, loss, 1.0))
    (_, _), found = compute(params, state, spoilt, target, None, jnp.ones(BATCH))
    (_, _), expected = compute(params, state, x, target, None, jnp.ones(BATCH).at[1].set(0))
    assert_agree(found, expected, 1e-6)
    gradient = private(network, loss, clip_norm=1.0, noise_multiplier=1.0, batch_size=4)
    _, noisy = jax.jit(gradient)(params, state, spoilt, target, jax.random.key(0))
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(noisy))


def test_stacked_layers_leave_out_an_example_that_is_not_finite():
    network = nn.serial(nn.embedding(4, 3), nn.repeat(nn.serial(nn.dense(3), nn.tanh()), 2))
    loss = nn.half_squared_error()
    ids, target = jnp.array([[0, 1], [2, 2], [3, 3]]), jnp.zeros((3, 2, 3))
    params, state = started(network, ids)
    params[0]["weight"] = params[0]["weight"].at[3].set(jnp.nan)
    compute = jax.jit(clipped_sum(network, loss, 1.0))
    (_, _), found = compute(params, state, ids, target)
    (_, _), expected = compute(params, state, ids[:2], target[:2])
    assert_agree(found, expected, 1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 1.0, 2.5, 0.0), (0.0,) * BATCH])
def test_an_example_of_weight_0_counts_as_absent_whatever_it_holds(weights, x64):
    params, state, x, target = problem()
    weights = jnp.array(weights)
    holding = jnp.where((weights == 0)[:, None, None, None], jnp.nan, x)
    options = {"clip_norm": 0.1, "noise_multiplier": 1.0, "batch_size": 4}
    for gradient, key in (
        (clipped_sum(NETWORK, LOSS, 0.1), None),
        (private(NETWORK, LOSS, **options), jax.random.key(0)),
    ):
        found, expected = (
            jax.jit(gradient)(params, state, data, target, key, weights) for data in (holding, x)
        )
        present = np.asarray(weights) > 0
        values = [
            np.where(present, r[0][0], 0) if key is None else r[0][0] for r in (found, expected)
        ]
        np.testing.assert_allclose(*values, rtol=1e-12)
        assert_agree(found[1], expected[1], 1e-12)


@pytest.mark.parametrize("make", [clipped_sum, private])
def test_parts_of_a_batch_have_sums_that_add_up_and_are_finished_once(make, x64):
    params, state, x, target = problem()
    options = {"noise_multiplier": 1.0, "batch_size": 4} if make is private else {}
    gradient = make(NETWORK, LOSS, clip_norm=0.1, **options)
    key = jax.random.key(3)

    @jax.jit
    def in_parts(params, x, target):
        network_key, finish_key = gradient.split(key)
        values, total = [], None
        for part in (slice(2), slice(2, None)):
            arguments = (params, state, x[part], target[part], network_key)
            (own, _), sums = gradient.sums(*arguments)
            values.append(own)
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return gradient.finish(params, state, jnp.concatenate(values), None, total, finish_key)

    assert_agree(
        in_parts(params, x, target), jax.jit(gradient)(params, state, x, target, key), 1e-10
    )


def test_equal_gradient_functions_are_one_value_that_prints_as_what_makes_it():
    makes = {"clip_norm": 1.0, "noise_multiplier": 2, "batch_size": 4}
    for make in (
        lambda: clipped_sum(NETWORK, LOSS, 1.0),
        lambda: private(NETWORK, LOSS, **makes),
    ):
        assert make() == make()
        assert hash(make()) == hash(make())
    expected = "private(dense(2), hinge(), clip_norm=1.0, noise_multiplier=2, batch_size=4)"
    assert repr(private(nn.dense(2), nn.hinge(), **makes)) == expected


@pytest.mark.parametrize("make", [clipped_sum, private])
def test_a_network_that_is_none_is_refused_by_name(make, untyped):
    options = {"noise_multiplier": 1.0, "batch_size": 4} if make is private else {}
    with pytest.raises(TypeError, match=f"{make.__name__}: expected network to be a Layer"):
        make(nn.dense, LOSS, clip_norm=1.0, **options)


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


def test_a_layer_that_mixes_examples_without_saying_so_is_found_out():
    center = nn.parameter_free(
        "center", lambda x: (x - x.mean(0), ()), lambda _, dy: dy - dy.mean(0)
    )
    network = nn.serial(nn.dense(3), center, nn.dense(3))
    x = normal(0, (BATCH, 4))
    params, state = started(network, x)
    options = {"clip_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 4}
    for gradient in (clipped_sum(network, LOSS, 1.0), private(network, LOSS, **options)):
        with pytest.raises(ValueError, match=rf"{gradient.name}: .* but 1 center mixes"):
            jax.eval_shape(gradient, params, state, x, jnp.zeros(BATCH, int), jax.random.key(0))


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


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32"])
def test_the_bound_holds_for_ids_of_every_integer_dtype(dtype):
    network = nn.serial(nn.embedding(300, 8), nn.global_avg_pool())
    ids = jnp.full((1, 3), 120, dtype)
    params, state = network.init(jax.random.key(0), ids)
    clipped = clipped_sum(network, nn.softmax_cross_entropy(), 0.01)
    _, gradients = clipped(params, state, ids, jnp.array([1]))
    assert 0.0099 < jnp.linalg.norm(gradients[0]["weight"]) <= 0.01


def test_the_scale_of_float16_does_not_grow_where_no_gradient_would_shrink_it():
    network = nn.with_precision(nn.dense(2), nn.POLICIES["float16"])
    x, labels = jnp.ones((3, 4)), jnp.array([0, 1, 0])
    params, state = network.init(jax.random.key(0), x)
    late = state._replace(finite_steps=jnp.int32(DOUBLE_AFTER - 1))
    options = {"clip_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 3}
    gradient = private(network, nn.softmax_cross_entropy(), **options)
    for compute in (gradient, nn.accumulate(gradient, 2, network=network)):
        run = jax.jit(adjust_scale(compute))
        (_, after), _ = run(params, late, x, labels, jax.random.key(1))
        assert after.scale == state.scale
