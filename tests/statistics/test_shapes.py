"""Statistics on drawn shapes: forms that are chosen by shape agree, in float32 and for no example.

The definitions stand in `test_agreement`; here every quantity is held against the
per-example gradients of the same pass, which do not choose.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn import statistics

LOSS = nn.half_squared_error()
SIZES = st.sampled_from([1, 2, 5])


def quantities(network, x):
    """From one program, with the squares and products of per-example gradients beside them."""
    params, state = started(network, x)
    target = jnp.zeros(jax.eval_shape(network.predict, params, state, x).shape, x.dtype)
    n = x.shape[0]

    @jax.jit
    def run(params, x, target):
        captures = nn.backward_pass(network, LOSS)(params, state, x, target).captures
        shares = jnp.full(n, 1 / max(n, 1), x.dtype)
        each = statistics.per_example_gradients.of(captures)
        found = {
            "norms": statistics.per_example_squared_norms.of(captures),
            "products": statistics.dot_products.of(captures),
            "second moment": statistics.gradient_second_moment.of(captures, shares),
            "sum": nn.contract(captures),
        }
        return found, each

    found, each = run(params, x, target)
    flat = [np.asarray(g, float).reshape(n, math.prod(g.shape[1:])) for g in jax.tree.leaves(each)]
    rows = np.concatenate(flat, 1)
    dtype = x.dtype
    expected = {
        "norms": (rows**2).sum(1).astype(dtype),
        "products": (rows @ rows.T).astype(dtype),
        "second moment": jax.tree.map(
            lambda g: ((np.asarray(g, float) ** 2).sum(0) / max(n, 1)).astype(dtype), each
        ),
        "sum": jax.tree.map(lambda g: np.asarray(g, float).sum(0).astype(dtype), each),
    }
    return found, expected


@pytest.mark.parametrize("bits", [32, 64])
@settings(max_examples=5, deadline=None)
@given(batch=st.sampled_from([0, 1, 3]), positions=SIZES, inputs=SIZES, outputs=SIZES)
def test_dense_layers_agree_in_every_shape(bits, batch, positions, inputs, outputs):
    with jax.enable_x64(bits == 64):
        network = nn.serial(nn.dense(outputs), nn.layer_norm())
        x = normal(0, (batch, positions, inputs), f"float{bits}")
        found, expected = quantities(network, x)
        assert_agree(found, expected, 1e-4 if bits == 32 else 1e-9)


@pytest.mark.parametrize("bits", [32, 64])
@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([0, 1, 3]),
    size=st.sampled_from([(3, 3), (2, 4), (5,)]),
    groups=st.sampled_from([1, 2]),
    strides=st.sampled_from([1, 2]),
)
def test_convolutions_agree_in_every_shape(bits, batch, size, groups, strides):
    with jax.enable_x64(bits == 64):
        network = nn.conv(2 * groups, (2,) * len(size), groups=groups, strides=strides)
        x = normal(0, (batch, *size, 2 * groups), f"float{bits}")
        found, expected = quantities(network, x)
        assert_agree(found, expected, 1e-4 if bits == 32 else 1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_at_a_single_position_agrees(groups, x64):
    network = nn.serial(nn.conv(2, (2, 3), groups=groups, padding="VALID"), nn.flatten())
    x = normal(0, (3, 2, 3, 2 * groups))
    found, expected = quantities(network, x)
    assert_agree(found, expected, 1e-12)
    arguments = (*started(network, x), x, jnp.zeros((3, 2)))
    several = {"diagonal": statistics.diagonal_ggn, "whole": statistics.fisher_information}
    measures = jax.jit(statistics.measure(network, LOSS, **several))(*arguments)
    diagonal, _ = jax.flatten_util.ravel_pytree(measures["diagonal"])
    assert_agree(diagonal, np.diag(measures["whole"]), 1e-12)


def test_no_example_has_no_norm_and_no_curvature():
    network, x = nn.serial(nn.dense(3), nn.tanh(), nn.dense(2)), jnp.zeros((0, 4))
    found, _ = quantities(network, x)
    assert found["norms"].shape == (0,)
    assert found["products"].shape == (0, 0)
    diagonal = statistics.diagonal_ggn(network, LOSS)
    curvature = jax.jit(diagonal)(*started(network, x), x, jnp.zeros((0, 2)))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves((found, curvature)))


def test_half_precision_is_squared_and_summed_in_float32():
    """Squares of 300 overflow float16."""
    network = nn.dense(2)
    x = jnp.full((3, 4), 300.0, jnp.float16)
    params = {"weight": jnp.zeros((4, 2), jnp.float16), "bias": jnp.ones(2, jnp.float16)}
    target = jnp.zeros((3, 2), jnp.float16)
    arguments = (params, (), x, target)
    norms = jax.jit(statistics.per_example_squared_norms(network, LOSS))(*arguments)
    second = jax.jit(statistics.gradient_second_moment(network, LOSS))(*arguments)
    np.testing.assert_allclose(norms, 2 + 8 * 300.0**2, rtol=1e-6)
    np.testing.assert_allclose(second["weight"], 300.0**2, rtol=1e-3)
    assert {norms.dtype, second["weight"].dtype} == {jnp.dtype("float32")}


def test_examples_that_agree_have_no_variance_in_half_precision():
    """Shares of 1/3 or a mean that were rounded to half precision would leave about 0.01."""
    network = nn.dense(2)
    x = jnp.full((3, 4), 1.1, jnp.bfloat16)
    params = {"weight": jnp.zeros((4, 2), jnp.bfloat16), "bias": jnp.full(2, 1.3, jnp.bfloat16)}
    arguments = (params, (), x, jnp.zeros((3, 2), jnp.bfloat16))
    variance = jax.jit(statistics.gradient_variance(network, LOSS))(*arguments)
    for leaf in jax.tree.leaves(variance):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, 0, atol=1e-6)
