import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import HALVES_AND_FLOATS, assert_agree, initialized, normal, passes, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn

LAYERS = {"layer_norm": nn.layer_norm(), "batch_norm": nn.batch_norm()}


def reference(name, params, x, epsilon=1e-5):
    axes = -1 if name == "layer_norm" else tuple(range(x.ndim - 1))
    normalized = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + epsilon)
    return params["scale"] * normalized + params["offset"]


@pytest.mark.parametrize("name", LAYERS)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    features=st.integers(1, 4),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_value_and_backward_agree_with_the_formula(name, shape, features, scale):
    layer = LAYERS[name]
    with jax.enable_x64(True):
        x, dy = scale * np.asarray(normal(0, (*shape, features))), normal(1, (*shape, features))
        params, state = started(layer, x)

        @jax.jit
        def both(params, x, dy):
            expected, vjp = jax.vjp(lambda params, x: reference(name, params, x), params, x)
            return passes(layer, params, state, x, dy), (expected, *reversed(vjp(dy)))

        (y, dx, gradients), (expected, expected_dx, expected_gradients) = both(params, x, dy)
        dx, expected_dx, dy = map(np.asarray, (dx, expected_dx, dy))
        assert_agree(y, expected, 1e-12)
        # One example or feature leaves nothing of x: the gradients by x and scale are rounding.
        floor = 1e-12 * np.linalg.norm(dy) / min(scale, 1)
        assert np.linalg.norm(dx - expected_dx) <= 1e-10 * np.linalg.norm(expected_dx) + floor
        assert_agree(gradients, expected_gradients, 1e-10)


def test_batch_norm_keeps_the_laws():
    nn.check_layer(nn.batch_norm(), normal(0, (3, 2, 4))).require()


