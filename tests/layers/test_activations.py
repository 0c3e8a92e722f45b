import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, differences, normal, passes
from hypothesis import assume, given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.statistics import per_example_gradients, per_example_squared_norms

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
    "celu": (nn.celu(), jax.nn.celu),
    "celu(0.5)": (nn.celu(0.5), lambda x: jax.nn.celu(x, 0.5)),
    "mish": (nn.mish(), jax.nn.mish),
    "softsign": (nn.softsign(), jax.nn.soft_sign),
    "hard_tanh": (nn.hard_tanh(), lambda x: jnp.clip(x, -1, 1)),
    "hard_tanh(-2, 0.5)": (nn.hard_tanh(-2.0, 0.5), lambda x: jnp.clip(x, -2, 0.5)),
    "hard_sigmoid": (nn.hard_sigmoid(), jax.nn.hard_sigmoid),
    "hard_swish": (nn.hard_swish(), jax.nn.hard_swish),
    "relu6": (nn.relu6(), jax.nn.relu6),
    "log_sigmoid": (nn.log_sigmoid(), jax.nn.log_sigmoid),
    "softmax": (nn.softmax(), jax.nn.softmax),
    "log_softmax": (nn.log_softmax(), jax.nn.log_softmax),
}
# Away from the kinks, where libraries choose differently.
POINTS = np.array(
    [-1e4, -90, -20, -2.9, -1.1, -0.1, -1e-7, 1e-300, 1e-7, 0.1, 1.1, 2.9, 20, 90, 1e4]
)
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
        ("celu", 0, 1),
        ("celu(0.5)", 0, 1),
        ("mish", 0, 0.6),
        ("softsign", 0, 1),
        ("hard_tanh", 0, 1),
        ("hard_sigmoid", 0.5, 1 / 6),
        ("hard_swish", 0, 0.5),
        ("relu6", 0, 0),
        ("log_sigmoid", -np.log(2), 0.5),
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


# Values and derivatives as PyTorch 2.13 prints them in float64, its kinks at ±3, ±1, 6 and 0.
PRINTED_AT = [-40.0, -6, -3, -1, -0.5, 0, 0.5, 1, 3, 6, 40]
PRINTED = {
    "hard_sigmoid": (
        [0, 0, 0, 1 / 3, 5 / 12, 0.5, 7 / 12, 2 / 3, 1, 1, 1],
        [0, 0, 0, 1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6, 0, 0, 0],
    ),
    "hard_swish": (
        [0, 0, 0, -1 / 3, -0.20833333333333334, 0, 0.2916666666666667, 2 / 3, 3, 6, 40],
        [0, 0, 0, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1, 1, 1],
    ),
    "mish": (
        [
            *[-1.6993417021166355e-16, -0.014854080479424995, -0.1456474612756246],
            *[-0.30340146137410895, -0.22074377465173, 0, 0.3752452113048951],
            *[0.8650983882673103, 2.9865350049679575, 5.999926634065252, 40],
        ],
        [
            *[-1.6568581595637197e-16, -0.01235996793178131, -0.09339311453232084],
            *[0.059216755877395014, 0.28951067791351226, 0.6, 0.8864243753577272],
            *[1.0490362200997922, 1.0211069109294435, 1.00013414050621, 1],
        ],
    ),
    "relu6": ([0, 0, 0, 0, 0, 0, 0.5, 1, 3, 6, 6], [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]),
    "hard_tanh": (
        [-1, -1, -1, -1, -0.5, 0, 0.5, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0],
    ),
    "softsign": (
        [-40 / 41, -6 / 7, -0.75, -0.5, -1 / 3, 0, 1 / 3, 0.5, 0.75, 6 / 7, 40 / 41],
        [1 / 1681, 1 / 49, 0.0625, 0.25, 4 / 9, 1, 4 / 9, 0.25, 0.0625, 1 / 49, 1 / 1681],
    ),
    "log_sigmoid": (
        [
            *[-40, -6.00247568513773, -3.048587351573742, -1.3132616875182228],
            *[-0.9740769841801067, -0.6931471805599453, -0.4740769841801067],
            *[-0.31326168751822286, -0.04858735157374206, -0.0024756851377304495],
            -4.248354255291589e-18,
        ],
        [
            *[1, 0.9975273768433652, 0.9525741268224333, 0.7310585786300049, 0.6224593312018545],
            *[0.5, 0.37754066879814546, 0.2689414213699951, 0.04742587317756679],
            *[0.0024726231566347748, 4.248354255291589e-18],
        ],
    ),
    "celu(0.5)": (
        [
            *[-0.5, -0.49999692789382333, -0.4987606239116668, -0.43233235838169365],
            *[-0.31606027941427883, 0, 0.5, 1, 3, 6, 40],
        ],
        [
            *[1.8048513878454153e-35, 6.14421235332821e-06, 0.0024787521766663585],
            *[0.1353352832366127, 0.36787944117144233, 1, 1, 1, 1, 1, 1],
        ],
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_values_and_derivatives_are_those_that_pytorch_prints_kinks_included(name, x64):
    values, slopes = PRINTED[name]

    @jax.jit
    def with_autodiff(x):
        layer = ACTIVATIONS[name][0]
        return run(layer, x), jax.grad(lambda x: layer.predict((), (), x).sum())(x)

    (y, dx), autodiff = with_autodiff(jnp.asarray([PRINTED_AT]))
    np.testing.assert_allclose(y[0], values, rtol=1e-12)
    np.testing.assert_allclose(dx[0], slopes, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(dx, autodiff, rtol=1e-12, atol=1e-15)


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
        ("celu(0.5)", -0.5, np.inf),
        ("hard_tanh(-2, 0.5)", -2, 0.5),
        ("hard_sigmoid", 0, 1),
        ("hard_swish", 0, np.inf),
        ("relu6", 0, 6),
        ("log_sigmoid", -np.inf, 0),
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


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("make", [nn.softmax, nn.log_softmax])
def test_a_sum_over_more_classes_than_a_half_can_count_does_not_overflow(make, dtype):
    x, dy = jnp.zeros((1, 100_000), dtype), jnp.ones((1, 100_000), dtype)
    y, dx = run(make(), x, dy)
    expected = 1e-5 if make is nn.softmax else np.log(1e-5)
    np.testing.assert_allclose(np.asarray(y, float), expected, rtol=1e-2)
    np.testing.assert_allclose(np.asarray(dx, float), 0, atol=3e-2)  # the rounding of y


@pytest.mark.parametrize("name", ["gelu", "gelu by tanh", "silu", "mish", "hard_swish", "softsign"])
def test_the_derivative_at_infinity_is_that_of_the_limit(name):
    x = jnp.asarray([[-jnp.inf, jnp.inf]])
    _, dx = run(ACTIVATIONS[name][0], x)
    np.testing.assert_array_equal(dx, [[0, 0 if name == "softsign" else 1]])


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
        (lambda: nn.celu(0.0), r"celu: expected alpha to lie in \(0, inf\), got 0"),
        (lambda: nn.hard_tanh(1.0, 1.0), r"hard_tanh: expected low to lie in \(-inf, 1\), got 1"),
        (lambda: nn.prelu(float("inf")), "prelu: expected negative_slope to lie in"),
        (lambda: nn.prelu(per_channel=True).init(None, jnp.ones(2)), "x to have at least 2 axes"),
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


PRELU_X = [[-1.0, 0, 2], [-3, -4, -0.5]]
PRELU_DY = [[1.0, 2, 3], [4, 5, 6]]


def test_prelu_by_channel_is_that_of_pytorch(x64):
    params = {"scale": jnp.asarray([0.1, -0.2, 0.5])}
    layer = nn.prelu(per_channel=True)
    y, dx, gradients = passes(layer, params, (), jnp.asarray(PRELU_X), jnp.asarray(PRELU_DY))
    np.testing.assert_allclose(y, [[-0.1, 0, 2], [-0.3, 0.8, -0.25]])
    np.testing.assert_allclose(dx, [[0.1, -0.4, 3], [0.4, -1, 3]])
    np.testing.assert_allclose(gradients["scale"], [-13, -20, -3])


def test_prelu_with_one_slope_is_that_of_every_channel_with_the_same(x64):
    x, dy = jnp.asarray(PRELU_X), jnp.asarray(PRELU_DY)
    y, dx, gradients = passes(nn.prelu(), {"scale": jnp.asarray([0.3])}, (), x, dy)
    apart = passes(nn.prelu(per_channel=True), {"scale": jnp.full(3, 0.3)}, (), x, dy)
    assert_agree((y, dx), apart[:2], 1e-15)
    np.testing.assert_allclose(gradients["scale"], [-36])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 4, 3), (2, 0, 3)])
