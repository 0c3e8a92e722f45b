"""A network cut into stages, and trees of its parameters laid out stage by stage.

The units of a `serial` are its layers, of a `repeat` among them each of its copies. A stage has
some of them, one behind the other. Its parameters lie in rows [S, N], of which each device of the
axis `STAGE` of a mesh has its own, whatever the stages are made of: the largest array of each stage
in one row, the second largest in the next, and so on, N being what the largest of them needs; the
small ones together in a last one.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxnn.core.combinators import repeat, serial
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.summary import summarize
from jaxnn.core.validation import brief
from jaxnn.sharding.mesh import STAGE

SMALL = 1024
"""Arrays of fewer elements share a row."""


class Piece(NamedTuple):
    """What a stage has of one layer of the `serial`."""

    layer: int
    """Its number."""
    copies: tuple[int, int] | None
    """From which copy of a `repeat` to which; None for any other layer."""

    def of(self, tree: Any) -> Any:
        """Its own of params, or state, of the whole network."""
        own = tree[self.layer]
        if self.copies is None:
            return own
        rows = slice(*self.copies)
        return jax.tree.map(lambda a: a[rows], own)


class Stage(serial, init=False):
    """Layers one behind the other, given a key for each unit."""

    mixes = False

    def keys(self, key: Array | None) -> Any:
        """Of each layer; of copies an array of them."""
        if key is None:
            return [None] * len(self.layers)
        sizes = [layer.n if isinstance(layer, Copies) else 1 for layer in self.layers]
        starts = itertools.accumulate(sizes, initial=0)
        return [
            key[start : start + size] if isinstance(layer, Copies) else key[start]
            for start, size, layer in zip(starts, sizes, self.layers)  # noqa: B905
        ]


class Copies(repeat):
    """Some copies of a `repeat`, given their keys."""

    mixes = False

    def keys(self, key: Array | None) -> Array | None:
        """Those that are given."""
        return key


class Cut(NamedTuple):
    """A network in stages."""

    network: serial
    pieces: tuple[tuple[Piece, ...], ...]
    """Of each stage."""
    starts: tuple[int, ...]
    """The first unit of each stage."""

    @property
    def stages(self) -> list[Stage]:
        """The layers of each."""
        return [Stage(*(self._layer(piece) for piece in own)) for own in self.pieces]

    def label(self, stage: int) -> str:
        """How errors name a stage."""
        first, last = self.pieces[stage][0].layer, self.pieces[stage][-1].layer
        names = self.network.part_names
        which = (
            f"layer {names[first]}" if first == last else f"layers {names[first]} to {names[last]}"
        )
        return f"stage {stage}, {which} of {self.network.name}"

    def of(self, stage: int, tree: Any) -> tuple:
        """A stage's own of params, or state, of the network."""
        return tuple(piece.of(tree) for piece in self.pieces[stage])

    def keys(self, key: Array | None) -> Array | None:
        """A key for each unit, those that the network itself would draw."""
        if key is None:
            return None
        own = zip(self.network.layers, self.network.keys(key), strict=True)
        each: list[Any] = [b.keys(k) if type(b) is repeat else k[None] for b, k in own]
        return jnp.concatenate(each)

    def keys_of(self, stage: int, keys: Array | None) -> Array | None:
        """A stage's own of the keys of all units."""
        return None if keys is None else keys[slice(*(*self.starts, len(keys))[stage : stage + 2])]

    def together(self, trees: Sequence[tuple]) -> Any:
        """The tree of the network, of those of the stages."""
        found: list[list] = [[] for _ in self.network.layers]
        for pieces, own in zip(self.pieces, trees, strict=True):
            for piece, part in zip(pieces, own, strict=True):
                found[piece.layer].append(part)
        joined = (jax.tree.map(lambda *a: _joined(a), *parts) for parts in found)
        return self.network.gather(joined)

    def _layer(self, piece: Piece) -> Any:
        layer: Any = self.network.layers[piece.layer]
        return (
            layer
            if piece.copies is None
            else Copies(layer.layer, piece.copies[1] - piece.copies[0])
        )


