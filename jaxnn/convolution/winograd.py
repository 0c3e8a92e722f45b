"""Convolution with fewer multiplications: Winograd's minimal filtering F(2×2, 3×3).

For 3×3 kernels d of the 4×4 inputs under each tile of 2×2 outputs (Lavin and Gray, 2016):

    y = Aᵀ [Σ_channels (Bᵀ d B) ∘ (G g Gᵀ)] A

takes 16 multiplications where the definition takes 36. The 16 elements are 16 matrix products
[tiles, in] · [in, out]; the transforms are additions of strided slices. The weight gradient runs
the same steps backwards: with V = Bᵀ d B and dM = A dy Aᵀ,

    ∂L/∂g = Gᵀ [Σ_tiles Vᵀ · dM] G.

The input gradient is itself such a convolution, of the deltas with the mirrored kernel.

For two spatial dimensions, stride 1, no dilation, no groups. A batch is worked off in chunks whose
transforms stay in the cache. Rounding errors are a few times those of the definition.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.captures import contract_rows
from jaxnn.convolution.chunks import chunk_count, map_chunks, sum_chunks
from jaxnn.convolution.geometry import Geometry, pad, transposed_kernel
from jaxnn.opaque import always

Grid = list[list[Any]]
"""Arrays in rows and columns: the elements of a tile, each over all tiles and channels."""

_B = ((1, 0, 0, 0), (0, 1, -1, 1), (-1, 1, 1, 0), (0, 0, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 0), (1, 1), (1, -1), (0, -1))

CHUNK_BYTES = 4 * 2**20
"""How large the transforms of one chunk may be."""


def applies(geometry: Geometry) -> bool:
    """Whether the convolution is one that this algorithm can compute."""
    return (
        geometry.kernel_size == (3, 3)
        and geometry.strides == geometry.dilation == (1, 1)
        and geometry.groups == 1
    )


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [3, 3, in, out]."""
    kernels = transformed_kernel(weight)

    def run(x):
        return interleave(output_phases(x, kernels, geometry), geometry.output_size)

    chunks = _chunk_count(geometry, x.shape[0], sum(weight.shape[-2:]), x.dtype.itemsize)
    return map_chunks(run, chunks, x)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    return forward(dy, transposed_kernel(weight, 1), geometry.transposed)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [3, 3, in, out] from x and the deltas dy."""

    def run(x, dy):
        sizes = zip(_tile_counts(geometry), geometry.output_size, strict=True)
        padded = pad(dy, tuple((0, 2 * n - size) for n, size in sizes))
        return weight_products(x, _sandwich(_A, phases(padded)), geometry)

    channels = x.shape[-1] + dy.shape[-1]
    chunks = _chunk_count(geometry, x.shape[0], channels, x.dtype.itemsize)
    return weight_of_products(sum_chunks(run, chunks, x, dy), geometry).astype(dy.dtype)


def transformed_kernel(weight: Array) -> Grid:
    """U = G g Gᵀ, a 4×4 grid of [in, out]."""
    return _sandwich(_G, [[weight[i, j] for j in range(3)] for i in range(3)])


def output_phases(x: Array, kernels: Grid, geometry: Geometry) -> Grid:
    """Aᵀ [V U] A: the `phases` of y, which has even sizes here."""
    products = _products(operator.matmul, _transformed_tiles(x, geometry), kernels)
    return _sandwich(_transpose(_A), products)


def placed_deltas(dy: Array, winner: Array) -> Grid:
    """dM = A dy Aᵀ of deltas that reach one output of each tile: dy that of index ``winner``.

    With ρ and γ the unit vectors of its row and column, dM = dy (A ρ)(A γ)ᵀ: every element is a
    product, where a general dy has sums of up to four.
    """
    index = winner.astype(dy.dtype)
    row = jnp.floor(index / 2)
    column = index - 2 * row
    placed = dy * jnp.minimum(4 - index, 1)
    of_rows, of_columns = (
        [_combine(factors, (1 - place, place)) for factors in _A] for place in (row, column)
    )
    return [[placed * (r * c) for c in of_columns] for r in of_rows]


def weight_products(x: Array, deltas: Grid, geometry: Geometry) -> Grid:
    """Vᵀ dM, a 4×4 grid of [in, out] summed over all tiles."""
    return _products(contract_rows, _transformed_tiles(x, geometry), deltas)


def weight_of_products(products: Grid, geometry: Geometry) -> Array:
    """Gᵀ (Vᵀ dM) G as an array [3, 3, in, out]."""
    return jnp.stack([jnp.stack(row) for row in _sandwich(_transpose(_G), products)])


def input_parts(deltas: Grid, kernels: Grid, geometry: Geometry) -> Grid:
    """B (dM Uᵀ) Bᵀ, every tile added to its neighbours: the `phases` of the padded input's dx.

    The same input gradient as above, from the deltas' dM: the tiles of dy do not overlap, those of
    dx do. They reach one row and one column of phases further.
    """
    transposed = [[kernel.T for kernel in row] for row in kernels]
    tiles = _sandwich(_B, _products(operator.matmul, deltas, transposed))
    columns = [[_overlap(row[j], row[j + 2], axis=2) for j in range(2)] for row in tiles]
    return [
        [_overlap(columns[i][j], columns[i + 2][j], axis=1) for j in range(2)] for i in range(2)
    ]


def input_of_parts(parts: Grid, geometry: Geometry) -> Array:
    """dx: the parts without the padding, and zeros where no tile reached."""
    reach = tuple(2 * (n + 1) for n in _tile_counts(geometry))
    pairs = zip(reach, geometry.size, geometry.padding, strict=True)
    return pad(interleave(parts, reach), tuple((-low, n + low - r) for r, n, (low, _) in pairs))


def phases(y: Array) -> Grid:
    """The 2×2 grid of y[:, i::2, j::2], of a y with even sizes."""
    return [[y[:, i::2, j::2] for j in range(2)] for i in range(2)]


def interleave(grid: Grid, size: tuple[int, ...]) -> Array:
    """The first rows and columns, ``size`` many, of the array whose `phases` these are."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    batch, rows, _, columns, _, channels = y.shape
    y = y.reshape(batch, 2 * rows, 2 * columns, channels)
    height, width = size
    return y[:, :height, :width]


