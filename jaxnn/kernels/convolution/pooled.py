"""Convolution, bias, ReLU and 2×2 max-pooling of a chunk of the batch while it is in the cache.

One after the other, these layers write and read three arrays of the size of the convolution's
output. Here the convolution gives its output as four phases, one for each place in a pooling
window; their maximum and where it came from are all that is kept: a `uint8` that says which phase
won, or that none was positive, which is the ReLU. Backward places dy by that index and hands the
four phases of the deltas to the algorithm of the convolution.

    y = max(0, max_k a_k),   ∂L/∂a_k = dy if k won else 0,   a_k the phase k of conv(x) + bias

On GPU and TPU the same is computed from the library's convolution.
"""

import dataclasses
import functools
import math
from types import ModuleType

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks
from jaxnn.kernels.convolution import direct, phase_patches, winograd
from jaxnn.kernels.convolution.choosing import choose
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.grids import Grid, interleave, phases
from jaxnn.kernels.convolution.limits import LIMITS
from jaxnn.kernels.products import sum_rows

ALGORITHMS: dict[str, ModuleType] = {"elementwise": phase_patches, "winograd": winograd}
"""By the algorithm of the convolution alone: each gives the phases, and takes those of the deltas,
of a chunk of the batch, by functions ``transformed_kernel``, ``output_phases`` and
``map_forward``, ``placed_deltas``, ``weight_products`` and ``weight_of_products``, ``input_parts``
and ``input_of_parts``."""

NONE_WON = 4
CHUNK_BYTES = 2 * 2**20
"""How large the phases of one chunk, and what they are computed from, may be."""


def choose_phases(geometry: Geometry, weight: Array) -> str | None:
    """The algorithm that gives the phases of this convolution fastest, or None."""
    inputs, outputs = weight.shape[-2:]
    ones = (1, 1)
    if (geometry.strides, geometry.dilation, geometry.groups) != (ones, ones, 1):
        return None
    if min(geometry.output_size) < 2:
        return None
    # With pooling, Winograd's phases pay for themselves wherever its convolution alone may not.
    chosen = choose("forward", geometry, inputs, outputs, weight.dtype, LIMITS).algorithm
    if chosen == "elementwise" and (inputs > 1 or geometry.taps > LIMITS.max_taps_written_out):
        return None  # the patches of a window larger than the kernel would cost more than is saved
    return chosen if chosen in ALGORITHMS else None


def of_whole_windows(geometry: Geometry) -> Geometry:
    """The same convolution without the last row or column of an odd number of them."""
    output_size = tuple(n - n % 2 for n in geometry.output_size)
    padding = tuple(
        (low, n + reach - 1 - size - low)
        for n, reach, size, (low, _) in zip(
            output_size, geometry.extent, geometry.size, geometry.padding, strict=True
        )
    )
    return dataclasses.replace(geometry, output_size=output_size, padding=padding)


def forward(
    x: Array, weight: Array, bias: Array | None, geometry: Geometry, algorithm: str
) -> tuple[Array, Array]:
    """(y, winner), of x [batch, *size, in] and the weight [*kernel, in, out]."""

    def on_cpu(x: Array, weight: Array, bias: Array | None):
        way = ALGORITHMS[algorithm]
        kernels = way.transformed_kernel(weight)

        def pooled(x: Array):
            return pool(way.output_phases(x, kernels, geometry), bias)

        return way.map_forward(pooled, _chunks(geometry, x, weight.shape[-1]), weight, x)

    def elsewhere(x: Array, weight: Array, bias: Array | None):
        return pool(phases(direct.forward(x, weight, geometry)), bias)

    return lax.platform_dependent(x, weight, bias, cpu=on_cpu, default=elsewhere)


def input_gradient(
    dy: Array, winner: Array, weight: Array, geometry: Geometry, algorithm: str
) -> Array:
    """dx from the deltas dy [batch, rows, columns, out] of the pooled output."""

    def on_cpu(dy: Array, winner: Array, weight: Array):
        way = ALGORITHMS[algorithm]
        kernels = way.transformed_kernel(weight)

        def parts_of(dy: Array, winner: Array):
            return way.input_parts(way.placed_deltas(dy, winner), kernels, geometry)

        parts = map_chunks(parts_of, _chunks(geometry, dy, weight.shape[-2]), dy, winner)
        return way.input_of_parts(parts, geometry)

    def elsewhere(dy: Array, winner: Array, weight: Array):
        return direct.input_gradient(whole_deltas(dy, winner, geometry), weight, geometry)

    return lax.platform_dependent(dy, winner, weight, cpu=on_cpu, default=elsewhere)


def parameter_gradients(
    x: Array, winner: Array, dy: Array, geometry: Geometry, algorithm: str
) -> tuple[Array, Array]:
    """(∂L/∂weight, ∂L/∂bias) from x and the deltas dy of the pooled output."""

    def sum_won(winner: Array, dy: Array) -> Array:
        return sum_rows(jnp.where(winner < NONE_WON, dy, 0))

    def on_cpu(x: Array, winner: Array, dy: Array):
        way = ALGORITHMS[algorithm]

        def sums(x: Array, winner: Array, dy: Array):
            placed = way.placed_deltas(dy, winner)
            return way.weight_products(x, placed, geometry), sum_won(winner, dy)

        chunks = _chunks(geometry, x, dy.shape[-1])
        products, bias = sum_chunks(sums, chunks, x, winner, dy)
        return way.weight_of_products(products, geometry).astype(dy.dtype), bias.astype(dy.dtype)

    def elsewhere(x: Array, winner: Array, dy: Array):
        deltas = whole_deltas(dy, winner, geometry)
        bias = sum_won(winner, dy).astype(dy.dtype)
        return direct.weight_gradient(x, deltas, geometry), bias

    return lax.platform_dependent(x, winner, dy, cpu=on_cpu, default=elsewhere)


def pool(grid: Grid, bias: Array | None) -> tuple[Array, Array]:
    """The maximum of the phases and 0, and the index of the phase that it is."""
    elements = [a if bias is None else a + bias for row in grid for a in row]
    top = functools.reduce(jnp.maximum, elements, jnp.zeros((), elements[0].dtype))
    y, winner = jnp.zeros_like(top), jnp.full(top.shape, NONE_WON, jnp.uint8)
    for index, element in reversed(list(enumerate(elements))):
        won = ((element == top) & (element > 0)) | jnp.isnan(element)
        y, winner = jnp.where(won, element, y), jnp.where(won, jnp.uint8(index), winner)
    return y, winner


def whole_deltas(dy: Array, winner: Array, geometry: Geometry) -> Array:
    """The deltas of the convolution's output: dy where its window's maximum is, 0 elsewhere."""
    placed = phase_patches.placed_deltas(dy, winner)
    return interleave(phase_patches.as_grid(placed), geometry.output_size)


def _chunks(geometry: Geometry, a: Array, channels: int) -> int:
    """How many chunks, where a's channels and these are taken through an algorithm."""
    windows = math.prod(geometry.output_size) // 4
    example = 4 * windows * (a.shape[-1] + channels) * a.dtype.itemsize
    return chunk_count(a.shape[0], example, CHUNK_BYTES)
