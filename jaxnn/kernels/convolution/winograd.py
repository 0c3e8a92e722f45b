"""Convolution with fewer multiplications: Winograd's minimal filtering F(m×m, 3×3).

For 3×3 kernels g, d of the inputs under each tile of m×m outputs (Lavin and Gray, 2016):

    y = Aᵀ [Σ_channels (Bᵀ d B) ∘ (G g Gᵀ)] A

takes 16 multiplications for m = 2 where the definition takes 36, and 36 for m = 4 where it takes
144. With V = Bᵀ d B and U = G g Gᵀ the elements are as many matrix products V · U, [tiles, in] ·
[in, out]; the transforms are sums of strided slices. The weight gradient runs the same steps
backwards: with dM = A dy Aᵀ,

    ∂L/∂g = Gᵀ [Σ_tiles Vᵀ · dM] G.

The input gradient is itself such a convolution, of the deltas with the mirrored kernel. All take
m = 2, for which the transforms cost little. The weight gradient of a whole layer is that of
`winograd_rows`; the one here is of deltas that a pooling window has placed.

A batch is worked off in chunks whose transforms stay in the cache. Rounding errors are a few times
those of the definition.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.chunks import chunk_count, map_chunks
from jaxnn.kernels.convolution.filtering import F2
from jaxnn.kernels.convolution.geometry import Geometry, pad, transposed_kernel
from jaxnn.kernels.convolution.grids import (
    Grid,
    add_overlapping,
    combine,
    interleave,
    sandwich,
    transposed,
)
from jaxnn.kernels.convolution.winograd_rows import weight_gradient as weight_gradient
from jaxnn.kernels.products import contract_rows, products_side_by_side

TAKES = "a 3×3 kernel with stride 1 and without dilation and groups"


def applies(geometry: Geometry, inputs: int) -> bool:
    """Whether the convolution is one that this algorithm can compute."""
    return (
        geometry.kernel_size == (3, 3)
        and geometry.strides == geometry.dilation == (1, 1)
        and geometry.groups == 1
    )


CHUNK_BYTES = 4 * 2**20
"""How large the transforms of one chunk may be."""


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [3, 3, in, out]."""
    kernels = transformed_kernel(weight)

    def outputs(x: Array):
        return interleave(output_phases(x, kernels, geometry), geometry.output_size)

    return map_chunks(outputs, _chunk_count(geometry, x, weight.shape[-1]), x)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    return forward(dy, transposed_kernel(weight, 1), geometry.transposed)


def transformed_kernel(weight: Array) -> Grid:
    """U = G g Gᵀ, a 4×4 grid of [in, out]."""
    return sandwich(F2.G, [[weight[i, j] for j in range(3)] for i in range(3)])


def output_phases(x: Array, kernels: Grid, geometry: Geometry) -> Grid:
    """Aᵀ [V U] A: the `phases` of y, which has even sizes here."""
    tiles = _transformed_inputs(x, geometry)
    return sandwich(transposed(F2.A), products_side_by_side(operator.matmul, tiles, kernels))


def map_forward(function: Callable, count: int, weight: Array, x: Array) -> Any:
    """function(x), in chunks."""
    return map_chunks(function, count, x)


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


def weight_products(x: Array, deltas: Grid, geometry: Geometry) -> Grid:
    """Vᵀ dM, a grid of [in, out] summed over all tiles."""
    tiles = _transformed_inputs(x, geometry)
    return products_side_by_side(contract_rows, tiles, deltas)


def weight_of_products(products: Grid, geometry: Geometry) -> Array:
    """Gᵀ (Vᵀ dM) G as an array [3, 3, in, out]."""
    return jnp.stack([jnp.stack(row) for row in sandwich(transposed(F2.G), products)])


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


def _transformed_inputs(x: Array, geometry: Geometry) -> Grid:
    """V = Bᵀ d B, a grid of [batch, tile rows, tile columns, in]."""
    counts, tile, reach = F2.tiles(geometry), F2.tile, len(F2.B)
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
    return sandwich(transposed(F2.B), tiles)


def _chunk_count(geometry: Geometry, x: Array, channels: int) -> int:
    """How many chunks, where x's channels and these are transformed."""
    elements = F2.multiplications(geometry) * (x.shape[-1] + channels)
    return chunk_count(x.shape[0], elements * x.dtype.itemsize, CHUNK_BYTES)
