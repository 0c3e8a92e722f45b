"""The layers of a network that have arrays of their own, and where these are in its trees."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.combinators import repeat
from jaxnn.core.contract import Layer
from jaxnn.core.networks import below, label
from jaxnn.layers.reparametrization import Reparametrized
from jaxnn.learning.feedback.rules import FeedbackState


class Place(NamedTuple):
    """One layer; each copy of a `repeat` is one."""

    name: str
    """Its path, with numbers for the copies of a `repeat`."""
    path: str
    """Its path as `jaxnn.walk` has it."""
    layer: Layer
    arrays: dict[str, jax.ShapeDtypeStruct]
    """Those of its params and state, by their paths in these."""
    leaves: dict[str, int]
    """Which leaf of the network's (params, state) each of them is, or is part of."""
    copy: tuple[int, ...]
    """Which copy, for the leading axes of these leaves."""

    @property
    def label(self) -> str:
        """For errors."""
        return label(self.name, self.layer)


class Trees(NamedTuple):
    """Where arrays are in the params and state of a network."""

    shapes: tuple[Any, Any]
    places: list[Place]

    def collect(self, trees: tuple[Any, Any], place: Place) -> dict[str, Any]:
        """The arrays of a place."""
        leaves = jax.tree.leaves(trees)
        return {name: leaves[leaf][place.copy] for name, leaf in place.leaves.items()}

    def fill(self, network: Layer, x: Any, found: list[Mapping[str, Any]]) -> tuple[Any, Any]:
        """(params, state) of the arrays of each place.

        Leaves that belong to no layer (a scale of deltas, weights of feedback) are those of
        `Layer.init` with key 0.
        """
        shapes, treedef = jax.tree.flatten(self.shapes)
        leaves: list[Any] = [None] * len(shapes)
        for place, arrays in zip(self.places, found, strict=True):
            for name, leaf in place.leaves.items():
                if not place.copy:
                    leaves[leaf] = jnp.array(arrays[name])  # a copy: a tensor may change later
                    continue
                if leaves[leaf] is None:
                    leaves[leaf] = np.empty(shapes[leaf].shape, shapes[leaf].dtype)
                leaves[leaf][place.copy] = arrays[name]
        if any(leaf is None for leaf in leaves):
            made = jax.jit(lambda key: network.init(key, x))(jax.random.key(0))
            own = jax.tree.leaves(made)
            leaves = [b if a is None else a for a, b in zip(leaves, own, strict=True)]
        return treedef.unflatten(map(jnp.asarray, leaves))


def places_of(network: Layer, x: Any) -> Trees:
    """Those of a network for inputs shaped like x."""
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    leaves, treedef = jax.tree.flatten(shapes)
    params, state = treedef.unflatten(range(len(leaves)))
    return Trees(shapes, list(_places(network, params, state, leaves)))


def _places(
    layer: Layer,
    params: Any,
    state: Any,
    shapes: list[Any],
    name: str = "",
    path: str = "",
    copy: tuple[int, ...] = (),
) -> Iterator[Place]:
    if not layer.parts or isinstance(layer, Reparametrized):
        state = state.inner if isinstance(state, FeedbackState) else state
        named = jax.tree_util.tree_leaves_with_path(params)
        named += jax.tree_util.tree_leaves_with_path(state)
        leaves = {jax.tree_util.keystr(where, simple=True, separator="."): n for where, n in named}
        own = {
            n: jax.ShapeDtypeStruct(shapes[leaf].shape[len(copy) :], shapes[leaf].dtype)
            for n, leaf in leaves.items()
        }
        if leaves:
            yield Place(name, path, layer, own, leaves, copy)
        return
    trees = layer.of_parts(params), layer.of_parts(state)
    for part_name, part, p, s in zip(layer.part_names, layer.parts, *trees, strict=True):
        inside = below(path, part_name)
        if isinstance(layer, repeat):
            for i in range(layer.n):
                yield from _places(part, p, s, shapes, below(name, str(i)), inside, (*copy, i))
        else:
            yield from _places(part, p, s, shapes, below(name, part_name), inside, copy)
