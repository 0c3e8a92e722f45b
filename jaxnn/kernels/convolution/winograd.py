"""Convolution with fewer multiplications: Winograd's minimal filtering F(m×m, 3×3).

For 3×3 kernels g, d of the inputs under each tile of m×m outputs (Lavin and Gray, 2016):

    y = Aᵀ [Σ_channels (Bᵀ d B) ∘ (G g Gᵀ)] A

takes 16 multiplications for m = 2 where the definition takes 36, and 36 for m = 4 where it takes
144. With V = Bᵀ d B and U = G g Gᵀ the elements are as many matrix products V · U, [tiles, in] ·
[in, out]; the transforms are sums of strided slices. The weight gradient runs the same steps
backwards: with dM = A dy Aᵀ,

    ∂L/∂g = Gᵀ [Σ_tiles Vᵀ · dM] G.

The input gradient is itself such a convolution, of the deltas with the mirrored kernel. Both take
m = 2, for which the transforms cost little; the weight gradient, whose products are slower, takes
m = 4 where that saves a third of them.

A batch is worked off in chunks whose transforms stay in the cache. Rounding errors are a few times
those of the definition, for m = 4 about ten times.
"""

import math
import operator
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks
from jaxnn.kernels.convolution.geometry import Geometry, pad, transposed_kernel
from jaxnn.kernels.convolution.grids import (
    Grid,
    Matrix,
    add_overlapping,
    combine,
    interleave,
    phases,
    sandwich,
    transposed,
)
from jaxnn.kernels.products import contract_rows, products_side_by_side

TAKES = "a 3×3 kernel with stride 1 and without dilation and groups"


def applies(geometry: Geometry, inputs: int) -> bool:
    """Whether the convolution is one that this algorithm can compute."""
    return (
        geometry.kernel_size == (3, 3)
        and geometry.strides == geometry.dilation == (1, 1)
        and geometry.groups == 1
    )


class Filtering(NamedTuple):
    """The matrices of F(m×m, 3×3), from Lavin and Gray (2016)."""

    B: Matrix
    G: Matrix
    A: Matrix

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


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [3, 3, in, out]."""
    kernels = transformed_kernel(weight)

    def outputs(x: Array):
        return interleave(output_phases(x, kernels, geometry), geometry.output_size)

    return map_chunks(outputs, _chunk_count(geometry, F2, x, weight.shape[-1]), x)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    return forward(dy, transposed_kernel(weight, 1), geometry.transposed)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [3, 3, in, out] from x and the deltas dy."""
    saves = F4.multiplications(geometry) <= F2.multiplications(geometry) * 2 / 3
    filtering = F4 if saves else F2

    def products(x: Array, dy: Array):
        deltas = _transformed_deltas(dy, geometry, filtering)
        return weight_products(x, deltas, geometry, filtering)

    chunks = _chunk_count(geometry, filtering, x, dy.shape[-1])
    summed = sum_chunks(products, chunks, x, dy)
    return weight_of_products(summed, geometry, filtering).astype(dy.dtype)


def transformed_kernel(weight: Array) -> Grid:
    """U = G g Gᵀ, a 4×4 grid of [in, out]."""
    return sandwich(F2.G, [[weight[i, j] for j in range(3)] for i in range(3)])


def output_phases(x: Array, kernels: Grid, geometry: Geometry) -> Grid:
    """Aᵀ [V U] A: the `phases` of y, which has even sizes here."""
    tiles = _transformed_inputs(x, geometry, F2)
    return sandwich(transposed(F2.A), products_side_by_side(operator.matmul, tiles, kernels))


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
        [combine(factors, (1 - place, place)) for factors in F2.A] for place in (row, column)
    )
    return [[placed * (r * c) for c in of_columns] for r in of_rows]


def weight_products(x: Array, deltas: Grid, geometry: Geometry, filtering: Filtering = F2) -> Grid:
    """Vᵀ dM, a grid of [in, out] summed over all tiles."""
    tiles = _transformed_inputs(x, geometry, filtering)
    return products_side_by_side(contract_rows, tiles, deltas)


def weight_of_products(products: Grid, geometry: Geometry, filtering: Filtering = F2) -> Array:
    """Gᵀ (Vᵀ dM) G as an array [3, 3, in, out]."""
    return jnp.stack([jnp.stack(row) for row in sandwich(transposed(filtering.G), products)])


def input_parts(deltas: Grid, kernels: Grid, geometry: Geometry) -> Grid:
    """B (dM Uᵀ) Bᵀ, every tile added to its neighbours: the `phases` of the padded input's dx.

    The same as `input_gradient`, from the deltas' dM: the tiles of dy do not overlap, those of dx
    do. They reach one row and one column of phases further.
    """
    back = [[kernel.T for kernel in row] for row in kernels]
    products = products_side_by_side(operator.matmul, deltas, back)
    return add_overlapping(sandwich(F2.B, products))


def input_of_parts(parts: Grid, geometry: Geometry) -> Array:
    """dx: the parts without the padding, and zeros where no tile reached."""
    reach = tuple(2 * (n + 1) for n in F2.tiles(geometry))
    pairs = zip(reach, geometry.size, geometry.padding, strict=True)
    return pad(interleave(parts, reach), tuple((-low, n + low - r) for r, n, (low, _) in pairs))


def _transformed_inputs(x: Array, geometry: Geometry, filtering: Filtering) -> Grid:
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
    return sandwich(transposed(filtering.B), tiles)


def _transformed_deltas(dy: Array, geometry: Geometry, filtering: Filtering) -> Grid:
    """dM = A dy Aᵀ, a grid of [batch, tile rows, tile columns, out]."""
    sizes = zip(filtering.tiles(geometry), geometry.output_size, strict=True)
    padded = pad(dy, tuple((0, filtering.tile * n - size) for n, size in sizes))
    return sandwich(filtering.A, phases(padded, filtering.tile))


def _chunk_count(geometry: Geometry, filtering: Filtering, x: Array, channels: int) -> int:
    """How many chunks, where x's channels and these are transformed."""
    elements = filtering.multiplications(geometry) * (x.shape[-1] + channels)
    return chunk_count(x.shape[0], elements * x.dtype.itemsize, CHUNK_BYTES)
