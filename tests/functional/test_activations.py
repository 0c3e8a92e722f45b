import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, normal

import jaxnn as nn
from jaxnn import functional

OF_JAX = {
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "tanh": jnp.tanh,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "log_sigmoid": jax.nn.log_sigmoid,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "heaviside": lambda x: jnp.heaviside(x, 0),
    "glu": jax.nn.glu,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "normalize": lambda x, axis=-1: x / jnp.linalg.norm(x, axis=axis, keepdims=True),
}
ALONG_AN_AXIS = ("softmax", "log_softmax", "normalize", "glu", "swiglu", "geglu")
ELEMENT_BY_ELEMENT = [name for name in OF_JAX if name not in ALONG_AN_AXIS]


def value_and_vjp(function, x):
    """y, and the gradient by x from a dy that differs from element to element."""

    @jax.jit
    def run(x):
        y, vjp = jax.vjp(function, x)
        return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return run(x)


@pytest.mark.parametrize("name", OF_JAX)
def test_value_and_gradient_are_those_of_jax(name, x64):
    x = normal(0, (3, 4)) * 2
    by_hand = value_and_vjp(getattr(functional, name), x)
    assert_agree(by_hand, value_and_vjp(OF_JAX[name], x), 1e-10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("leaky_relu", {"negative_slope": 0.3}),
        ("elu", {"alpha": 0.5}),
        ("celu", {"alpha": 0.5}),
        ("gelu", {"approximate": False}),
        ("glu", {"axis": 0}),
        ("softmax", {"axis": 0}),
        ("log_softmax", {"axis": -2}),
        ("normalize", {"axis": 0}),
    ],
)
def test_options_are_those_of_jax(name, options, x64):
    x = normal(0, (4, 3))
    by_hand, of_jax = (
        value_and_vjp(lambda x, f=f: f(x, **options), x)
        for f in (getattr(functional, name), OF_JAX[name])
    )
    assert_agree(by_hand, of_jax, 1e-10)


def test_gated_units_are_their_definition(x64):
    x = normal(0, (2, 6))
    for name, of_gate in (("swiglu", jax.nn.silu), ("geglu", jax.nn.gelu)):
        by_hand = value_and_vjp(getattr(functional, name), x)
        assert_agree(by_hand, value_and_vjp(lambda x, f=of_gate: x[:, :3] * f(x[:, 3:]), x), 1e-10)
    by_hand = value_and_vjp(lambda x: functional.glu(x, activation=nn.tanh()), x)
    assert_agree(by_hand, value_and_vjp(lambda x: x[:, :3] * jnp.tanh(x[:, 3:]), x), 1e-10)


@pytest.mark.parametrize("weight", [0.3, [0.3], [0.3, -0.2, 0.5]], ids=["number", "one", "many"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)], ids=len)
def test_prelu_takes_one_weight_or_one_for_each_channel(weight, shape, x64):
    def run(function):
        return jax.jit(jax.value_and_grad(function, (0, 1)))(normal(0, shape), jnp.asarray(weight))

    def expected(x, weight):
        return jnp.sum(jnp.sin(jnp.where(x > 0, x, weight * x)))

    assert_agree(run(lambda x, w: jnp.sum(jnp.sin(functional.prelu(x, w)))), run(expected), 1e-10)


def test_prelu_takes_numbers_in_the_dtype_of_x():
    assert float(functional.prelu(-2, 0.5)) == -1
    assert functional.prelu(jnp.ones(3, jnp.float16), 0.5).dtype == jnp.float16


def all_of(functions, x):
    """What the functions of elements make of x, in one program."""
    return jax.jit(lambda: {name: functions[name](x) for name in ELEMENT_BY_ELEMENT})()


FUNCTIONS = vars(functional)


@pytest.mark.parametrize(
    "x",
    [2, -1.5, True, np.arange(-2, 3), jnp.asarray([[-1], [4]], jnp.int8), np.int32(3)],
    ids=["int", "float", "bool", "numpy", "int8", "numpy number"],
)
def test_numbers_and_integers_are_taken_in_the_default_dtype(x):
    expected = all_of(OF_JAX, jnp.asarray(x, jnp.float32))
    assert_agree(all_of(FUNCTIONS, x), expected, 1e-5)
    assert functional.sigmoid(x).dtype == jnp.float32