def _joined(arrays: Sequence[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)


def cut(where: str, network: serial, stages: int, sizes: Sequence[int] | None = None) -> Cut:
    """The network in so many stages.

    Args:
        where: What wants it, for the error.
        network: The network.
        stages: S.
        sizes: How many units each stage has. Unless given, as many each; or one layer each, where
            there are as many layers as stages.

    Raises:
        ValueError: The stages do not divide the network.
    """
    counts = _counts(network)
    total = sum(counts)
    have = f"the {total} layers of the network (copies of a repeat counted one by one)"
    if sizes is None:
        sizes = counts if len(counts) == stages else [total // stages] * stages
        if sum(sizes) != total or not min(sizes):
            raise ValueError(
                f"{where}: expected stages to divide {have}, got {stages} stages: say by cuts how "
                f"many each has, {stages} numbers above 0 that add up to {total}"
            )
    elif len(sizes) != stages or sum(sizes) != total or min(sizes) < 1:
        raise ValueError(
            f"{where}: expected cuts to be {stages} numbers above 0, one for each stage, that add "
            f"up to {have}, got {brief(tuple(sizes))}"
        )
    units = [(i, copy) for i, count in enumerate(counts) for copy in range(count)]
    starts = tuple(itertools.accumulate(sizes, initial=0))[:-1]
    pieces = []
    for start, size in zip(starts, sizes, strict=True):
        own = itertools.groupby(units[start : start + size], key=lambda unit: unit[0])
        pieces.append(tuple(_piece(network, i, [c for _, c in copies]) for i, copies in own))
    return Cut(network, tuple(pieces), starts)


def _counts(network: serial) -> list[int]:
    return [layer.n if type(layer) is repeat else 1 for layer in network.layers]


def _piece(network: serial, index: int, copies: list[int]) -> Piece:
    is_repeat = type(network.layers[index]) is repeat
    return Piece(index, (copies[0], copies[-1] + 1) if is_repeat else None)


def balanced_cuts(network: serial, x: Any, stages: int) -> tuple[int, ...]:
    """How many units each stage has so that the one with the most operations has the fewest.

    Args:
        network: The network.
        x: Inputs, of which the shapes are looked at.
        stages: S, at most the number of units.

    Raises:
        ValueError: There are fewer units than stages.
    """
    counts = _counts(network)
    if sum(counts) < stages:
        cut("balanced_cuts", network, stages)  # which says so
    work = dict.fromkeys(network.part_names, 0.0)
    for row in summarize(network, x).rows:
        work[row.layer.split()[0].split(".")[0]] += row.flops
    costs = [
        own / count for own, count in zip(work.values(), counts, strict=True) for _ in range(count)
    ]
    ends = [0.0, *itertools.accumulate(costs)]

    @functools.cache
    def best(units: int, stages: int) -> tuple[float, tuple[int, ...]]:
        """(the largest cost, the sizes) of the first units in so many stages."""
        if stages == 1:
            return ends[units], (units,)
        options = []
        for last in range(1, units - stages + 2):
            largest, sizes = best(units - last, stages - 1)
            options.append((max(largest, ends[units] - ends[units - last]), (*sizes, last)))
        return min(options)

    return best(len(costs), stages)[1]


class Place(NamedTuple):
    """Where a stage has an array."""

    leaf: int
    """Its number among the leaves of the whole tree."""
    copies: tuple[int, int] | None
    """Which of its rows; None for all."""
    row: str
    """The name of the row, which begins with its dtype; "" for what all stages have the same."""
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Where in the rows of the stages everything of a tree lies."""

    tree: Any
    """The treedef of the whole."""
    trees: tuple
    """Those of the stages' own."""
    places: tuple[tuple[Place, ...], ...]
    """Of the leaves of each stage's own tree."""

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """N of each row."""
        found: dict[str, int] = {}
        for own in self.places:
            for place in own:
                found[place.row] = max(found.get(place.row, 0), place.offset + place.size)
        found.pop("", None)
        return found

    def whole(self, rows: dict[str, Array], common: Sequence[Array]) -> Any:
        """The tree, of rows [S, N]."""
        parts: dict[int, list] = {}
        for stage, own in enumerate(self.places):
            for place in own:
                if not place.row:
                    parts[place.leaf] = [common[place.offset]]
                    continue
                flat = rows[place.row][stage, place.offset : place.offset + place.size]
                parts.setdefault(place.leaf, []).append(flat.reshape(place.shape))
        return self.tree.unflatten([_joined(parts[leaf]) for leaf in range(self.tree.num_leaves)])

    def own(self, stage: int, rows: dict[str, Array], common: Sequence[Array] = ()) -> Any:
        """The tree of one stage, of its own rows [N]."""
        leaves = [
            rows[row][offset : offset + math.prod(shape)].reshape(shape) if row else common[offset]
            for _, _, row, offset, shape in self.places[stage]
        ]
        return self.trees[stage].unflatten(leaves)

    def put(self, stage: int, tree: Any, rows: dict[str, Array], add: bool = False) -> dict:
        """The rows [N] with one stage's tree in its places, or added to what is there."""
        rows = dict(rows)
        for place, leaf in zip(
            self.places[stage], self.trees[stage].flatten_up_to(tree), strict=True
        ):
            if place.row:
                row = rows[place.row]
                here = row.at[place.offset : place.offset + place.size]
                flat = leaf.reshape(-1).astype(row.dtype)
                rows[place.row] = here.add(flat) if add else here.set(flat)
        return rows

    def common(self, stage: int, tree: Any) -> tuple[Array, ...]:
        """What all stages have the same, in one's tree."""
        leaves = zip(self.places[stage], self.trees[stage].flatten_up_to(tree), strict=True)
        return tuple(leaf for place, leaf in leaves if not place.row)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Staged:
    """A tree, laid out stage by stage."""

    rows: dict[str, Any]
    """[S, N] by name."""
    common: tuple
    """What all stages have the same, such as the count of an optimiser."""
    arrangement: Arrangement = dataclasses.field(metadata={"static": True})

    def whole(self) -> Any:
        """The tree itself."""
        return self.arrangement.whole(self.rows, self.common)

    def specs(self) -> "Staged":
        """Which axis of which array is split over which axis of a mesh."""
        rows = dict.fromkeys(self.rows, P(STAGE))
        return dataclasses.replace(self, rows=rows, common=(P(),) * len(self.common))


def arrange(whole: Any, own: Sequence[tuple[Any, Sequence[tuple[int, Any]]]]) -> Arrangement:
    """Where everything lies.

    Args:
        whole: The tree, of arrays or shapes.
        own: For each stage the treedef of its own, and which leaf of the whole each leaf of it is:
            its number, and of some copies which.
    """
    leaves = jax.tree.leaves(whole)
    used = [leaf for _, refs in own for leaf, copies in set(refs) if copies is None]
    # What several stages have whole; keys, too, which no row could hold.
    shared = sorted({leaf for leaf in used if used.count(leaf) > 1 or _is_key(leaves[leaf])})
    places = []
    for _, refs in own:
        shapes = [shape_of(leaves[leaf], copies) for leaf, copies in refs]
        by_size = sorted(range(len(refs)), key=lambda i: -math.prod(shapes[i]))
        ends: dict[str, int] = {}
        found: dict[int, Place] = {}
        for number in by_size:
            (leaf, copies), shape = refs[number], shapes[number]
            if leaf in shared:
                found[number] = Place(leaf, None, "", shared.index(leaf), shape)
                continue
            dtype = str(leaves[leaf].dtype)
            size = math.prod(shape)
            row = (
                dtype if size < SMALL else f"{dtype} {sum(k.startswith(dtype + ' ') for k in ends)}"
            )
            found[number] = Place(leaf, copies, row, ends.get(row, 0), shape)
            ends[row] = ends.get(row, 0) + size
        places.append(tuple(found[number] for number in range(len(refs))))
    return Arrangement(jax.tree.structure(whole), tuple(t for t, _ in own), tuple(places))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def shape_of(leaf: Any, copies: tuple[int, int] | None) -> tuple[int, ...]:
    """Of some copies of an array: without those that it has not."""
    if copies is None:
        return tuple(leaf.shape)
    first, *others = leaf.shape or (0,)
    return (len(range(first)[slice(*copies)]), *others)


def dtype_of(row: str) -> str:
    """Of a row of this name."""
    return row.split()[0]


def arranged(whole: Any, arrangement: Arrangement) -> Staged:
    """A tree, laid out so."""
    leaves = arrangement.tree.flatten_up_to(whole)
    common: dict[int, Any] = {}
    rows: dict[str, list] = {row: [] for row in arrangement.sizes}
    for own in arrangement.places:
        flat: dict[str, list] = {row: [] for row in rows}
        for place in sorted(own, key=lambda place: place.offset):
            leaf = leaves[place.leaf]
            if not place.row:
                common[place.offset] = leaf
                continue
            part = leaf if place.copies is None else leaf[slice(*place.copies)]
            flat[place.row].append(part.reshape(-1))
        for row, parts in flat.items():
            parts = parts or [jnp.zeros(0, dtype_of(row))]
            joined = jnp.concatenate(parts)
            rows[row].append(jnp.pad(joined, (0, arrangement.sizes[row] - joined.size)))
    stacked = {row: jnp.stack(parts) for row, parts in rows.items()}
    return Staged(stacked, tuple(common[i] for i in range(len(common))), arrangement)


def arrange_params(of: Cut, params: Any) -> Arrangement:
    """Where the parameters of a network in stages lie."""
    numbers = jax.tree.unflatten(jax.tree.structure(params), range(len(jax.tree.leaves(params))))
    counts = _counts(of.network)
    own = []
    for pieces in of.pieces:
        trees = tuple(numbers[piece.layer] for piece in pieces)
        refs = [
            # All copies are the array as it is, of which an optimiser may keep what has no rows.
            (leaf, None if piece.copies == (0, counts[piece.layer]) else piece.copies)
            for piece, tree in zip(pieces, trees, strict=True)
            for leaf in jax.tree.leaves(tree)
        ]
        own.append((jax.tree.structure(trees), refs))
    return arrange(params, own)


def on_each_stage(function: Callable, likes: Sequence[Arrangement], *given: Any) -> tuple:
    """function(stage, *own trees) -> trees, of every stage by itself, on its own device.

    Args:
        function: Called for each stage; its trees are those of the stage in ``likes``.
        likes: How each of the results is laid out.
        given: Trees of which each `Staged` is given as the stage's own.
    """

    def branch(stage: int) -> Callable:
        def of_stage(*given: Any) -> list:
            def own(node: Any) -> Any:
                if not _is_staged(node):
                    return node
                rows = {name: row[0] for name, row in node.rows.items()}
                return node.arrangement.own(stage, rows, node.common)

            results = []
            found = function(stage, *jax.tree.map(own, given, is_leaf=_is_staged))
            for like, tree in zip(likes, found, strict=True):
                rows = {name: jnp.zeros(size, dtype_of(name)) for name, size in like.sizes.items()}
                rows = like.put(stage, tree, rows)
                own_rows = {name: row[None] for name, row in rows.items()}
                results.append((own_rows, like.common(stage, tree)))
            return results

        return of_stage

    def run(*given: Any) -> list:
        branches = [branch(stage) for stage in range(len(likes[0].places))]
        return jax.lax.switch(jax.lax.axis_index(STAGE), branches, *given)

    results = jax.shard_map(
        run,
        in_specs=jax.tree.map(
            lambda node: node.specs() if _is_staged(node) else P(), given, is_leaf=_is_staged
        ),
        out_specs=[(P(STAGE), P())] * len(likes),
        axis_names={STAGE},
        check_vma=False,
    )(*given)
    return tuple(
        Staged(rows, common, like) for (rows, common), like in zip(results, likes, strict=True)
    )


def _is_staged(node: Any) -> bool:
    return isinstance(node, Staged)


def whole_of(tree: Any) -> Any:
    """The tree with everything that is laid out by stages as it is by itself."""
    return jax.tree.map(
        lambda node: node.whole() if _is_staged(node) else node, tree, is_leaf=_is_staged
    )


def is_staged(tree: Any) -> bool:
    """Whether something of the tree is laid out by stages."""
    return any(map(_is_staged, jax.tree.leaves(tree, is_leaf=_is_staged)))


def unstaged(tree: Any) -> Any:
    """The same as it would be without stages, on the first device; a tree without stages itself.

    This is what is saved, evaluated and gone on with on other devices.
    """
    if not is_staged(tree):
        return tree

    def here(a: Any) -> Any:
        if not _is_key(a):
            return jnp.asarray(np.asarray(a))
        data = jnp.asarray(np.asarray(jax.random.key_data(a)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))

    return whole_of(jax.tree.map(here, tree))
