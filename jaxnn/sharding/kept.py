"""What lies between the tasks of a pipeline, in buffers that all stages share.

A tree (activations, residuals, captures) of one micro-batch is written into one place of a buffer
[places, examples, N] for each dtype, with the examples in front so that they can be split over
devices; what has no examples, such as keys, into [places, N]. N is what the largest tree needs. An
array that occurs twice is written once; one that is known anyway, such as a parameter among the
residuals of `jaxnn.recompute`, not at all.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

ROWS, FLAT = "rows", "flat"


class _Entry(NamedTuple):
    known: int | None
    """Which of the known arrays it is, those of the tree before it counted on behind them."""
    buffer: tuple[str, str]
    """Dtype, and `ROWS` or `FLAT`."""
    offset: int
    shape: tuple[int, ...]
    axis: int | None
    """Of the examples."""
    impl: Any
    """Of a key."""

    @property
    def width(self) -> int:
        """How much of N it takes."""
        size = math.prod(self.shape)
        return size if self.axis is None else size // max(self.shape[self.axis], 1)


@dataclasses.dataclass(frozen=True)
class Form:
    """Where in the buffers the arrays of a tree lie."""

    tree: Any
    entries: tuple[_Entry, ...]

    @functools.cached_property
    def sizes(self) -> dict[tuple[str, str], int]:
        """N of each buffer."""
        found: dict[tuple[str, str], int] = {}
        for entry in self.entries:
            if entry.known is None:
                end = entry.offset + entry.width
                found[entry.buffer] = max(found.get(entry.buffer, 0), end)
        return found

    def put(self, tree: Any, buffers: dict, place: Any, known: Sequence[Any] = ()) -> dict:
        """The buffers with the tree in one place."""
        buffers, known = dict(buffers), list(known)
        for entry, leaf in zip(self.entries, self.tree.flatten_up_to(tree), strict=True):
            if entry.known is not None and known[entry.known] is not leaf:
                raise AssertionError("a layer keeps other arrays than when it was looked at")
            known.append(leaf)
            if entry.known is None:
                value = _plain(leaf)
                if entry.axis is not None:
                    value = jnp.moveaxis(value, entry.axis, 0)
                    value = value.reshape(value.shape[0], -1)
                else:
                    value = value.reshape(-1)
                buffer = buffers[entry.buffer]
                start = _start(place, value.ndim, entry.offset)
                buffers[entry.buffer] = lax.dynamic_update_slice(buffer, value[None], start)
        return buffers

    def take(self, buffers: dict, place: Any, known: Sequence[Any] = ()) -> Any:
        """The tree in one place."""
        known, leaves = list(known), []
        for entry in self.entries:
            leaf = known[entry.known] if entry.known is not None else _read(entry, buffers, place)
            known.append(leaf)
            leaves.append(leaf)
        return self.tree.unflatten(leaves)


def form_of(tree: Any, examples: int, known: Sequence[Any] = ()) -> Form:
    """The form of a tree of arrays, some of which are ``known`` ones, of so many examples."""
    leaves, treedef = jax.tree.flatten(tree)
    ids = {}
    for number, leaf in enumerate((*known, *leaves)):
        ids.setdefault(id(leaf), number)
    ends: dict[tuple[str, str], int] = {}
    entries = []
    for number, leaf in enumerate(leaves, len(known)):
        first = ids[id(leaf)]
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        plain = jax.eval_shape(_plain, leaf)
        shape = tuple(plain.shape)
        axis = None if is_key or examples not in shape[:2] else shape.index(examples)
        buffer = str(plain.dtype), FLAT if axis is None else ROWS
        impl = jax.random.key_impl(leaf) if is_key else None
        known_as = first if first < number else None
        entry = _Entry(known_as, buffer, ends.get(buffer, 0), shape, axis, impl)
        entries.append(entry)
        if known_as is None:
            ends[buffer] = entry.offset + entry.width
    return Form(treedef, tuple(entries))


def buffers_for(forms: Iterable[Form], places: int, examples: int) -> dict:
    """Buffers with so many places, for the largest of some forms."""
    sizes: dict[tuple[str, str], int] = {}
    for form in forms:
        for buffer, size in form.sizes.items():
            sizes[buffer] = max(sizes.get(buffer, 0), size)
    return {
        (dtype, kind): jnp.zeros((places, examples, n) if kind == ROWS else (places, n), dtype)
        for (dtype, kind), n in sizes.items()
    }


def _read(entry: _Entry, buffers: dict, place: Any) -> Array:
    buffer = buffers[entry.buffer]
    middle = buffer.shape[1:-1]
    start = _start(place, len(middle) + 1, entry.offset)
    value = lax.dynamic_slice(buffer, start, (1, *middle, entry.width))[0]
    if entry.axis is not None:
        others = (*entry.shape[: entry.axis], *entry.shape[entry.axis + 1 :])
        value = jnp.moveaxis(value.reshape(-1, *others), 0, entry.axis)
    else:
        value = value.reshape(entry.shape)
    return value if entry.impl is None else jax.random.wrap_key_data(value, impl=entry.impl)


def _start(place: Any, axes: int, offset: int) -> list:
    """Of a slice of a buffer: its indices must have one dtype."""
    return [jnp.asarray(i, jnp.int32) for i in (place, *(0,) * (axes - 1), offset)]


def _plain(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
