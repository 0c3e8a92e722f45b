"""The phases of a convolution's output, for 2×2 pooling, where there is one input channel.

The kernels of the four outputs in a pooling window lie within one window of the input, one row and
one column larger than the kernel. Forward, what the taps of that window meet is shared by four sums
of multiples. Backward, with each phase's kernel at its place in the window, the phases are the
outputs of a single convolution with stride 2 and four times the features: 16 taps in place of 9 for
a 3×3 kernel, but a quarter of the patches.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.convolution import elementwise, patches
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.grids import Grid
from jaxnn.kernels.ordering import once
from jaxnn.kernels.products import contract_rows


def transformed_kernel(weight: Array) -> Array:
    """[kernel + 1, in, 4 · out] from [kernel, in, out]: every phase's own, with zeros around."""
    edges = [((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)) for i, j in _places()]
    return jnp.concatenate([jnp.pad(weight, edge) for edge in edges], axis=-1)


def output_phases(x: Array, kernel: Array, geometry: Geometry) -> Grid:
    """The phases of y, which has even sizes here."""
    height, width = geometry.kernel_size
    taps = list(patches.slices(x, _of_windows(geometry)))
    rows = [taps[start : start + width + 1] for start in range(0, len(taps), width + 1)]
    weight = kernel[:-1, :-1, :, : kernel.shape[-1] // 4]  # that of the first phase

    def phase(i: int, j: int) -> Array:
        own_taps = [tap for row in rows[i : i + height] for tap in row[j : j + width]]
        return elementwise.sum_of_multiples(own_taps, weight).astype(x.dtype)

    return [[phase(i, j) for j in range(2)] for i in range(2)]


def map_forward(function: Callable, count: int, weight: Array, x: Array) -> Any:
    """function(x), which holds nothing large by the way: there is no need for chunks."""
    return once(function, weight, x)


def placed_deltas(dy: Array, winner: Array) -> Array:
    """[batch, rows, columns, 4 · out], in each phase the deltas of the windows where it won.

    In one comparison of floating-point numbers: one of 8-bit integers XLA's CPU compiler makes into
    scalar code.
    """
    phase = jnp.arange(4, dtype=dy.dtype)[:, None]
    placed = jnp.where(winner.astype(dy.dtype)[..., None, :] == phase, dy[..., None, :], 0)
    return placed.reshape(*dy.shape[:-1], 4 * dy.shape[-1])


def as_grid(side_by_side: Array) -> Grid:
    """The four phases that lie side by side along the last axis."""
    first, second, third, fourth = jnp.split(side_by_side, 4, axis=-1)
    return [[first, second], [third, fourth]]


def weight_products(x: Array, deltas: Array, geometry: Geometry) -> Array:
    """patchesᵀ · deltas, [taps · in, 4 · out], summed over batch and windows."""
    rows = patches.unfold(x, _of_windows(geometry))
    rows = rows.reshape(*rows.shape[:-2], rows.shape[-2] * rows.shape[-1])
    return contract_rows(rows, deltas)


def weight_of_products(products: Array, geometry: Geometry) -> Array:
    """∂L/∂weight: from each phase the taps that its kernel has in the window, added up."""
    height, width = geometry.kernel_size
    grid = as_grid(products.reshape(height + 1, width + 1, -1, products.shape[-1]))
    own_taps = (grid[i][j][i : i + height, j : j + width] for i, j in _places())
    return functools.reduce(jnp.add, own_taps)


def input_parts(deltas: Array, kernel: Array, geometry: Geometry) -> Array:
    """dx, of a single part."""
    return patches.input_gradient(deltas, kernel, _of_windows(geometry))


def input_of_parts(dx: Array, geometry: Geometry) -> Array:
    """dx, which is whole."""
    return dx


def _of_windows(geometry: Geometry) -> Geometry:
    output_size = tuple(n // 2 for n in geometry.output_size)
    padding = tuple(
        (low, 2 * n + k - 1 - size - low)
        for n, k, size, (low, _) in zip(
            output_size, geometry.kernel_size, geometry.size, geometry.padding, strict=True
        )
    )
    return dataclasses.replace(
        geometry,
        output_size=output_size,
        kernel_size=tuple(k + 1 for k in geometry.kernel_size),
        strides=(2, 2),
        padding=padding,
    )


def _places() -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(2) for j in range(2))
