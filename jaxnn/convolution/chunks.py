"""A batch worked off in chunks, whose intermediate arrays stay in the cache.

The chunks are consecutive examples, one stretch of memory: taking every n-th example instead costs
as much time again as the work on it. Where a batch is split over devices, each cuts its own part.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.sharding.batches import map_parts, parts_of, sum_parts


def chunk_count(batch: int, example_bytes: int, chunk_bytes: int) -> int:
    """Into how many chunks a batch is cut, so that none takes much more than ``chunk_bytes``.

    A divisor of the batch where there is one near: what is left over would be compiled once more.
    """
    return _near_divisor(batch, round(batch * example_bytes / chunk_bytes))


def map_chunks(function: Callable, count: int, *arrays: Array) -> Any:
    """function(*arrays), which has the batch first in all arguments and results."""

    def of_part(*arrays: Array):
        chunks, rest = _cut(arrays, part_count)
        mapped = lax.map(lambda chunk: function(*chunk), chunks)
        mapped = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), mapped)
        if not rest[0].shape[0]:
            return mapped
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), mapped, function(*rest))

    part_count = _count_of_part(count, arrays[0].shape[0])
    return function(*arrays) if part_count == 1 else map_parts(of_part, *arrays)


def sum_chunks(function: Callable, count: int, *arrays: Array) -> Any:
    """function(*arrays), which sums over the batch."""

    def add_chunk(total: Any, chunk: tuple[Array, ...]):
        return jax.tree.map(operator.add, total, function(*chunk)), None

    def of_part(*arrays: Array):
        chunks, rest = _cut(arrays, part_count)
        # Of no examples the sum is zero, which the compiler sees.
        return lax.scan(add_chunk, function(*rest), chunks)[0]

    part_count = _count_of_part(count, arrays[0].shape[0])
    return function(*arrays) if part_count == 1 else sum_parts(of_part, *arrays)


def _count_of_part(count: int, batch: int) -> int:
    """How many chunks each device cuts its part of a batch into, that by itself has ``count``."""
    parts = parts_of(batch)
    return count if parts == 1 else _near_divisor(batch // parts, round(count / parts))


def _near_divisor(batch: int, wanted: int) -> int:
    wanted = max(1, min(batch, wanted))
    divisors = (n for n in range(wanted, min(2 * wanted, batch + 1)) if batch % n == 0)
    return next(divisors, wanted)


def _cut(arrays: tuple[Array, ...], count: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Each array as [count, size, ...], and the examples that are left over."""
    size = arrays[0].shape[0] // count
    chunks = (a[: size * count].reshape(count, size, *a.shape[1:]) for a in arrays)
    return tuple(chunks), tuple(a[size * count :] for a in arrays)
