"""Convolution as sums of multiples, where few channels of a group are added up; else by patches.

Depthwise convolutions, and those of images with one channel or three: a product whose inner axis is
so short is hardly one. For each tap t of the kernel and channel i of a group

    y = Σ_t Σ_i x_ti · w_ti,   ∂L/∂w_ti = Σ_batch Σ_position x_ti · dy

with x_ti what tap t meets of channel i in every window, and dx is the same sum as y: of the deltas,
spread by the strides, and the mirrored kernel. Each pass is one loop over the arrays; that of the
weight gradient adds up blocks of rows of each example, and their sums are added up after it. So the
rounding errors stay small, and devices may divide the batch.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.convolution import patches
from jaxnn.kernels.convolution.geometry import (
    Geometry,
    pad,
    spread,
    to_groups,
    transposed_kernel,
)
from jaxnn.kernels.ordering import once
from jaxnn.kernels.products import sum_dtype

MOST_CHANNELS = 8
"""Channels of a group that are added up one by one: a sum of more is a product."""
MOST_ADDED_BACK = 9
"""Multiples of dy that are added to dx faster than dy is spread by the strides."""
BLOCK = 1024
"""How many positions are added up one after the other."""


def _with_derivative_of(product: Callable) -> Callable:
    """Makes a pass one whose derivative, by JAX, is that of the same as a product.

    Of a sum of multiples JAX would make as many sums as there are terms.
    """

    def decorated(function: Callable) -> Callable:
        @partial(jax.custom_jvp, nondiff_argnums=(2,))
        @functools.wraps(function)
        def run(a: Array, b: Array, geometry: Geometry) -> Array:
            return function(a, b, geometry)

        @run.defjvp
        def differentiated(geometry: Geometry, primals: tuple, tangents: tuple):
            tangent = jax.jvp(partial(product, geometry=geometry), primals, tangents)[1]
            return run(*primals, geometry), tangent

        return run

    return decorated


@_with_derivative_of(patches.forward)
def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [*kernel, in of a group, out]."""
    if weight.shape[-2] > MOST_CHANNELS:
        return patches.forward(x, weight, geometry)

    def of_windows(x: Array) -> Array:
        taps = patches.slices(x, geometry)
        return sum_of_multiples(taps, weight, geometry.groups).astype(x.dtype)

    return once(of_windows, weight, x)


def sum_of_multiples(taps: Iterable[Array], weight: Array, groups: int = 1) -> Array:
    """y in the dtype of sums, from what each tap meets, [batch, *output_size, in]."""
    by_tap = to_groups(_wide(weight).reshape(-1, *weight.shape[-2:]), groups)
    terms = (
        a * w
        for tap, of_tap in zip(taps, by_tap, strict=True)
        for a, w in zip(_by_channel(tap, groups), of_tap, strict=True)
    )
    y = functools.reduce(jnp.add, terms)
    return y.reshape(*y.shape[:-2], weight.shape[-1])


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    is_depthwise = weight.shape[-2] == 1 and weight.shape[-1] == geometry.groups
    if is_depthwise and geometry.taps <= MOST_ADDED_BACK:
        multiples = (_wide(dy) * w for w in _wide(weight).reshape(geometry.taps, -1))
        return patches.fold(multiples, geometry).astype(dy.dtype)
    if weight.shape[-1] > MOST_CHANNELS * geometry.groups:
        return patches.input_gradient(dy, weight, geometry)
    kernel = transposed_kernel(weight, geometry.groups)
    return forward(spread(dy, geometry), kernel, geometry.transposed)


@_with_derivative_of(patches.weight_gradient)
def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [*kernel, in of a group, out] from x and the deltas dy."""
    inputs = x.shape[-1] // geometry.groups
    if inputs > MOST_CHANNELS:
        return patches.weight_gradient(x, dy, geometry)
    count, height = _blocks_of_rows(geometry)
    rows, *others = geometry.output_size
    filled = _with_more_rows(geometry, count * height - rows)
    dy = pad(dy, ((0, count * height - rows), *((0, 0) for _ in others)))

    def blocks(a: Array) -> Array:
        return a.reshape(len(a), count, height, *a.shape[2:])

    deltas = to_groups(_wide(blocks(dy)), geometry.groups)
    terms = tuple(
        a * deltas
        for tap in patches.slices(x, filled)
        for a in _by_channel(blocks(tap), geometry.groups)
    )
    # All in one loop: x and dy are read once, not for each of the sums.
    zeros = (jnp.zeros((), deltas.dtype),) * len(terms)
    of_a_block = tuple(range(2, 2 + geometry.dimensions))
    sums = lax.reduce(terms, zeros, partial(jax.tree.map, operator.add), of_a_block)
    total = jnp.sum(jnp.stack(sums), (1, 2))
    return total.reshape(*geometry.kernel_size, inputs, dy.shape[-1]).astype(dy.dtype)


def _blocks_of_rows(geometry: Geometry) -> tuple[int, int]:
    """How many blocks of an example's deltas there are, and how many rows one has."""
    rows, *others = geometry.output_size
    count = -(-rows // max(1, BLOCK // math.prod(others)))
    return count, -(-rows // count)


def _with_more_rows(geometry: Geometry, more: int) -> Geometry:
    """The same convolution with so many more rows of y, for which x is padded."""
    (rows, *others), ((low, high), *of_others) = geometry.output_size, geometry.padding
    padding = ((low, high + more * geometry.strides[0]), *of_others)
    return dataclasses.replace(geometry, output_size=(rows + more, *others), padding=padding)


def _by_channel(tap: Array, groups: int) -> list[Array]:
    """[..., in] as one [..., groups, 1] in the dtype of sums for each channel of a group."""
    a = to_groups(_wide(tap), groups)
    return [a[..., i, None] for i in range(a.shape[-1])]


def _wide(a: Array) -> Array:
    return a.astype(sum_dtype(a.dtype))
