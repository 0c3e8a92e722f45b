"""Convolution with fewer multiplications: Winograd's minimal filtering F(m×m, 3×3).

For 3×3 kernels g, d of the inputs under each tile of m×m outputs (Lavin and Gray, 2016):

    y = Aᵀ [Σ_channels (Bᵀ d B) ∘ (G g Gᵀ)] A

takes 16 multiplications for m = 2 where the definition takes 36, and 36 for m = 4 where it takes
144. The elements are as many matrix products [tiles, in] · [in, out]; the transforms are sums of
strided slices. The weight gradient runs the same steps backwards: with V = Bᵀ d B and dM = A dy Aᵀ,

    ∂L/∂g = Gᵀ [Σ_tiles Vᵀ · dM] G.

The input gradient is itself such a convolution, of the deltas with the mirrored kernel. Both take
m = 2, for which the transforms cost little; the weight gradient, whose products are slower, takes
m = 4 where that saves a third of them.

For two spatial dimensions, stride 1, no dilation, no groups. A batch is worked off in chunks whose
transforms stay in the cache. Rounding errors are a few times those of the definition, for m = 4
about ten times.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks
from jaxnn.kernels.convolution.geometry import Geometry, pad, transposed_kernel
from jaxnn.kernels.opaque import always
from jaxnn.kernels.products import contract_rows

Grid = list[list[Any]]
"""Arrays in rows and columns: the elements of a tile, each over all tiles and channels."""


class Filtering(NamedTuple):
    """The matrices of F(m×m, 3×3), from Lavin and Gray (2016)."""

    B: tuple
    G: tuple
    A: tuple

    @property
    def tile(self) -> int:
        """m."""
        return len(self.A[0])

    def tiles(self, geometry: Geometry) -> tuple[int, int]:
        """How many rows and columns of tiles cover the output."""
        rows, columns = geometry.output_size
        return -(-rows // self.tile), -(-columns // self.tile)

    def multiplications(self, geometry: Geometry) -> int:
        """How many there are for an example, an input channel and an output channel."""
        return len(self.B) ** 2 * math.prod(self.tiles(geometry))


F2 = Filtering(
    B=((1, 0, 0, 0), (0, 1, -1, 1), (-1, 1, 1, 0), (0, 0, 0, -1)),
    G=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    A=((1, 0), (1, 1), (1, -1), (0, -1)),
)
F4 = Filtering(
    B=(
        (4, 0, 0, 0, 0, 0),
        (0, -4, 4, -2, 2, 4),
        (-5, -4, -4, -1, -1, 0),
        (0, 1, -1, 2, -2, -5),
        (1, 1, 1, 1, 1, 0),
        (0, 0, 0, 0, 0, 1),
    ),
    G=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    A=((1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1)),
)

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

    return map_chunks(run, _chunk_count(geometry, F2, x, weight.shape[-1]), x)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    return forward(dy, transposed_kernel(weight, 1), geometry.transposed)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [3, 3, in, out] from x and the deltas dy."""
    saves = F4.multiplications(geometry) <= F2.multiplications(geometry) * 2 / 3
    filtering = F4 if saves else F2

    def run(x, dy):
        sizes = zip(filtering.tiles(geometry), geometry.output_size, strict=True)
        padded = pad(dy, tuple((0, filtering.tile * n - size) for n, size in sizes))
        deltas = _sandwich(filtering.A, phases(padded, filtering.tile))
        return weight_products(x, deltas, geometry, filtering)

    chunks = _chunk_count(geometry, filtering, x, dy.shape[-1])
    products = sum_chunks(run, chunks, x, dy)
    return weight_of_products(products, geometry, filtering).astype(dy.dtype)


def transformed_kernel(weight: Array) -> Grid:
    """U = G g Gᵀ, a 4×4 grid of [in, out]."""
    return _sandwich(F2.G, [[weight[i, j] for j in range(3)] for i in range(3)])


