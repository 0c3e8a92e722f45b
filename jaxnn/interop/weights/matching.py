"""Which module of another library is which layer: by order, kind and shape, or as it is said.

A module is a group of arrays under one prefix. Its kind and shape are the names of these arrays and
what they are; a layer is compared by what `Form.expected` says.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxnn.core.networks import below
from jaxnn.core.validation import brief, listed, unknown_name
from jaxnn.interop.weights.forms import Form
from jaxnn.interop.weights.places import Place
from jaxnn.interop.weights.tensors import described

Expected = dict[str, str]


class Module(NamedTuple):
    """A group of the other library's arrays."""

    prefix: str
    arrays: dict[str, Any]
    place: str
    """The prefix, written so that numbers alone tell the modules of a list apart."""
    kind: str = ""
    """What the library calls it, where the prefix tells."""
    in_list: bool = True
    """Whether its numbers are places in lists, which are in the order of the network."""

    @property
    def claim(self) -> Expected:
        """What its arrays are."""
        return {name: described(a) for name, a in self.arrays.items()}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Where it is among the modules of its pattern."""
        return tuple(map(int, re.findall(r"\d+", self.place)))

    @property
    def pattern(self) -> str:
        """Its place but for numbers."""
        return re.sub(r"\d+", "#", self.place)


class Wanted(NamedTuple):
    """A layer, with the forms that it may have in the other library."""

    place: Place
    forms: Sequence[tuple[Form, Expected]]
    """Each with what a module of it has."""
    kind: str = ""
    """What the library calls it."""

    def form_for(self, module: Module) -> Form | None:
        """The form of a module that may be this layer's."""
        if module.kind and module.kind != self.kind:
            return None
        return next((form for form, expected in self.forms if expected == module.claim), None)

    @property
    def shown(self) -> str:
        """For errors."""
        return f"{self.place.label}: expected {shown(self.forms[0][1])}"


Pairs = dict[str, tuple[Form, Module]]
"""Of the layers, by name."""


def match(
    wanted: Sequence[Wanted],
    modules: Sequence[Module],
    take: Callable[[str], Module | None],
    names: Mapping[str, str],
    *,
    in_order: bool,
) -> tuple[Pairs, list[str]]:
    """The module of each layer with the form that it has, and all that did not match.

    Args:
        wanted: The layers, in the order of the network.
        modules: In the order of the file.
        take: prefix -> all arrays under it as a module, None where there are none.
        names: path of a layer, or of a network inside -> prefix, for those that are not to be found
            among all.
        in_order: Whether the file has the order of the modules, or a sorted one that says nothing.
    """
    known = {w.place.name: w for w in wanted}
    found: Pairs = {}
    faults: list[str] = []
    rest, left = list(wanted), list(modules)
    # What is said of a layer goes before what is said of the network that it is in.
    for name, prefix in sorted(names.items(), key=lambda item: -len(item[0])):
        inside = {w.place.name: w for w in rest if _is_under(w.place.name, name)}
        under = {m.prefix: m for m in left if _is_under(m.prefix, prefix)}
        one = take(prefix) if name in known else None
        if not inside:
            faults.append(f"names: {unknown_name('layer', name, known)}")
        elif not (one or under):
            faults.append(f"names: {unknown_name('prefix', prefix, (m.prefix for m in modules))}")
        elif one:
            pair = _by_order([known[name]], [one])
            found |= pair or {}
            if not pair:
                faults.append(f"{known[name].shown}, got {brief(prefix)} with {shown(one.claim)}")
        else:
            pairs, more = _matched(list(inside.values()), list(under.values()), in_order)
            found |= pairs
            faults += more
        rest = [w for w in rest if w.place.name not in inside]
        left = [module for module in left if module.prefix not in under]
    pairs, more = _matched(rest, left, in_order)
    return found | pairs, [*faults, *more]


def _matched(
    wanted: Sequence[Wanted], modules: Sequence[Module], in_order: bool
) -> tuple[Pairs, list[str]]:
    """By order, where the file has one and all fit, and else by kind."""
    pairs = _by_order(wanted, modules) if in_order else None
    return _by_kind(wanted, modules) if pairs is None else (pairs, [])


def said_of(path: str, names: Mapping[str, str]) -> str | None:
    """The path among ``names`` that says most of this one: itself, or the longest above it."""
    return max((name for name in names if _is_under(path, name)), key=len, default=None)


def renamed(path: str, above: str, prefix: str) -> str:
    """The path with a prefix in place of what is above it, or in place of all of it."""
    return below(prefix, path.removeprefix(above).lstrip("."))


def shown(claim: Expected) -> str:
    """What a module has, for errors."""
    return ", ".join(f"{name} {what}" for name, what in claim.items()) or "nothing"


def _is_under(prefix: str, other: str) -> bool:
    return not other or prefix == other or prefix.startswith((f"{other}.", f"{other}/"))


def _by_order(wanted: Sequence[Wanted], modules: Sequence[Module]) -> Pairs | None:
    """Each with each, where all fit."""
    if len(wanted) != len(modules):
        return None
    pairs = {}
    for own, module in zip(wanted, modules, strict=True):
        form = own.form_for(module)
        if form is None:
            return None
        pairs[own.place.name] = form, module
    return pairs


def _by_kind(wanted: Sequence[Wanted], modules: Sequence[Module]) -> tuple[Pairs, list[str]]:
    """Those of one kind and shape by the numbers in their prefixes, and what is left over.

    Modules of one kind and shape whose prefixes differ in more than numbers have no order where the
    file is sorted: any assignment would fit, and all but one of them be wrong. Nor have those with
    numbers where others of their pattern, found by their shapes, are numbered otherwise than in the
    order of the network.
    """
    pairs, faults = {}, []
    kinds: dict[Any, list[Module]] = {}
    for module in modules:
        kinds.setdefault((module.kind, frozenset(module.claim.items())), []).append(module)
    for alike in kinds.values():
        first = alike[0]
        fitting = [w for w in wanted if w.form_for(first) and w.place.name not in pairs]
        places = listed(w.place.label for w in fitting) or "no layer"
        if len(fitting) != len(alike):
            faults.append(f"{_prefixes(alike)} with {shown(first.claim)}: got for {places}")
        elif len({module.pattern for module in alike}) > 1 or (
            len(alike) > 1 and not all(module.in_list for module in alike)
        ):
            faults.append(f"{_prefixes(alike)} have one shape: which is which of {places}?")
        else:
            alike = sorted(alike, key=lambda module: module.numbers)
            for own, module in zip(fitting, alike, strict=True):
                pairs[own.place.name] = own.form_for(first), module
    faults += [w.shown for w in wanted if not any(map(w.form_for, modules))]
    in_network = [pairs[w.place.name][1] for w in wanted if w.place.name in pairs]
    for alike in kinds.values():
        numbered = [module for module in in_network if module.pattern == alike[0].pattern]
        numbers = [module.numbers for module in numbered]
        if len(alike) > 1 and sorted(numbers) != numbers:
            faults.append(
                f"{_prefixes(alike)} have one shape, and numbers are not in the order of the "
                f"network, which has {_prefixes(numbered)}"
            )
    return pairs, faults


def _prefixes(modules: Sequence[Module]) -> str:
    return listed(brief(module.prefix) for module in modules)
