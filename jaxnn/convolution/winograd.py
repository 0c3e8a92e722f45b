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

from jaxnn.convolution.geometry import Geometry, pad, transposed_kernel

Grid = list[list[Any]]
"""Arrays in rows and columns: the elements of a tile, each over all tiles and channels."""

_B = ((1, 0, 0, 0), (0, 1, -1, 1), (-1, 1, 1, 0), (0, 0, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 0), (1, 1), (1, -1), (0, -1))

CHUNK_BYTES = 8 * 2**20
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
    kernels = _transformed_kernel(weight)

    def run(x):
        products = _each(operator.matmul, _transformed_tiles(x, geometry), kernels)
        y = _interleave(_sandwich(_transpose(_A), products))
        height, width = geometry.output_size
        return y[:, :height, :width]

    chunks = _chunk_count(geometry, x.shape[0], sum(weight.shape[-2:]), x.dtype.itemsize)
    return _map_chunks(run, chunks, x)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    return forward(dy, transposed_kernel(weight, 1), geometry.transposed)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [3, 3, in, out] from x and the deltas dy."""

    def run(x, dy):
        tiles, deltas = _transformed_tiles(x, geometry), _transformed_deltas(dy, geometry)
        return _each(_contract_tiles, tiles, deltas)

    channels = x.shape[-1] + dy.shape[-1]
    chunks = _chunk_count(geometry, x.shape[0], channels, x.dtype.itemsize)
    total = _sum_chunks(run, chunks, x, dy)
    gradient = _sandwich(_transpose(_G), total)
    return jnp.stack([jnp.stack(row) for row in gradient]).astype(dy.dtype)


def _transformed_kernel(weight: Array) -> Grid:
    """U = G g Gᵀ, a 4×4 grid of [in, out]."""
    return _sandwich(_G, [[weight[i, j] for j in range(3)] for i in range(3)])


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


def _transformed_deltas(dy: Array, geometry: Geometry) -> Grid:
    """dM = A dy Aᵀ, a 4×4 grid of [batch, tile rows, tile columns, out]."""
    sizes = zip(_tile_counts(geometry), geometry.output_size, strict=True)
    padded = pad(dy, tuple((0, 2 * n - size) for n, size in sizes))
    return _sandwich(_A, [[padded[:, i::2, j::2] for j in range(2)] for i in range(2)])


def _contract_tiles(tile: Array, delta: Array) -> Array:
    """Vᵀ · dM [in, out], the sum over all tiles, taken in the order that XLA multiplies faster."""
    rows = delta.reshape(-1, delta.shape[-1])
    dtype = jnp.promote_types(delta.dtype, jnp.float32)
    return jnp.matmul(rows.T, tile.reshape(-1, tile.shape[-1]), preferred_element_type=dtype).T


def _interleave(phases: Grid) -> Array:
    """A 2×2 grid of [batch, rows, columns, channels] as one array with rows and columns doubled."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    batch, rows, _, columns, _, channels = y.shape
    return y.reshape(batch, 2 * rows, 2 * columns, channels)


def _sandwich(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """matrix · grid · matrixᵀ."""
    left = [[_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combine(row, entries) for row in matrix] for entries in left]


def _combine(factors: Sequence[float], arrays: Sequence[Array]) -> Array:
    terms = [f * a for f, a in zip(factors, arrays, strict=True) if f != 0]
    return functools.reduce(operator.add, terms)


def _each(function: Callable, left: Grid, right: Grid) -> Grid:
    return [
        [function(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(left, right, strict=True)
    ]


def _transpose(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))


def _tile_counts(geometry: Geometry) -> tuple[int, int]:
    rows, columns = geometry.output_size
    return -(-rows // 2), -(-columns // 2)


def _chunk_count(geometry: Geometry, batch: int, channels: int, itemsize: int) -> int:
    """Into how many chunks a batch is cut so that the transforms of one stay in the cache."""
    rows, columns = _tile_counts(geometry)
    example = 16 * rows * columns * channels * itemsize
    return max(1, min(batch, round(batch * example / CHUNK_BYTES)))


def _map_chunks(function: Callable, count: int, x: Array) -> Array:
    """function(x), a chunk of the batch at a time."""
    size = x.shape[0] // count
    if count == 1:
        return function(x)
    # Every count-th example, not consecutive ones: a batch that is sharded over devices then has a
    # part of each chunk on every device, and none has to fetch another's examples.
    chunked = x[: size * count].reshape(size, count, *x.shape[1:])
    shape = jax.eval_shape(function, chunked[:, 0])

    def body(index, y):
        part = function(lax.dynamic_index_in_dim(chunked, index, 1, keepdims=False))
        return lax.dynamic_update_index_in_dim(y, part, index, 1)

    y = jnp.zeros((size, count, *shape.shape[1:]), shape.dtype)
    y = lax.fori_loop(0, count, body, y).reshape(size * count, *shape.shape[1:])
    rest = x[size * count :]
    return jnp.concatenate([y, function(rest)]) if rest.shape[0] else y


def _sum_chunks(function: Callable, count: int, x: Array, dy: Array) -> Any:
    """function(x, dy), which sums over the batch, a chunk at a time."""
    size = x.shape[0] // count
    if count == 1:
        return function(x, dy)
    chunked = [a[: size * count].reshape(size, count, *a.shape[1:]) for a in (x, dy)]

    def add_chunk(total, index):
        parts = (lax.dynamic_index_in_dim(a, index, 1, keepdims=False) for a in chunked)
        return jax.tree.map(operator.add, total, function(*parts)), None

    first = function(x[size * count :], dy[size * count :])  # zeros where nothing is left over
    return lax.scan(add_chunk, first, jnp.arange(count))[0]
