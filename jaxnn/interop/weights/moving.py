"""Weights of another library into the params and state of a network, and back, for any library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxnn.core.contract import Layer
from jaxnn.core.networks import below
from jaxnn.core.validation import brief, listed
from jaxnn.core.value import checked
from jaxnn.interop.weights.forms import Form, NoForm
from jaxnn.interop.weights.matching import Module, Pairs, Wanted, match, said_of
from jaxnn.interop.weights.places import Place, Trees, places_of
from jaxnn.interop.weights.tensors import (
    described,
    lines,
    named_leaves,
    require_same,
    require_usable_dtypes,
)
from jaxnn.layers.attention import attention
from jaxnn.layers.dense import dense


class Known(NamedTuple):
    """What a library knows of a layer."""

    forms: Sequence[Form]
    """The one that is written first."""
    kind: str = ""
    """What it calls the layer, where its files tell."""


Library = Callable[[Trees], Callable[[Place], Known]]
"""What a library knows of the layers of a network; raises `NoForm` where it has no such layer."""


class Source(NamedTuple):
    """The arrays of another library."""

    modules: Sequence[Module]
    take: Callable[[str], Module | None]
    in_order: bool
    """The arguments of `match`."""


def read_weights(
    where: str,
    network: Layer,
    x: Any,
    source: Source,
    library: Library,
    names: Mapping[str, str] | None,
    way_out: str = "names={path of a layer or network: prefix} says",
) -> tuple[Any, Any]:
    """(params, state) of the arrays; raises ValueError with all that does not match."""
    trees = _trees(where, network, x, names)
    wanted, faults = _wanted(trees, library)
    pairs: Pairs = {}
    if not faults:
        modules, take, in_order = source
        pairs, faults = match(wanted, modules, take, names or {}, in_order=in_order)
    if faults:
        raise ValueError(
            f"{where}: expected weights of the same architecture, but\n{lines(faults)}\n"
            f"{way_out} which is which where order and shapes do not"
        )
    found = [(form, module.arrays) for form, module in (pairs[p.name] for p in trees.places)]
    return trees.fill(network, x, [form.read(arrays) for form, arrays in found])


def write_weights(
    where: str,
    network: Layer,
    x: Any,
    weights: tuple[Any, Any],
    library: Library,
    names: Mapping[str, str] | None,
) -> list[tuple[Place, dict[str, Any]]]:
    """The layers and their arrays as another library has them."""
    trees = _trees(where, network, x, names)
    expected, given = (
        {name: described(leaf) for name, leaf in named_leaves(where, tree).items()}
        for tree in (trees.shapes, weights)
    )
    require_same(f"{where}: expected (params, state) of the network", expected, given)
    wanted, faults = _wanted(trees, library)
    said = {said_of(place.name, names or {}) for place in trees.places}
    if unknown := (names or {}).keys() - said:
        faults.append(f"names: no layer has {listed(map(brief, sorted(unknown)))}")
    if faults:
        raise ValueError(f"{where}: expected layers that have a counterpart, but\n{lines(faults)}")
    return [(own.place, own.forms[0][0].write(trees.collect(weights, own.place))) for own in wanted]


def _trees(where: str, network: Layer, x: Any, names: Mapping[str, str] | None) -> Trees:
    checked(where, "network", network, Layer)
    trees = places_of(network, x)
    for place in trees.places:
        require_usable_dtypes(where, place.arrays)
    apart = (_apart(place, names or {}) for place in trees.places)
    return trees._replace(places=[place for places in apart for place in places])


def _apart(place: Place, names: Mapping[str, str]) -> list[Place]:
    """The four projections of an attention each for itself, where one of them is named."""
    parts = dict.fromkeys(name.split(".")[0] for name in place.arrays)
    if not isinstance(place.layer, attention) or not any(
        below(place.name, part) in names for part in parts
    ):
        return [place]
    return [
        place._replace(
            name=below(place.name, part),
            layer=dense(1),
            arrays={n.split(".")[1]: a for n, a in place.arrays.items() if n.startswith(part)},
            leaves={n.split(".")[1]: i for n, i in place.leaves.items() if n.startswith(part)},
        )
        for part in parts
    ]


def _wanted(trees: Trees, library: Library) -> tuple[list[Wanted], list[str]]:
    wanted, faults, known_of = [], [], library(trees)
    for place in trees.places:
        try:
            known = known_of(place)
            forms = [(form, form.expected(place.arrays)) for form in known.forms]
        except NoForm as fault:
            faults.append(f"{place.label}: {fault}")
        else:
            wanted.append(Wanted(place, forms, known.kind))
    return wanted, faults
