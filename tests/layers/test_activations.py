import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, differences, normal, passes
from hypothesis import assume, given
from hypothesis import strategies as st

import jaxnn as nn

# The layer and the same function written by others.
ACTIVATIONS = {
    "heaviside": (nn.heaviside(), lambda x: jnp.heaviside(x, 0.0)),
    "sigmoid": (nn.sigmoid(), jax.nn.sigmoid),
    "tanh": (nn.tanh(), jnp.tanh),
    "relu": (nn.relu(), jax.nn.relu),
    "leaky_relu": (nn.leaky_relu(), jax.nn.leaky_relu),
    "leaky_relu(0.3)": (nn.leaky_relu(0.3), lambda x: jax.nn.leaky_relu(x, 0.3)),
    "elu": (nn.elu(), jax.nn.elu),
    "elu(0.5)": (nn.elu(0.5), lambda x: jax.nn.elu(x, 0.5)),
    "selu": (nn.selu(), jax.nn.selu),
    "gelu by tanh": (nn.gelu(), jax.nn.gelu),
    "gelu": (nn.gelu(approximate=False), lambda x: jax.nn.gelu(x, approximate=False)),
    "silu": (nn.silu(), jax.nn.silu),
    "softplus": (nn.softplus(), jax.nn.softplus),
    "softmax": (nn.softmax(), jax.nn.softmax),
    "log_softmax": (nn.log_softmax(), jax.nn.log_softmax),
}
# Away from the kink at 0, where libraries choose differently.
POINTS = np.array([-1e4, -90, -20, -3, -1, -0.1, -1e-7, 1e-300, 1e-7, 0.1, 1, 3, 20, 90, 1e4])
POINTWISE = [name for name in ACTIVATIONS if "softmax" not in name]


def run(layer, x, dy=None):
    return passes(layer, (), (), x, dy)[:2]


