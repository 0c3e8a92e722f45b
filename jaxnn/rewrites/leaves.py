"""Networks in which something is done in the backward pass of every layer without parts."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.adapters import Around
from jaxnn.core.combinators import Compound
from jaxnn.core.contract import Layer


class OfLeaves(Compound):
    """Base of a view of a network: the same with `replaced` in place of every layer without parts.

    Args:
        layer: A layer or a network.
    """

    layer: Layer

    mixes = False

    def replaced(self, leaf: Layer) -> Layer:
        """What stands in the place of a layer without parts."""
        raise NotImplementedError

    def inside(self, layer: Layer) -> Layer:
        """The network with what is replaced."""
        if not layer.parts:
            return self.replaced(layer)
        return layer.with_parts(tuple(map(self.inside, layer.parts)))

    @functools.cached_property
    def made(self) -> Layer:
        return self.inside(self.layer)


class Altered(Around):
    """Base of a layer whose backward pass is another than its own: in inference mode, and of
    `jaxnn.plain`, it is its own."""

    @property
    def mixes(self) -> bool | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether examples depend on each other: as in the layer's own passes."""
        return self.layer.mixes

    def at_rest(self) -> Layer:
        return self.layer.at_rest()

    def plain(self) -> Layer:
        return self.layer.plain()

    def summing(self) -> Layer:
        return dataclasses.replace(self, layer=self.layer.summing())


def of_floating(function: Callable, tree: Any) -> Any:
    """The tree with ``function(array, number)`` of its floating-point arrays, None left alone."""
    leaves, treedef = jax.tree.flatten(tree)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    return treedef.unflatten(
        function(leaf, number) if changes else leaf
        for number, (leaf, changes) in enumerate(zip(leaves, floating, strict=True))
    )
