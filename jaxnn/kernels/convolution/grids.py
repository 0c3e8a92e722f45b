"""Arrays in rows and columns: small matrices with entries that are arrays over all tiles."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

Grid = list[list[Any]]
"""The elements of a tile, each over all tiles and channels."""

Matrix = Sequence[Sequence[float]]


def phases(y: Array) -> Grid:
    """The 2×2 grid of y[:, i::2, j::2], of a y whose sizes are even."""
    return [[y[:, i::2, j::2] for j in range(2)] for i in range(2)]


def interleave(grid: Grid, size: tuple[int, ...]) -> Array:
    """The first rows and columns, ``size`` many, of the array whose `phases` these are."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    batch, rows, _, columns, _, channels = y.shape
    y = y.reshape(batch, 2 * rows, 2 * columns, channels)
    height, width = size
    return y[:, :height, :width]


def sandwich(matrix: Matrix, grid: Grid) -> Grid:
    """matrix · grid · matrixᵀ."""
    left = [[combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[combine(row, entries) for row in matrix] for entries in left]


def combine(factors: Sequence[float], arrays: Sequence[Array]) -> Array:
    """Σ factor · array, over the factors that are not 0."""
    terms = [f * a for f, a in zip(factors, arrays, strict=True) if f != 0]
    return functools.reduce(operator.add, terms)


def transposed(matrix: Matrix) -> Matrix:
    """matrixᵀ."""
    return tuple(zip(*matrix, strict=True))


def add_overlapping(tiles: Grid) -> Grid:
    """The `phases` of the sum of 4×4 ``tiles`` that stand 2 apart: one row and column longer."""
    columns = [[_overlap(row[j], row[j + 2], axis=2) for j in range(2)] for row in tiles]
    return [
        [_overlap(columns[i][j], columns[i + 2][j], axis=1) for j in range(2)] for i in range(2)
    ]


def _overlap(here: Array, in_next: Array, axis: int) -> Array:
    """One longer along the axis: here[q] + in_next[q − 1]."""
    edges = [(0, 0, 0)] * here.ndim
    zero = jnp.zeros((), here.dtype)
    after, before = ([*edges[:axis], edge, *edges[axis + 1 :]] for edge in ((0, 1, 0), (1, 0, 0)))
    return lax.pad(here, zero, after) + lax.pad(in_next, zero, before)
