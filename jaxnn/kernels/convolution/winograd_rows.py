"""The weight gradient of a 3×3 convolution with half the multiplications.

Minimal filtering F(m, 3) (Winograd, 1980) along the rows, a sum over taps along the columns: with
x_kj every m-th row of the padded inputs from k on, without their first j columns, and dy_k every
m-th row of the deltas,

    V_ij = Σ_k B_ki x_kj,   D_i = Σ_k A_ik dy_k,   ∂L/∂weight_kj = Σ_i G_ik V_ijᵀ · D_i.

For m = 4 these are half of the multiplications of the definition. Tiles in both directions would
save more by 36 smaller products, and lose it again to 36 strided copies, which also take long to
compile. Here a row is one axis of columns and channels together, so that every transform is a
single loop over stretches of memory; and the three j stand side by side among the channels, so that
there are m + 2 products D_iᵀ · (V_i0, V_i1, V_i2), wide enough to keep the processor busy.

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
        return lax.dot_general(
            _transformed_deltas(dy, geometry, filtering),
            _transformed_inputs(x, geometry, filtering),
            (((1,), (1,)), ((0,), (0,))),
            preferred_element_type=sum_dtype(dy.dtype),
        )

    inputs, outputs = x.shape[-1], dy.shape[-1]
    width = 3 * inputs + outputs
    example = _products(filtering, geometry) * geometry.output_size[1] * width * x.dtype.itemsize
    summed = sum_chunks(products, chunk_count(x.shape[0], example, CHUNK_BYTES), x, dy)
    summed = summed.reshape(-1, outputs, 3, inputs)
    factors = jnp.asarray(filtering.G, summed.dtype)
    return jnp.einsum("ik,iojc->kjco", factors, summed).astype(dy.dtype)


def _products(filtering: Filtering, geometry: Geometry) -> int:
    """How many there are for an example and a tap of a row."""
    return len(filtering.B) * filtering.tiles(geometry)[0]


def _transformed_inputs(x: Array, geometry: Geometry, filtering: Filtering) -> Array:
    """V, [m + 2, tiles and columns of all examples, 3 · in]."""
    tile, tiles = filtering.tile, filtering.tiles(geometry)[0]
    (low, _), (left, _) = geometry.padding
    (height, width), columns = geometry.size, geometry.output_size[1]
    padding = (low, tile * tiles + 2 - height - low), (left, columns + 2 - width - left)
    combined = _combined(transposed(filtering.B), pad(x, padding), tile, tiles)
    shifted = [combined[:, :, j : j + columns] for j in range(3)]
    return _positions(jnp.concatenate(shifted, axis=-1))


def _transformed_deltas(dy: Array, geometry: Geometry, filtering: Filtering) -> Array:
    """D, [m + 2, tiles and columns of all examples, out]."""
    tile, tiles = filtering.tile, filtering.tiles(geometry)[0]
    padded = pad(dy, ((0, tile * tiles - geometry.output_size[0]), (0, 0)))
    return _positions(_combined(filtering.A, padded, tile, tiles))


def _combined(matrix: Matrix, a: Array, tile: int, tiles: int) -> Array:
    """The matrix times the rows of every tile: [len(matrix), all tiles, columns, channels]."""
    batch, height, columns, channels = a.shape
    joined = a.reshape(batch, height, columns * channels)
    rows = [joined[:, k : k + tile * tiles : tile] for k in range(len(matrix[0]))]
    combined = jnp.stack([combine(factors, rows) for factors in matrix])
    return combined.reshape(len(matrix), batch * tiles, columns, channels)


def _positions(a: Array) -> Array:
    """[m + 2, tiles, columns, channels] with tiles and columns as one axis."""
    return a.reshape(len(a), a.shape[1] * a.shape[2], a.shape[3])