def every(layer, inputs):
    """`run` of several inputs in one program."""
    return jax.jit(lambda inputs: [run(layer, x) for x in inputs])(inputs)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives_agree_with_jax(name, x64):
    layer, reference = ACTIVATIONS[name]
    x = jnp.asarray(np.concatenate([POINTS, normal(0, (32,))])[None])
    dy = normal(1, x.shape)

    @jax.jit
    def by_jax(x, dy):
        expected, vjp = jax.vjp(reference, x)
        return expected, *vjp(dy), layer.predict((), (), x)

    expected, expected_dx, predicted = by_jax(x, dy)
    assert_agree(predicted, expected, 1e-14)
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, dx, _ = both(layer, (), (), x, dy)
        assert_agree(y, expected, 1e-14)
        assert_agree(dx, expected_dx, 1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_layer_keeps_the_laws(name):
    nn.check_layer(ACTIVATIONS[name][0], normal(0, (3, 4)) * 3).require()


TORCH = {
    "sigmoid": lambda torch: torch.nn.Sigmoid(),
    "tanh": lambda torch: torch.nn.Tanh(),
    "relu": lambda torch: torch.nn.ReLU(),
    "leaky_relu": lambda torch: torch.nn.LeakyReLU(),
    "elu(0.5)": lambda torch: torch.nn.ELU(0.5),
    "selu": lambda torch: torch.nn.SELU(),
    "gelu by tanh": lambda torch: torch.nn.GELU(approximate="tanh"),
    "gelu": lambda torch: torch.nn.GELU(),
    "silu": lambda torch: torch.nn.SiLU(),
    "softmax": lambda torch: torch.nn.Softmax(-1),
    "log_softmax": lambda torch: torch.nn.LogSoftmax(-1),
}


@pytest.mark.parametrize("name", TORCH)
def test_values_and_derivatives_agree_with_pytorch(name, x64):
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    # 0 is among the points: the derivatives at the kinks are PyTorch's too, but for elu and selu,
    # whose kinks are met by no other point.
    points = np.concatenate([POINTS[1:-1], [0.0], np.random.default_rng(0).normal(size=33)])[None]
    dy = np.random.default_rng(1).normal(size=points.shape)
    x = torch.tensor(points, requires_grad=True)
    expected = TORCH[name](torch)(x)
    expected.backward(torch.tensor(dy))
    y, dx = run(ACTIVATIONS[name][0], jnp.asarray(points), jnp.asarray(dy))
    assert_agree(y, expected.detach().numpy(), 1e-12)
    assert_agree(dx, x.grad.numpy(), 1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward_agrees_with_numerical_differentiation(name, x64):
    layer, _ = ACTIVATIONS[name]
    x = normal(0, (2, 3))
    dy = normal(1, x.shape)
    _, dx = run(layer, x, dy)
    reference = differences(jax.jit(lambda x: jnp.sum(layer.predict((), (), x) * dy)), x)
    assert_agree(dx, reference, 1e-7)


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("heaviside", 0, 0),
        ("sigmoid", 0.5, 0.25),
        ("tanh", 0, 1),
        ("relu", 0, 0),
        ("leaky_relu", 0, 0.01),
        ("leaky_relu(0.3)", 0, 0.3),
        ("elu", 0, 1),
        ("elu(0.5)", 0, 0.5),
        ("gelu", 0, 0.5),
        ("gelu by tanh", 0, 0.5),
        ("silu", 0, 0.5),
        ("softplus", np.log(2), 0.5),
    ],
)
def test_the_derivative_at_zero_is_that_of_the_left_side(name, value, slope, x64):
    layer, _ = ACTIVATIONS[name]

    @jax.jit
    def with_autodiff(x):
        return run(layer, x), jax.grad(lambda x: layer.predict((), (), x).sum())(x)

    (y, dx), autodiff = with_autodiff(jnp.asarray([0.0, -0.0]))
    np.testing.assert_allclose(y, [value] * 2, rtol=1e-15)
    np.testing.assert_allclose(dx, [slope] * 2, rtol=1e-15)
    np.testing.assert_allclose(dx, autodiff, rtol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_input_of_any_dtype_changes_the_dtype_or_overflows(name, x64):
    layer, reference = ACTIVATIONS[name]
    points = np.array([[-1e4, -300, -20, -1, -0.0, 0, 1e-7, 1e-40, 1, 20, 300, 1e4]])
    inputs = [jnp.asarray(points, dtype) for dtype in HALVES_AND_FLOATS]
    outputs = every(layer, inputs)
    # Against float64, to the precision of the dtype.
    expected = jax.jit(lambda inputs: [reference(x.astype(float)) for x in inputs])(inputs)
    for dtype, (y, dx), wide in zip(HALVES_AND_FLOATS, outputs, expected, strict=True):
        assert (y.dtype, dx.dtype) == (dtype, dtype)
        assert np.all(np.isfinite(np.asarray(y, float)))
        assert np.all(np.isfinite(np.asarray(dx, float)))
        assert_agree(np.asarray(y, float), wide, 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "heaviside"])
def test_nan_passes_through(name):
    y, _ = run(ACTIVATIONS[name][0], jnp.asarray([[1.0, np.nan]]))
    assert np.isnan(y[0, 1])


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("heaviside", 0, 1),
        ("sigmoid", 0, 1),
        ("tanh", -1, 1),
        ("relu", 0, np.inf),
        ("leaky_relu", -np.inf, np.inf),
        ("elu(0.5)", -0.5, np.inf),
        ("softplus", 0, np.inf),
    ],
)
def test_limits_at_infinity(name, low, high):
    y, dx = run(ACTIVATIONS[name][0], jnp.asarray([[-np.inf, np.inf]]))
    np.testing.assert_allclose(y, [[low, high]])
    assert np.all(np.isfinite(dx))


@given(
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    axis=st.integers(-1, 3),
    seed=st.integers(0, 100),
)
def test_softmax_along_any_axis_agrees_with_vjp(shape, axis, seed):
    axis = axis if 0 < axis < len(shape) else -1
    assume(shape[axis])  # the maximum of nothing has no definition

    pairs = [(nn.softmax, jax.nn.softmax), (nn.log_softmax, jax.nn.log_softmax)]

    def by_jax(function, x, dy):
        expected, vjp = jax.vjp(lambda x: function(x, axis), x)
        return expected, *vjp(dy)

    @jax.jit
    def both(x, dy):
        return [(run(make(axis), x, dy), by_jax(function, x, dy)) for make, function in pairs]

    with jax.enable_x64(True):
        for (y, dx), (expected, expected_dx) in both(normal(seed, shape), normal(seed + 1, shape)):
            assert_agree(y, expected, 1e-14)
            assert_agree(dx, expected_dx, 1e-10)


