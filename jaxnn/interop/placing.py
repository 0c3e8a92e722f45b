"""How the uses of a function's parameters become captures, and where those lie among the params."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr

from jaxnn.core.captures import Place, PlacedCaptures
from jaxnn.core.contract import Capture
from jaxnn.core.moves import are_apart, same_elements
from jaxnn.core.tied import OffsetCapture, TiedCapture
from jaxnn.interop.following import Findings, Use, follow
from jaxnn.interop.forms import Part, parts_of

Group = list[Part]
"""Parts whose captures are joined: the same elements used in the same way."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """One capture to be, and the places of its parameters."""

    groups: tuple[Group, ...]
    """One, unless it is tied."""
    places: tuple[Place, ...]
    with_bias: bool = False
    is_tied: bool = False
    """Whether its elements are in several places, of one use or of different ones."""


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """All captures of a function, before there are numbers."""

    findings: Findings
    placed: tuple[Placed, ...]
    unused: tuple[int, ...]
    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    def captures(
        self,
        met: dict[int, Array],
        deltas: dict[int, Array],
        explicit: dict[int, Array],
        batch: int,
    ) -> PlacedCaptures:
        """Of the data at each use, the deltas there, and those of explicit leaves; batch first."""

        def of_group(group: Group, with_bias: bool) -> Capture:
            # A parameter that is cast to half precision has a gradient in its own dtype.
            dtype = self.dtypes[group[0].leaf]
            first, *others = (
                part.capture(
                    met.get(part.use),
                    self._deltas_of(part.use, deltas).astype(dtype),
                    with_bias,
                )
                for part in group
            )
            return first.join(*others) if others else first

        def of_placed(one: Placed) -> Capture:
            if not one.is_tied:
                return of_group(one.groups[0], one.with_bias)
            return TiedCapture(
                tuple(of_group(group, False) for group in one.groups),
                tuple(group[0].name for group in one.groups),
                tuple(group[0].moves for group in one.groups),
                self.shapes[one.places[0].leaf],
            )

        captures = [of_placed(one) for one in self.placed]
        places = [one.places for one in self.placed]
        flat = (("reshape", (-1,)),)
        for leaf in (*explicit, *self.unused):
            size = math.prod(self.shapes[leaf])
            # What nothing uses has no position.
            own = explicit.get(leaf, jnp.zeros((batch, 0, size), self.dtypes[leaf]))
            shape = (batch, size) if leaf in explicit else own.shape
            captures.append(OffsetCapture(own.reshape(shape)))
            places.append((Place("offset", leaf, flat),))
        return PlacedCaptures(tuple(captures), self.tree, tuple(places), self.shapes)

    def _deltas_of(self, number: int, deltas: dict[int, Array]) -> Array:
        use = self.findings.uses[number]
        if use.source is None:
            return deltas[number]
        source, axes = use.source
        own = deltas[source]
        leading = 1 + len(use.scans)
        kept = [axis for axis in axes if axis is not None]
        rest = [axis for axis in range(own.ndim - leading) if axis not in kept]
        order = [*range(leading), *(leading + axis for axis in (*kept, *rest))]
        return own.transpose(order).reshape(*own.shape[:leading], *use.output.shape)


def arrange(closed: ClosedJaxpr, params: Any, path_of: Callable[[int], str]) -> Arrangement:
    """The arrangement of a function of the leaves of ``params`` (shapes) and further arguments.

    Raises:
        ValueError: as `follow`.
    """
    leaves, tree = jax.tree.flatten(params)
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    explicit: dict[int, str] = {}
    while True:
        findings = follow(closed, len(leaves), path_of, explicit)
        explicit = findings.explicit
        groups = _groups(findings.uses, shapes)
        entangled = [leaf for leaf, own in groups.items() if _is_entangled(shapes[leaf], own)]
        if not entangled:
            break
        explicit |= dict.fromkeys(entangled, "is used in several ways in the steps of a scan")
    biases = _biases(findings.uses, groups, shapes)
    placed = []
    for leaf, own in groups.items():
        if any(leaf == bias[0].leaf for bias in biases.values()):
            continue
        if not _lie_apart(shapes[leaf], own):
            placed.append(Placed(tuple(own), (Place("weight", leaf, ()),), is_tied=True))
            continue
        for group in own:
            places = [Place(group[0].name, leaf, group[0].moves)]
            if leaf in biases:
                bias = biases[leaf][0]
                places.append(Place("bias", bias.leaf, bias.moves))
            placed.append(Placed((group,), tuple(places), with_bias=leaf in biases))
    unused = tuple(i for i in range(len(leaves)) if i not in groups and i not in explicit)
    dtypes = tuple(leaf.dtype for leaf in leaves)
    return Arrangement(findings, tuple(placed), unused, tree, shapes, dtypes)


def _groups(uses: list[Use], shapes: tuple) -> dict[int, list[Group]]:
    """The groups of each leaf."""
    found: dict[int, list[Group]] = {}
    for number, use in enumerate(uses):
        for part in parts_of(number, use):
            own = found.setdefault(part.leaf, [])
            for group in own:
                if _is_alike(shapes[part.leaf], group[0], part):
                    group.append(part)
                    break
            else:
                own.append([part])
    return dict(sorted(found.items()))


def _is_alike(shape: tuple[int, ...], a: Part, b: Part) -> bool:
    return (a.kind, a.groups, a.joins) == (b.kind, b.groups, b.joins) and same_elements(
        shape, a.moves, b.moves
    )


def _lie_apart(shape: tuple[int, ...], groups: list[Group]) -> bool:
    """Whether each element is in one place of one group."""
    moves = [group[0].moves for group in groups]
    return all(group[0].sees_once for group in groups) and all(
        are_apart(shape, a, b) for i, a in enumerate(moves) for b in moves[:i]
    )


def _is_entangled(shape: tuple[int, ...], groups: list[Group]) -> bool:
    """Whether uses of one leaf overlap, of which some are of a slice in each step of a scan."""
    stacked = any(group[0].groups != ((), None) for group in groups)
    return stacked and not _lie_apart(shape, groups)


def _biases(uses: list[Use], groups: dict[int, list[Group]], shapes: tuple) -> dict[int, Group]:
    """For each leaf that is a linear map in all of its uses: the offset of their outputs, where
    these, and nothing else, are what the one parameter is added to."""
    alone = {
        leaf: own[0]
        for leaf, own in groups.items()
        if len(own) == 1 and _lie_apart(shapes[leaf], own)
    }
    of_use = {}
    for group in alone.values():
        for part in group:
            source = uses[part.use].source
            if part.kind == "offset" and source is not None:
                of_use[source[0]] = part
    found = {}
    for leaf, group in alone.items():
        if group[0].kind not in ("linear", "convolution"):
            continue
        parts = [of_use.get(part.use) for part in group]
        if any(b is None or not _fits(uses, p, b) for p, b in zip(group, parts, strict=True)):
            continue
        biases = {b.leaf for b in parts if b is not None}
        if len(biases) == 1 and len(alone[min(biases)]) == len(group):
            found[leaf] = [b for b in parts if b is not None]
    return found


def _fits(uses: list[Use], part: Part, bias: Part) -> bool:
    """Whether an offset is one number for each feature of a linear map."""
    source = uses[bias.use].source
    assert source is not None
    added_to = tuple(source[1][axis] for axis in bias.features)
    output = uses[part.use].output.shape
    features = tuple(axis for axis in part.features if output[axis] != 1)
    are_whole = part.is_whole and bias.is_whole and part.groups == bias.groups
    return are_whole and added_to == features