def test_layer_norm_agrees_with_pytorch(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    x = normal(0, (5, 4))
    params, _ = started(nn.layer_norm(), x)
    scale, offset = (torch.tensor(np.asarray(params[k])) for k in ("scale", "offset"))
    expected = torch.nn.functional.layer_norm(torch.tensor(np.asarray(x)), (4,), scale, offset)
    y = jax.jit(nn.layer_norm().predict)(params, (), x)
    assert_agree(y, expected.numpy(), 1e-12)


def test_batch_norm_agrees_with_pytorch_in_training_and_inference(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    x = jnp.asarray(2 * np.asarray(normal(0, (5, 4))) + 1)
    peer = torch.nn.BatchNorm1d(4, momentum=0.1, dtype=torch.float64)
    params, state = nn.batch_norm().init(None, x)
    y, state, _ = jax.jit(nn.batch_norm().forward)(params, state, x, None)
    assert_agree(y, peer(torch.tensor(np.asarray(x))).detach().numpy(), 1e-12)
    assert_agree(state["mean"], peer.running_mean.numpy(), 1e-12)
    # PyTorch keeps the unbiased variance, n / (n - 1) of this one.
    unbiased = (np.asarray(state["variance"]) - 0.9) * 5 / 4 + 0.9
    assert_agree(unbiased, peer.running_var.numpy(), 1e-12)
    peer.running_var[:] = torch.tensor(np.asarray(state["variance"]))
    expected = peer.eval()(torch.tensor(np.asarray(x))).detach().numpy()
    assert_agree(jax.jit(nn.batch_norm().predict)(params, state, x), expected, 1e-12)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_dtype_of_the_input_is_that_of_everything(name, dtype, x64):
    layer = LAYERS[name]

    @jax.jit
    def run(x):
        params, state = layer.init(None, x)
        return params, layer.forward(params, state, x, None)[:2], passes(layer, params, state, x)

    leaves = jax.tree.leaves(run(jnp.asarray([[1, 2], [3, 5]], dtype)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", LAYERS)
def test_half_precision_deviations_beyond_256_do_not_overflow(name):
    x = jnp.asarray([[0, 2000], [2000, 0]], jnp.float16)  # deviations of ±1000
    params, state = LAYERS[name].init(None, x)
    dy = jnp.asarray([[1, 0], [0, 0]], jnp.float16)
    y, dx, _ = passes(LAYERS[name], params, state, x, dy)
    np.testing.assert_allclose(y, [[-1, 1], [1, -1]], rtol=1e-3)
    assert np.all(np.isfinite(dx))


def test_batch_norm_of_one_example_gives_the_offset_and_no_gradient():
    x = jnp.asarray([[3.0, -2.0]])
    params, state = started(LAYERS["batch_norm"], x)
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, dx, gradients = both(LAYERS["batch_norm"], params, state, x)
        np.testing.assert_array_equal(y, np.asarray(params["offset"])[None])
        np.testing.assert_array_equal(dx, np.zeros((1, 2)))
        np.testing.assert_array_equal(gradients["scale"], np.zeros(2))


def test_layer_norm_of_one_feature_gives_the_offset_and_no_gradient():
    x = jnp.asarray([[3.0], [-2.0]])
    params, state = started(LAYERS["layer_norm"], x)
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, dx, _ = both(LAYERS["layer_norm"], params, state, x)
        np.testing.assert_array_equal(y, np.broadcast_to(params["offset"], (2, 1)))
        np.testing.assert_array_equal(dx, np.zeros((2, 1)))


@pytest.mark.parametrize("name", LAYERS)
def test_a_shift_and_a_scale_of_the_input_change_nothing(name, x64):
    x = np.asarray(normal(0, (6, 5)))
    params, state = started(LAYERS[name], x)
    y, shifted = (passes(LAYERS[name], params, state, v)[0] for v in (x, 1e6 * x + 1e4))
    assert_agree(shifted, y, 1e-4)  # epsilon is what differs


def test_the_running_statistics_converge_to_those_of_the_data(x64):
    layer, x = nn.batch_norm(momentum=0.5), 4 * np.asarray(normal(0, (50, 3))) + 2
    params, state = initialized(layer, x)
    forward = jax.jit(layer.forward)
    for _ in range(50):
        y, state, _ = forward(params, state, x, None)
    assert_agree(state, {"mean": x.mean(0), "variance": x.var(0)}, 1e-12)
    assert_agree(jax.jit(layer.predict)(params, state, x), y, 1e-10)


def test_inference_does_not_mix_examples(x64):
    x = normal(0, (4, 3))
    params, state = started(nn.batch_norm(), x)
    predict = jax.jit(nn.batch_norm().predict)
    together = np.asarray(predict(params, state, x))
    assert_agree(predict(params, state, np.asarray(x)[:1]), together[:1], 1e-15)


NORMS = LAYERS | {"group_norm": nn.group_norm(8), "group_norm of one": nn.group_norm(1)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("value", [123.456, 1000.1, -60000.0])
@pytest.mark.parametrize("name", NORMS)
def test_nothing_is_left_of_a_constant_input(name, value, dtype):
    for shape in ((4, 768), (4, 14, 14, 64)):
        x = jnp.full(shape, value, dtype)
        params, state = NORMS[name].init(None, x)
        for both in (passes, passes.__wrapped__):  # with jit and without
            y, dx, _ = both(NORMS[name], params, state, x)
            assert np.abs(np.asarray(y, float)).max() <= 1e-3
            assert np.abs(np.asarray(dx, float)).max() <= 1e-3


@pytest.mark.parametrize("name", NORMS)
def test_a_mean_far_larger_than_the_deviations_is_subtracted_to_its_last_digit(name):
    x = 1e4 + np.round(np.asarray(normal(0, (8, 16, 16))) * 64) / 64  # exact in float32
    layer = NORMS[name]
    params, state = layer.init(None, jnp.asarray(x, jnp.float32))
    y, _, _ = passes(layer, params, state, jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(float), (params, state))
        expected, _, _ = passes(layer, *wide, jnp.asarray(x, float))
    # A float32 near 10,000 is rounded to 1/1024.
    assert_agree(np.asarray(y, float), np.asarray(expected), 1e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_half_precision_costs_the_rounding_of_the_results_alone(name, dtype):
    layer, x, dy = NORMS[name], *(normal(seed, (4, 6, 64), dtype) for seed in (0, 1))
    params, state = started(layer, x)
    narrow = passes(layer, params, state, x, dy)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (params, state, x, dy))
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(passes(layer, *wide)), strict=True):
        assert_agree(np.asarray(a, float), np.asarray(b, float), float(jnp.finfo(dtype).eps))


def test_large_half_precision_gradients_of_a_norm_do_not_overflow():
    x = jnp.asarray([[0, 0, 0, 1]], jnp.float16)
    params, state = nn.layer_norm().init(None, x)
    _, dx, _ = passes(nn.layer_norm(), params, state, x, jnp.full((1, 4), 50000, jnp.float16))
    assert np.isfinite(np.asarray(dx)).all()


EVERY_NORM = NORMS | {"rms_norm": nn.rms_norm(), "instance_norm": nn.instance_norm()}


@pytest.mark.parametrize("size", [1e30, 1e-30])
@pytest.mark.parametrize("name", EVERY_NORM)
def test_numbers_whose_squares_are_no_float32_are_normalised(name, size):
    layer, dy = EVERY_NORM[name], normal(1, (4, 6, 8), jnp.float32)
    x = jnp.float32(size) * (normal(0, (4, 6, 8), jnp.float32) + 1)
    params, state = started(layer, x)
    found = passes(layer, params, state, x, dy)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, float), (params, state, x, dy))
        expected = jax.tree.map(lambda a: a.astype(jnp.float32), passes(layer, *wide))
    assert_agree(found, expected, 1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 1e-38, 1e-12, 1.0, 1e30])
def test_the_unit_of_deviations_changes_no_ordinary_number(epsilon, x64):
    x = normal(0, (4, 8), jnp.float32)
    params, _ = started(nn.layer_norm(epsilon), x)
    y, _, _ = passes(nn.layer_norm(epsilon), params, (), x)
    expected = reference("layer_norm", params, np.asarray(x, float), epsilon)
    assert_agree(np.asarray(y, float), np.asarray(expected), 1e-6)


@pytest.mark.parametrize("name", EVERY_NORM)
def test_a_norm_computes_in_at_least_float32_under_any_policy(name):
    assert EVERY_NORM[name].wide


def test_batch_norm_at_rest_has_the_same_params_and_state_and_mixes_nothing():
    layer, x = nn.batch_norm(0.5, 1e-3), normal(0, (4, 3))
    rest = layer.at_rest()
    params, state = started(layer, x)
    assert_trees_all_equal(rest.init(None, x), layer.init(None, x))
    y, new_state, _ = rest.forward(params, state, x, None)
    assert_trees_all_equal(y, layer.predict(params, state, x))
    assert_trees_all_equal(new_state, state)
    assert (layer.mixes, rest.mixes, rest.at_rest()) == (True, False, rest)
    nn.check_layer(rest, np.asarray(x)).require()


def test_batch_norm_says_that_it_mixes_examples_and_layer_norm_does_not():
    x = normal(0, (3, 2))
    for name, mixed_by in [("batch_norm", "batch_norm"), ("layer_norm", None)]:
        params, state = LAYERS[name].init(None, x)
        _, _, residuals = LAYERS[name].forward(params, state, x, None)
        assert LAYERS[name].backward(params, residuals, x)[1].mixes == mixed_by


def test_batch_norm_refuses_to_train_on_an_empty_batch():
    x = jnp.ones((0, 3))
    params, state = nn.batch_norm().init(None, x)
    with pytest.raises(ValueError, match="batch_norm: expected at least one example"):
        nn.batch_norm().forward(params, state, x, None)
    assert nn.batch_norm().predict(params, state, x).shape == (0, 3)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((2, 4)), ValueError, "expected the last axis of x to be 3, got 4"),
        (jnp.ones(3), ValueError, "expected x to have at least 2 axes"),
        (jnp.ones((2, 3), int), TypeError, "expected x to be floating-point"),
        (jnp.ones((2, 3), jnp.float16), TypeError, "expected x to be float32 as its parameters"),
    ],
)
def test_an_unfit_input_is_refused(name, x, error, message):
    params, state = LAYERS[name].init(None, jnp.ones((2, 3)))
    with pytest.raises(error, match=f"{name}: {message}"):
        LAYERS[name].forward(params, state, x, None)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: nn.layer_norm(-1e-5), ValueError),
        (lambda: nn.batch_norm(epsilon=-1.0), ValueError),
        (lambda: nn.batch_norm(momentum=1.1), ValueError),
        (lambda: nn.batch_norm("a"), TypeError),
        (lambda: nn.layer_norm(np.float64(1e-5)), TypeError),
    ],
)
def test_wrong_arguments_are_refused(make, error, untyped):
    with pytest.raises(error, match=r"_norm: expected (epsilon|momentum) to"):
        make()
