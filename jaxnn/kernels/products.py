"""Sums and products, in the dtype, the layout and the memory that they need."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.opaque import always

SMALL_PRODUCT = 2**21
"""The most multiplications of a product that XLA's CPU compiler makes faster on inputs transposed
in memory: it has another routine for them, which takes one core and starts sooner."""


def sum_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of sums: those of half-precision numbers lose digits unless they run in float32."""
    return jnp.promote_types(dtype, jnp.float32)


def rows_of(a: Array) -> Array:
    """[*, features] as [rows, features]."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def sum_rows(a: Array) -> Array:
    """Σ a, [features], over all axes but the last, in the dtype of sums."""
    return jnp.sum(a, axis=tuple(range(a.ndim - 1)), dtype=sum_dtype(a.dtype))


def add_all(*terms: Array) -> Array:
    """The sum of arrays of one dtype, in that of sums, and in theirs again."""
    wide = sum_dtype(terms[0].dtype)
    return functools.reduce(operator.add, (a.astype(wide) for a in terms)).astype(terms[0].dtype)


def norm_along(x: Array, axes: tuple[int, ...]) -> Array:
    """‖x‖ along axes, which stay with size 1; the derivatives at 0 are 0.

    Of x divided by its largest element, whose square neither overflows nor vanishes.
    """
    largest = lax.stop_gradient(jnp.max(abs(x), axes, keepdims=True, initial=0))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.sum(jnp.square(x / unit), axes, keepdims=True)
    zero = squares == 0
    return unit * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def contract_rows(inputs: Array, deltas: Array) -> Array:
    """Σ inputsᵀ · deltas, [in, out], over all axes of [*, in] and [*, out] but the last.

    In the dtype of sums, and as a plain product of matrices: XLA's CPU compiler makes it faster
    than a batch of one product. It would be faster still on inputs transposed in memory (see
    `contract_axes`); but the compiler makes such a copy as early as the forward pass and keeps it,
    as large as the residuals.
    """
    dtype = sum_dtype(deltas.dtype)
    return jnp.matmul(rows_of(inputs).T, rows_of(deltas), preferred_element_type=dtype)


def contract_axes(inputs: Array, deltas: Array) -> Array:
    """`contract_rows`, [in, out] in the dtype of sums, of axes that are not joined to one before.

    So devices may divide any of them. XLA's CPU compiler transposes the inputs in memory: faster,
    for one more array of their size.
    """
    axes = tuple(range(inputs.ndim - 1))
    dtype = sum_dtype(deltas.dtype)
    return jnp.tensordot(inputs, deltas, (axes, axes), preferred_element_type=dtype)


def contract_small_rows(inputs: Array, deltas: Array) -> Array:
    """`contract_rows`, on a CPU of inputs transposed in memory where the product is small."""
    rows = rows_of(inputs)
    if rows.size * deltas.shape[-1] <= SMALL_PRODUCT:
        rows = lax.platform_dependent(rows.T, cpu=lax.optimization_barrier, default=lambda a: a).T
    return contract_rows(rows, deltas)


def products_side_by_side(product: Callable, left: Any, right: Any) -> Any:
    """``product(a, b)`` of the arrays at each place of two trees, none waiting for another.

    Each product is too small to be divided among threads. And XLA for CPU would write each to the
    memory of operands that the product before has read, so that none could begin before that one's
    end. Here a branch that is never taken, and is chosen when all products are there, reads the
    operands: their memory stays theirs.
    """
    products, treedef = jax.tree.flatten(jax.tree.map(product, left, right))
    operands = lax.stop_gradient(jax.tree.leaves((left, right)))
    if all(a.size for a in operands):  # none where the batch is empty
        never = lax.cond(
            always(_sum_of_first(products)),
            lambda operands: False,
            lambda operands: jnp.isnan(_sum_of_first(operands)),
            operands,
        )
        products[0] = jnp.where(never, jnp.nan, products[0])
    return treedef.unflatten(products)


def _sum_of_first(arrays: list[Array]) -> Array:
    return functools.reduce(operator.add, (a[(0,) * a.ndim] for a in arrays))