def test_integers_are_float64_where_that_is_the_default(x64):
    assert functional.sigmoid(2).dtype == jnp.float64
    assert functional.softmax(jnp.arange(3)).dtype == jnp.float64


def test_softmax_takes_integers():
    np.testing.assert_allclose(functional.softmax(np.arange(3)), jax.nn.softmax(jnp.arange(3.0)))


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS, ids=lambda dtype: dtype.__name__)
def test_a_dtype_stays(dtype, x64):
    x = jnp.asarray([[1.0, -2.0]], dtype)
    for name in ("gelu", "softmax", "swiglu"):
        y, dx = value_and_vjp(getattr(functional, name), x)
        assert (y.dtype, dx.dtype) == (dtype, dtype), name


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 1, 3), (1, 2, 1, 2, 2)], ids=str)
def test_any_shape_is_taken(shape):
    x = normal(0, shape, np.float32)
    assert_agree(all_of(FUNCTIONS, x), all_of(OF_JAX, x), 1e-5)


def test_the_derivative_at_a_kink_is_that_of_the_left_side():
    for name, expected in (("relu", 0.0), ("leaky_relu", 0.01), ("relu6", 0.0), ("heaviside", 0.0)):
        assert float(jax.grad(getattr(functional, name))(0.0)) == pytest.approx(expected), name


def test_a_second_derivative_goes_through_the_backward_pass(x64):
    for name in ("tanh", "gelu", "silu"):
        twice = jax.grad(jax.grad(getattr(functional, name)))(0.3)
        assert_agree(twice, jax.grad(jax.grad(OF_JAX[name]))(0.3), 1e-10)


def test_functions_can_be_jitted_vmapped_and_scanned(x64):
    x = normal(0, (3, 4))

    def by_scan(function, x):
        return jax.lax.scan(lambda total, row: (total + function(row), None), jnp.zeros(4), x)[0]

    def gradients(function):
        mapped = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(jax.vmap(function)(x)))))
        scanned = jax.grad(lambda x: jnp.sum(jnp.sin(by_scan(function, x))))
        return mapped(x), scanned(x), jax.vmap(jax.grad(lambda row: function(row)[0]))(x)

    assert_agree(gradients(functional.softmax), gradients(jax.nn.softmax), 1e-10)


def test_equal_calls_share_one_compiled_program():
    from jaxnn.functional import arrays

    x = jnp.ones((3, 7))
    functional.leaky_relu(x, 0.4)
    size = arrays._compiled._cache_size()
    functional.leaky_relu(x + 1, negative_slope=0.4)
    assert arrays._compiled._cache_size() == size


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.sigmoid([1.0]), TypeError, "sigmoid: expected x to be an array, got"),
        (lambda: functional.relu("1"), TypeError, "relu: expected x to be an array, got str"),
        (lambda: functional.tanh(1j), TypeError, "tanh: expected x to be floating-point, got comp"),
        (lambda: functional.softmax(2.0), ValueError, r"axis of x, got -1 for shape \(\)"),
        (lambda: functional.softmax(jnp.ones(3), 1), ValueError, r"axis of x, got 1 for shape"),
        (lambda: functional.softmax(jnp.ones(3), "0"), TypeError, "expected axis to be an integer"),
        (lambda: functional.glu(jnp.ones(3)), ValueError, "expected n to divide the 3 elements"),
        (lambda: functional.prelu(jnp.ones(3), jnp.ones(2)), ValueError, "expected weight to be"),
        (
            lambda: functional.prelu(1.0, jnp.ones(1, int)),
            TypeError,
            "weight to be float32 as x is",
        ),
        (lambda: functional.prelu(1.0, None), TypeError, "expected weight to be an array"),
        (
            lambda: functional.glu(jnp.ones(4), activation=nn.prelu()),
            ValueError,
            "glu: expected params",
        ),
        (lambda: functional.leaky_relu(1.0, -1), ValueError, "expected negative_slope to lie in"),
        (lambda: functional.sigmoid(), TypeError, "sigmoid: missing a required argument: 'x'"),
        (lambda: functional.sigmoid(1.0, 2), TypeError, "sigmoid: too many positional arguments"),
        (lambda: functional.elu(1.0, beta=2), TypeError, "elu: got an unexpected keyword argument"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message, untyped):
    with pytest.raises(error, match=message):
        call()
