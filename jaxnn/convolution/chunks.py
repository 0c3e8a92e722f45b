"""A batch worked off in chunks, whose intermediate arrays stay in the cache.

The chunks are consecutive examples, one stretch of memory: taking every n-th example instead costs
as much time again as the work on it.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def chunk_count(batch: int, example_bytes: int, chunk_bytes: int) -> int:
    """Into how many chunks a batch is cut, so that none takes much more than ``chunk_bytes``.

    A divisor of the batch where there is one near: what is left over would be compiled once more.
    """
    wanted = max(1, min(batch, round(batch * example_bytes / chunk_bytes)))
    divisors = (n for n in range(wanted, min(2 * wanted, batch + 1)) if batch % n == 0)
    return next(divisors, wanted)


def map_chunks(function: Callable, count: int, *arrays: Array) -> Any:
    """function(*arrays), which has the batch first in all arguments and results."""
    if count == 1:
        return function(*arrays)
    chunks, rest = _cut(arrays, count)
    mapped = lax.map(lambda chunk: function(*chunk), chunks)
    mapped = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), mapped)
    if not rest[0].shape[0]:
        return mapped
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), mapped, function(*rest))


def sum_chunks(function: Callable, count: int, *arrays: Array) -> Any:
    """function(*arrays), which sums over the batch."""
    if count == 1:
        return function(*arrays)
    chunks, rest = _cut(arrays, count)

    def add_chunk(total: Any, chunk: tuple[Array, ...]):
        return jax.tree.map(operator.add, total, function(*chunk)), None

    # Of no examples the sum is zero, which the compiler sees.
    return lax.scan(add_chunk, function(*rest), chunks)[0]


def _cut(arrays: tuple[Array, ...], count: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Each array as [count, size, ...], and the examples that are left over."""
    size = arrays[0].shape[0] // count
    chunks = (a[: size * count].reshape(count, size, *a.shape[1:]) for a in arrays)
    return tuple(chunks), tuple(a[size * count :] for a in arrays)
