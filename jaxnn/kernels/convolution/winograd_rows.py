"""The weight gradient of a 3×3 convolution with half the multiplications.

Minimal filtering F(m, 3) (Winograd, 1980) along the rows, a sum over taps along the columns: with
x_kj every m-th row of the padded inputs from k on, without their first j columns, and dy_k every
m-th row of the deltas,

    V_ij = Σ_k B_ki x_kj,   D_i = Σ_k A_ik dy_k,   ∂L/∂weight_kj = Σ_i G_ik V_ijᵀ · D_i.

These are m + 2 products for each tap of a row where the definition has 3 m; for m = 4 half of them.
Tiles in both directions would save more by 36 smaller products, and lose it again to 36 strided
copies, which also take long to compile. Here a row is one axis of columns and channels together:
every transform is a single loop over stretches of memory.

A batch is worked off in chunks whose transforms stay in the cache. Rounding errors are a few times
those of the definition.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.chunks import chunk_count, sum_chunks
from jaxnn.kernels.convolution.filtering import F2, F4, Filtering
from jaxnn.kernels.convolution.geometry import Geometry, pad
from jaxnn.kernels.convolution.grids import Matrix, combine, transposed
from jaxnn.kernels.products import sum_dtype

CHUNK_BYTES = 4 * 2**20
"""How large the transforms of one chunk may be."""


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [3, 3, in, out] from x and the deltas dy."""
    filtering = min(F2, F4, key=lambda f: _products(f, geometry))

    def products(x: Array, dy: Array):
        deltas = _transformed_deltas(dy, geometry, filtering)
        return [
            lax.dot_general(
                inputs,
                deltas,
                (((1,), (1,)), ((0,), (0,))),
                preferred_element_type=sum_dtype(dy.dtype),
            )
            for inputs in _transformed_inputs(x, geometry, filtering)
        ]

    width = 3 * x.shape[-1] + dy.shape[-1]
    example = _products(filtering, geometry) * geometry.output_size[1] * width * x.dtype.itemsize
    summed = sum_chunks(products, chunk_count(x.shape[0], example, CHUNK_BYTES), x, dy)
    factors = jnp.asarray(filtering.G, summed[0].dtype)
    return jnp.einsum("ik,jico->kjco", factors, jnp.stack(summed)).astype(dy.dtype)


def _products(filtering: Filtering, geometry: Geometry) -> int:
    """How many there are for an example and a tap of a row."""
    return len(filtering.B) * filtering.tiles(geometry)[0]


def _transformed_inputs(x: Array, geometry: Geometry, filtering: Filtering) -> list[Array]:
    """V for each j: arrays [m + 2, tiles and columns of all examples, in]."""
    tile, tiles = filtering.tile, filtering.tiles(geometry)[0]
    (low, _), (left, _) = geometry.padding
    height, width = geometry.size
    channels, columns = x.shape[-1], geometry.output_size[1]
    padding = (low, tile * tiles + 2 - height - low), (left, columns + 2 - width - left)
    padded = _joined(pad(x, padding))
    each = [
        [
            padded[:, k : k + tile * tiles : tile, j * channels : (j + columns) * channels]
            for k in range(len(filtering.B))
        ]
        for j in range(3)
    ]
    return [_combined(transposed(filtering.B), rows, channels) for rows in each]


def _transformed_deltas(dy: Array, geometry: Geometry, filtering: Filtering) -> Array:
    """D, [m + 2, tiles and columns of all examples, out]."""
    tile, tiles = filtering.tile, filtering.tiles(geometry)[0]
    padded = _joined(pad(dy, ((0, tile * tiles - geometry.output_size[0]), (0, 0))))
    return _combined(filtering.A, [padded[:, k::tile] for k in range(tile)], dy.shape[-1])


def _combined(matrix: Matrix, rows: list[Array], channels: int) -> Array:
    combined = jnp.stack([combine(factors, rows) for factors in matrix])
    positions = combined[0].size // max(channels, 1)
    return combined.reshape(len(combined), positions, channels)


def _joined(a: Array) -> Array:
    """[batch, rows, columns, channels] with the last two axes as one."""
    return a.reshape(*a.shape[:2], a.shape[2] * a.shape[3])