def test_the_jacobian_of_softmax_is_diag_y_minus_y_y_transposed(x64):
    x = normal(0, (1, 5))
    rows = jax.jit(jax.vmap(lambda dy: run(nn.softmax(), x, dy[None])[1][0]))(np.eye(5))
    y = np.asarray(run(nn.softmax(), x)[0][0])
    assert_agree(rows, np.diag(y) - np.outer(y, y), 1e-14)


def test_softmax_is_invariant_to_a_shift_of_any_size(x64):
    x = np.asarray(normal(0, (3, 4)))
    y, low, high = (run(nn.softmax(), jnp.asarray(x + shift))[0] for shift in (0, -1e4, 1e4))
    assert_agree((low, high), (y, y), 1e-11)


def test_softmax_gives_an_infinitely_negative_logit_no_probability():
    x = jnp.asarray([[0.0, -jnp.inf, 0.0]])
    y, dx = run(nn.softmax(), x, jnp.asarray([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(y, [[0.5, 0, 0.5]])
    np.testing.assert_allclose(dx, [[-0.5, 0, 0.5]])


def test_selu_keeps_mean_zero_and_variance_one(x64):
    y = np.asarray(nn.selu().predict((), (), normal(0, (200_000,))))
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.02


@pytest.mark.parametrize("alpha", [0, 0.0])
def test_elu_with_alpha_zero_is_relu(alpha, x64):
    x, dy = normal(0, (2, 8)), normal(1, (2, 8))
    y, dx = run(nn.elu(alpha), x, dy)
    expected_y, expected_dx = run(nn.relu(), x, dy)
    assert_agree(y, expected_y, 0)
    assert_agree(dx, expected_dx, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.leaky_relu(-0.1), r"leaky_relu: expected negative_slope to lie in \[0, inf\)"),
        (lambda: nn.elu(-1.0), r"elu: expected alpha to lie in \[0, inf\), got -1"),
        (lambda: nn.elu(float("nan")), "elu: expected alpha to lie in"),
        (lambda: nn.softmax(0), "softmax: expected axis not to be 0, the batch"),
        (lambda: nn.log_softmax(0), "log_softmax: expected axis not to be 0, the batch"),
        (lambda: nn.softmax(2).predict((), (), jnp.ones((2, 3))), "got 2 for shape"),
        (lambda: nn.softmax(-2).predict((), (), jnp.ones((2, 3))), "got -2 for shape"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.leaky_relu("a"), "leaky_relu: expected negative_slope to be a Python number"),
        (lambda: nn.leaky_relu(np.float64(0.1)), "leaky_relu: expected negative_slope to be a Pyt"),
        (lambda: nn.elu(None), "elu: expected alpha to be a Python number, got None"),
        (lambda: nn.gelu("tanh"), "gelu: expected approximate to be True or False, got 'tanh'"),
        (lambda: nn.softmax("a"), "softmax: expected axis to be an integer, got 'a'"),
        (lambda: nn.softmax(True), "softmax: expected axis to be an integer, got True"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(make, message, untyped):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_integers_are_refused(name, untyped):
    layer, _ = ACTIVATIONS[name]
    with pytest.raises(TypeError, match=f"{layer.name}: expected x to be floating-point, got int"):
        layer.predict((), (), jnp.ones((2, 2), int))


@pytest.mark.parametrize("name", POINTWISE)
def test_any_shape_is_kept(name):
    inputs = [np.ones(shape, np.float32) for shape in [(0, 3), (1,), (2, 0), (2, 1, 3)]]
    for x, (y, dx) in zip(inputs, every(ACTIVATIONS[name][0], inputs), strict=True):
        assert y.shape == dx.shape == x.shape
