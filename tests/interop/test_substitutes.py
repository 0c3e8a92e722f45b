import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal
from jax import lax

from jaxnn.interop.substitutes import substitute


def equation_of(function, *operands):
    (equation,) = jax.make_jaxpr(function)(*operands).eqns
    return equation


def convolution(numbers, **options):
    def function(x, w):
        return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)

    return function


CASES = {
    "channels last": (
        convolution(("NHWC", "HWIO", "NHWC"), window_strides=(1, 1), padding="SAME"),
        (1, 6, 5, 3),
        (3, 3, 3, 4),
    ),
    "channels first, strided, in groups": (
        convolution(
            ("NCHW", "OIHW", "NCHW"),
            window_strides=(2, 1),
            padding=[(1, 0), (2, 1)],
            feature_group_count=2,
        ),
        (2, 4, 6, 5),
        (4, 2, 3, 3),
    ),
    "one dimension, dilated": (
        convolution(("NWC", "WIO", "NWC"), window_strides=(1,), padding="VALID", rhs_dilation=(2,)),
        (1, 9, 2),
        (3, 2, 2),
    ),
    "pooled channels first": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 2), (1, 1, 2, 2), "SAME"),
        (2, 3, 6, 5),
    ),
    "pooled without a batch": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (1, 2, 1), "VALID"),
        (5, 4, 3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_mapped_over_examples_it_has_the_values_and_the_gradient_of_the_operation(case, x64):
    function, shape, *kernel = CASES[case]
    operands = [normal(0, shape), *(normal(1, s) for s in kernel)]
    faster = substitute(equation_of(function, *operands))
    assert faster is not None
    x = normal(2, (3, *shape))

    def value(f):
        return lambda x: jnp.sum(jnp.sin(jax.vmap(lambda a: f(a, *operands[1:]))(x)))

    for f, reference in ((jax.vmap(lambda a: faster(a, *operands[1:])), value(function)),):
        assert_agree(f(x), jax.vmap(lambda a: function(a, *operands[1:]))(x), 1e-10)
        assert_agree(jax.grad(value(faster))(x), jax.grad(reference)(x), 1e-10)


@pytest.mark.parametrize("case", ["channels last", "one dimension, dilated"])
def test_mapped_over_kernels_it_is_the_operation(case, x64):
    function, shape, kernel = CASES[case]
    x, kernels = normal(0, shape), normal(1, (3, *kernel))
    faster = substitute(equation_of(function, x, kernels[0]))
    assert_agree(
        jax.vmap(faster, (None, 0))(x, kernels), jax.vmap(function, (None, 0))(x, kernels), 1e-10
    )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (
            convolution(
                ("NHWC", "HWIO", "NHWC"),
                window_strides=(1, 1),
                padding=[(1, 1), (1, 1)],
                lhs_dilation=(2, 2),
            ),
            [(1, 4, 4, 2), (3, 3, 2, 2)],
        ),
        (
            lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), [(2, 0), (0, 0)]),
            [(4, 4)],
        ),
        (lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 1), "VALID"), [(4, 4)]),
    ],
    ids=["a spread input", "a window of padding alone", "a sum"],
)
def test_what_is_not_known_stays_the_operation(function, shapes):
    assert substitute(equation_of(function, *(np.ones(s, np.float32) for s in shapes))) is None
