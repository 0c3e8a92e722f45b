"""How attention is cut into tiles, blocks of queries by blocks of keys, and its bias with it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.layers.attention.bias import Bias


class Geometry(NamedTuple):
    """How queries and keys are cut, and what a causal mask leaves of the pairs."""

    time: int
    memory: int
    rows: int
    """Queries in a block."""
    columns: int
    """Keys in a block."""
    causal: bool

    @property
    def offset(self) -> int:
        """The position of the first query among the keys: queries are the last of them."""
        return self.memory - self.time

    @property
    def missing(self) -> tuple[int, int]:
        """The queries and keys that fill up the last blocks."""
        return -self.time % self.rows, -self.memory % self.columns

    def pairs(self) -> np.ndarray:
        """[pairs, 2], the blocks of queries and keys that meet, by queries and then by keys."""
        i, j = np.indices((-(-self.time // self.rows), -(-self.memory // self.columns)))
        meet = np.ones_like(i, bool)
        if self.causal:
            meet = j * self.columns < (i + 1) * self.rows + self.offset
        return np.stack([i[meet], j[meet]], -1).astype(np.int32)


def pad_bias(bias: Bias, cut: Geometry) -> Bias:
    """Filled up to whole blocks."""
    given, table = bias
    if given is not None:
        sizes = zip(cut.missing, given.shape[-2:], strict=True)
        given = jnp.pad(given, [(0, 0)] * 3 + [(0, n if size > 1 else 0) for n, size in sizes])
    if table is not None:
        table = jnp.pad(table, [(0, 0)] * (table.ndim - 1) + [cut.missing])
    return Bias(given, table)


def unpad_bias(gradient: Bias, bias: Bias, cut: Geometry) -> Bias:
    """The gradient by what `pad_bias` was given."""
    given, table = gradient
    if given is not None and bias.given is not None:
        given = given[..., : bias.given.shape[-2], : bias.given.shape[-1]]
    if table is not None:
        table = table[..., cut.missing[0] :][..., : cut.time + cut.memory - 1]
    return Bias(given, table)


def tile(bias: Bias, cut: Geometry, i: Any, j: Any) -> Bias:
    """What is added to the scores of the queries of block i and the keys of block j."""
    return Bias(
        *(
            None if a is None else jax.lax.dynamic_slice(a, *place)
            for a, place in zip(bias, _places(bias, cut, i, j), strict=True)
        )
    )


def add_tile(total: Bias, part: Bias, cut: Geometry, i: Any, j: Any) -> Bias:
    """``total`` with the gradient by a `tile` added in its place."""

    def add(whole: Any, new: Any, place: Any):
        if whole is None:
            return None
        start, sizes = place
        old = jax.lax.dynamic_slice(whole, start, sizes)
        return jax.lax.dynamic_update_slice(whole, old + new, start)

    return Bias(*map(add, total, part, _places(total, cut, i, j)))


def _places(bias: Bias, cut: Geometry, i: Any, j: Any) -> tuple:
    """(start, sizes) of a tile in each member of a padded bias."""
    zero, given, table = jnp.zeros_like(i), None, None
    if bias.given is not None:
        *lead, time, memory = bias.given.shape
        start = (i * cut.rows if time > 1 else zero, j * cut.columns if memory > 1 else zero)
        given = ((zero,) * 3 + start, (*lead, min(cut.rows, time), min(cut.columns, memory)))
    if bias.by_distance is not None:
        *lead, _ = bias.by_distance.shape
        # A tile's distances begin at that of its first key from its last query.
        last = cut.time + cut.missing[0] - cut.rows
        start = j * cut.columns - i * cut.rows + last
        table = ((*(zero,) * len(lead), start), (*lead, cut.rows + cut.columns - 1))
    return given, table
