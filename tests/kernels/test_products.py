import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal

from jaxnn.kernels.products import (
    SMALL_PRODUCT,
    contract_axes,
    contract_rows,
    contract_small_rows,
    products_side_by_side,
    sum_dtype,
    sum_rows,
)

CONTRACTIONS = [contract_rows, contract_axes, contract_small_rows]


@pytest.mark.parametrize("contract", CONTRACTIONS)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (0, 4)])
def test_contractions_are_the_sum_of_outer_products(contract, shape, x64):
    inputs, deltas = normal(0, (*shape, 3)), normal(1, (*shape, 2))
    expected = jnp.einsum("...i,...o->io", inputs, deltas)
    assert_agree(jax.jit(contract)(inputs, deltas), expected, 1e-12)


def test_a_product_above_the_small_ones_is_the_same_sum():
    inputs, deltas = normal(0, (64, 512), np.float32), normal(1, (64, 128), np.float32)
    assert inputs.size * deltas.shape[-1] > SMALL_PRODUCT
    assert_agree(contract_small_rows(inputs, deltas), contract_axes(inputs, deltas), 1e-6)


@pytest.mark.parametrize("contract", CONTRACTIONS)
def test_contractions_of_half_precision_are_summed_in_float32(contract):
    ones = jnp.ones((2048, 1), jnp.bfloat16)  # in bfloat16 the sum would stop at 256
    total = contract(ones, ones)
    assert (total.dtype, float(total[0, 0])) == (jnp.float32, 2048)


def test_sums_of_rows_run_in_float32_at_least():
    total = sum_rows(jnp.ones((64, 32, 1), jnp.float16))
    assert (total.dtype, float(total[0])) == (jnp.float32, 2048)
    assert [sum_dtype(d) for d in (jnp.bfloat16, jnp.float32, jnp.float64)] == [
        *(jnp.float32, jnp.float32, jnp.float64)
    ]


def operands(batch=4):
    left = [[normal(10 * i + j, (batch, 3, 2)) for j in range(2)] for i in range(3)]
    right = [[normal(100 + 10 * i + j, (2, 5)) for j in range(2)] for i in range(3)]
    return left, right


def plain_products(function, left, right):
    return [
        [function(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(left, right, strict=True)
    ]


@pytest.mark.parametrize("batch", [0, 4])
def test_products_side_by_side_are_the_products(batch, x64):
    run, plain = (
        jax.jit(lambda left, right, all_of=all_of: all_of(jnp.matmul, left, right))
        for all_of in (products_side_by_side, plain_products)
    )
    assert_agree(run(*operands(batch)), plain(*operands(batch)), 1e-12)


def test_products_side_by_side_have_the_derivatives_of_the_products(x64):
    def total(all_of, operands):
        return sum(jnp.sum(a**3) for a in jax.tree.leaves(all_of(jnp.matmul, *operands)))

    gradient, expected = (
        jax.jit(jax.grad(lambda operands, all_of=all_of: total(all_of, operands)))(operands())
        for all_of in (products_side_by_side, plain_products)
    )
    assert_agree(gradient, expected, 1e-12)


def test_products_side_by_side_can_be_mapped(x64):
    left, right = operands()
    run, plain = (
        jax.vmap(lambda left, all_of=all_of: all_of(jnp.matmul, left, right))(left)
        for all_of in (products_side_by_side, plain_products)
    )
    assert_agree(run, plain, 1e-12)


def test_operands_that_are_not_numbers_stay_so_alone(x64):
    left, right = operands()
    left[0][0] = left[0][0].at[0, 0, 0].set(jnp.nan)
    products = jax.jit(lambda a, b: products_side_by_side(jnp.matmul, a, b))(left, right)
    np.testing.assert_array_equal(
        np.isnan(products), np.isnan(plain_products(jnp.matmul, left, right))
    )