def _transformed_tiles(x: Array, geometry: Geometry) -> Grid:
    """V = Bᵀ d B, a 4×4 grid of [batch, tile rows, tile columns, in]."""
    rows, columns = _tile_counts(geometry)
    padding = tuple(
        (low, 2 * n + 2 - size - low)
        for n, size, (low, _) in zip((rows, columns), geometry.size, geometry.padding, strict=True)
    )
    padded = pad(x, padding)
    tiles = [
        [padded[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for j in range(4)]
        for i in range(4)
    ]
    return _sandwich(_transpose(_B), tiles)


def _overlap(here: Array, in_next: Array, axis: int) -> Array:
    """One longer along the axis: here[q] + in_next[q − 1]."""
    edges = [(0, 0, 0)] * here.ndim
    zero = jnp.zeros((), here.dtype)
    after, before = ([*edges[:axis], edge, *edges[axis + 1 :]] for edge in ((0, 1, 0), (1, 0, 0)))
    return lax.pad(here, zero, after) + lax.pad(in_next, zero, before)


def _sandwich(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """matrix · grid · matrixᵀ."""
    left = [[_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combine(row, entries) for row in matrix] for entries in left]


def _combine(factors: Sequence[float], arrays: Sequence[Array]) -> Array:
    terms = [f * a for f, a in zip(factors, arrays, strict=True) if f != 0]
    return functools.reduce(operator.add, terms)


def _products(function: Callable, left: Grid, right: Grid) -> Grid:
    """The function of the two arrays at each place, all places side by side.

    Each product is too small to be divided among threads. And XLA for CPU would write each to the
    memory of tiles that the product before has read, so that none could begin before that one's
    end. Here a branch that is never taken, and is chosen when all products are there, reads the
    tiles: their memory stays theirs. A training step is up to a sixth shorter for it.
    """
    products = [
        [function(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(left, right, strict=True)
    ]
    operands = lax.stop_gradient((left, right))
    if not all(a.size for a in jax.tree.leaves(operands)):
        return products  # of an empty batch
    never = lax.cond(
        always(_sum_of_first(products)),
        lambda operands: False,
        lambda operands: jnp.isnan(_sum_of_first(operands)),
        operands,
    )
    products[0][0] = jnp.where(never, jnp.nan, products[0][0])
    return products


def _sum_of_first(arrays: Any) -> Array:
    firsts = [a[(0,) * a.ndim] for a in jax.tree.leaves(arrays)]
    return functools.reduce(operator.add, firsts)


def _transpose(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))


def _tile_counts(geometry: Geometry) -> tuple[int, int]:
    rows, columns = geometry.output_size
    return -(-rows // 2), -(-columns // 2)


def _chunk_count(geometry: Geometry, batch: int, channels: int, itemsize: int) -> int:
    rows, columns = _tile_counts(geometry)
    return chunk_count(batch, 16 * rows * columns * channels * itemsize, CHUNK_BYTES)