def test_prelu_keeps_the_laws_for_any_shape(per_channel, shape):
    nn.check_layer(nn.prelu(per_channel=per_channel), np.ones(shape) - 1.5).require()
    params, _ = nn.prelu(0.1, per_channel=per_channel).init(None, jnp.ones(shape))
    np.testing.assert_allclose(params["scale"], [0.1] * (3 if per_channel else 1), rtol=1e-6)


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_examples_of_prelu_have_gradients_of_their_own(per_channel, x64):
    layer, x, target = nn.prelu(per_channel=per_channel), normal(0, (3, 2, 4)), normal(1, (3, 2, 4))
    params, state = layer.init(None, x)
    loss = nn.half_squared_error()

    def of_one(x, t):
        return nn.autodiff(layer, loss)(params, state, x[None], t[None])[1]

    expected = jax.vmap(of_one)(x, target)
    assert_agree(per_example_gradients(layer, loss)(params, state, x, target), expected, 1e-12)
    norms = per_example_squared_norms(layer, loss)(params, state, x, target)
    assert_agree(norms, jnp.sum(expected["scale"] ** 2, -1), 1e-12)


def test_the_slope_of_prelu_in_half_precision_is_summed_in_float32():
    x = jnp.full((4096, 1), -1, jnp.bfloat16)
    params, _ = nn.prelu().init(None, x)
    _, _, gradients = passes(nn.prelu(), params, (), x)
    assert float(gradients["scale"][0]) == -4096


def test_prelu_refuses_other_channels_and_another_dtype():
    layer = nn.prelu(per_channel=True)
    params, _ = layer.init(None, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="prelu: expected the last axis of x to be 3, got 4"):
        layer.predict(params, (), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="prelu: expected x to be float32 as its parameters are"):
        nn.prelu().predict({"scale": jnp.ones(1)}, (), jnp.ones((2, 4), jnp.float16))


def test_the_slope_of_log_softmax_is_not_that_of_a_rounded_y():
    # y is −8.7 everywhere, which bfloat16 rounds to −8.6875: e^y would be 1.2 % too large.
    x = jnp.zeros((1, 6000), jnp.bfloat16)
    layer = nn.log_softmax()
    dx, _ = layer.backward((), layer.forward((), (), x, None)[2], jnp.full_like(x, 128))
    np.testing.assert_allclose(np.asarray(dx, float), 0, atol=1e-3)