def output_phases(x: Array, kernels: Grid, geometry: Geometry) -> Grid:
    """Aᵀ [V U] A: the `phases` of y, which has even sizes here."""
    products = _products(operator.matmul, _transformed_tiles(x, geometry, F2), kernels)
    return _sandwich(_transpose(F2.A), products)


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
        [_combine(factors, (1 - place, place)) for factors in F2.A] for place in (row, column)
    )
    return [[placed * (r * c) for c in of_columns] for r in of_rows]


def weight_products(x: Array, deltas: Grid, geometry: Geometry, filtering: Filtering = F2) -> Grid:
    """Vᵀ dM, a grid of [in, out] summed over all tiles."""
    return _products(contract_rows, _transformed_tiles(x, geometry, filtering), deltas)


def weight_of_products(products: Grid, geometry: Geometry, filtering: Filtering = F2) -> Array:
    """Gᵀ (Vᵀ dM) G as an array [3, 3, in, out]."""
    return jnp.stack([jnp.stack(row) for row in _sandwich(_transpose(filtering.G), products)])


def input_parts(deltas: Grid, kernels: Grid, geometry: Geometry) -> Grid:
    """B (dM Uᵀ) Bᵀ, every tile added to its neighbours: the `phases` of the padded input's dx.

    The same input gradient as above, from the deltas' dM: the tiles of dy do not overlap, those of
    dx do. They reach one row and one column of phases further.
    """
    transposed = [[kernel.T for kernel in row] for row in kernels]
    tiles = _sandwich(F2.B, _products(operator.matmul, deltas, transposed))
    columns = [[_overlap(row[j], row[j + 2], axis=2) for j in range(2)] for row in tiles]
    return [
        [_overlap(columns[i][j], columns[i + 2][j], axis=1) for j in range(2)] for i in range(2)
    ]


def input_of_parts(parts: Grid, geometry: Geometry) -> Array:
    """dx: the parts without the padding, and zeros where no tile reached."""
    reach = tuple(2 * (n + 1) for n in F2.tiles(geometry))
    pairs = zip(reach, geometry.size, geometry.padding, strict=True)
    return pad(interleave(parts, reach), tuple((-low, n + low - r) for r, n, (low, _) in pairs))


def phases(y: Array, tile: int = 2) -> Grid:
    """The square grid of y[:, i::tile, j::tile], of a y whose sizes are multiples of the tile."""
    return [[y[:, i::tile, j::tile] for j in range(tile)] for i in range(tile)]


def interleave(grid: Grid, size: tuple[int, ...]) -> Array:
    """The first rows and columns, ``size`` many, of the array whose `phases` these are."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    batch, rows, _, columns, _, channels = y.shape
    y = y.reshape(batch, 2 * rows, 2 * columns, channels)
    height, width = size
    return y[:, :height, :width]


def _transformed_tiles(x: Array, geometry: Geometry, filtering: Filtering) -> Grid:
    """V = Bᵀ d B, a grid of [batch, tile rows, tile columns, in]."""
    counts, tile, reach = filtering.tiles(geometry), filtering.tile, len(filtering.B)
    padding = tuple(
        (low, tile * n + 2 - size - low)
        for n, size, (low, _) in zip(counts, geometry.size, geometry.padding, strict=True)
    )
    padded = pad(x, padding)
    rows, columns = (tile * n for n in counts)
    tiles = [
        [padded[:, i : i + rows : tile, j : j + columns : tile] for j in range(reach)]
        for i in range(reach)
    ]
    return _sandwich(_transpose(filtering.B), tiles)


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


def _chunk_count(geometry: Geometry, filtering: Filtering, x: Array, channels: int) -> int:
    """How many chunks, where x's channels and these are transformed."""
    elements = filtering.multiplications(geometry) * (x.shape[-1] + channels)
    return chunk_count(x.shape[0], elements * x.dtype.itemsize, CHUNK_BYTES)
