"""A batch worked off in chunks, whose intermediate arrays stay in the cache.

    map_chunks(f, count, x) = f(x) of an f that takes each example by itself,
    sum_chunks(f, count, x) = f(x) of an f that sums over the batch.

The chunks are consecutive examples, one stretch of memory: to gather every n-th example costs time.
What the count does not divide, fewer than ``count`` examples, is a chunk of its own. Where a batch
is split over devices, each cuts its own part.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.parts import map_parts, parts_of, sum_parts


def chunk_count(batch: int, example_bytes: int, chunk_bytes: int) -> int:
    """Into how many chunks a batch is cut, so that none takes much more than ``chunk_bytes``.

    A divisor of the batch where there is one near: what is left over would be compiled once more.
    """
    return _near_divisor(batch, round(batch * example_bytes / chunk_bytes))


def map_chunks(function: Callable, count: int, *arrays: Array) -> Any:
    """function(*arrays), which has the batch first in all arguments and results."""

    def of_part(*arrays: Array):
        batch = arrays[0].shape[0]
        size, rest = divmod(batch, part_count)

        def write(start: Any, size: int, results: Any):
            return jax.tree.map(
                lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, start, 0),
                results,
                function(*_chunk(arrays, start, size)),
            )

        results = _to_be_overwritten(jax.eval_shape(function, *arrays), arrays[0])
        results = lax.fori_loop(0, part_count, lambda n, r: write(n * size, size, r), results)
        return write(batch - rest, rest, results) if rest else results

    part_count = _count_of_part(count, arrays[0].shape[0])
    return function(*arrays) if part_count == 1 else map_parts(of_part, *arrays)


def sum_chunks(function: Callable, count: int, *arrays: Array) -> Any:
    """function(*arrays), which sums over the batch."""

    def of_part(*arrays: Array):
        batch = arrays[0].shape[0]
        size, rest = divmod(batch, part_count)

        def add(n: Any, total: Any):
            return jax.tree.map(operator.add, total, function(*_chunk(arrays, n * size, size)))

        # Of no examples the sum is zero, which the compiler sees.
        total = function(*_chunk(arrays, batch - rest, rest))
        return lax.fori_loop(0, part_count, add, total)

    part_count = _count_of_part(count, arrays[0].shape[0])
    return function(*arrays) if part_count == 1 else sum_parts(of_part, *arrays)


def _to_be_overwritten(shapes: Any, given: Array) -> Any:
    """Arrays for a loop to write to, filled with a number of ``given``.

    Zeros would be one array for all loops of a program, which is kept throughout and copied for
    each; a number of this loop's own input is not shared.
    """
    some = lax.stop_gradient(given).ravel()[0]
    return jax.tree.map(lambda y: jnp.full(y.shape, some.astype(y.dtype)), shapes)


def _count_of_part(count: int, batch: int) -> int:
    """How many chunks each device cuts its part of a batch into, that by itself has ``count``."""
    parts = parts_of(batch)
    return count if parts == 1 else _near_divisor(batch // parts, round(count / parts))


def _near_divisor(batch: int, wanted: int) -> int:
    wanted = max(1, min(batch, wanted))
    divisors = (n for n in range(wanted, min(2 * wanted, batch + 1)) if batch % n == 0)
    return next(divisors, wanted)


def _chunk(arrays: tuple[Array, ...], start: Any, size: int) -> list[Array]:
    """The examples from ``start`` on, ``size`` many."""
    return [lax.dynamic_slice_in_dim(a, start, size) for a in arrays]
