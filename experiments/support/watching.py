"""Networks that are looked into: what each layer returns, and what comes back to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import Layer, repeat, rewrite, straight_through
from jaxnn.core.adapters import Pointwise
from jaxnn.core.combinators import Many, Wrapper
from jaxnn.core.networks import below


class Watched(Wrapper):
    """The same layer, which tells what it returns and is given back.

    Args:
        layer: The layer.
        tell: (what, value) -> None, of "y", of "dy", and of the "slope" dy/dx where it is wanted.
        slope: Whether it is, of a layer that works element by element.
    """

    layer: Layer
    tell: Callable
    slope: bool = False

    def init(self, key: Any, x: Any):
        """The layer's own params and state."""
        return self.layer.init(key, x)

    def predict(self, params: Any, state: Any, x: Any):
        """Tells y."""
        y = self.layer.predict(params, state, x)
        self.tell("y", y)
        return y

    def forward(self, params: Any, state: Any, x: Any, key: Any):
        """Tells y, and the slope."""
        y, state, residuals = self.layer.forward(params, state, x, key)
        self.tell("y", y)
        if self.slope:
            slope, _ = self.layer.backward(params, residuals, jnp.ones_like(y))
            self.tell("slope", slope)
        return y, state, residuals

    def backward(self, params: Any, residuals: Any, dy: Any):
        """Tells dy."""
        self.tell("dy", dy)
        return self.layer.backward(params, residuals, dy)


def watched(network: Layer, watch: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """The network with ``watch(path, layer)`` in place of every layer that is looked at as one."""
    if is_one(network):
        return watch(path, network)
    parts = zip(network.part_names, network.parts, strict=True)
    return network.with_parts(
        tuple(watched(part, watch, below(path, name)) for name, part in parts)
    )


def is_one(layer: Layer) -> bool:
    """Whether a layer is looked at as one: inside of a scan nothing can be kept, and of a
    straight-through estimator's two functions one gives y and the other the slope."""
    return not layer.parts or isinstance(layer, repeat | straight_through)


def is_activation(layer: Layer) -> bool:
    """Whether a layer works element by element, so that it has a slope for each."""
    if isinstance(layer, straight_through):
        return is_activation(layer.layer)
    return isinstance(layer, Pointwise)


def unrolled(network: Layer) -> Layer:
    """The same network for inference, whose repeated layers can be looked at one by one."""

    def unroll(path: str, layer: Layer) -> Layer:
        return _Unrolled(*(layer.layer,) * layer.n) if isinstance(layer, repeat) else layer

    return rewrite(network, unroll)


class _Unrolled(Many, init=False):
    """A `repeat` as a chain, with its params and state."""

    def init(self, key: Any, x: Any):
        return repeat(self.layers[0], len(self.layers)).init(key, x)

    def of_parts(self, tree: Any) -> tuple:
        copies = range(len(self.layers))
        return tuple(jax.tree.map(lambda a, index=index: a[index], tree[0]) for index in copies)

    def predict(self, params: Any, state: Any, x: Any):
        own = zip(self.layers, self.of_parts(params), self.of_parts(state), strict=True)
        for layer, p, s in own:
            x = layer.predict(p, s, x)
        return x

    def forward(self, params: Any, state: Any, x: Any, key: Any):
        raise NotImplementedError("an unrolled network is for inference")

    def backward(self, params: Any, residuals: Any, dy: Any):
        raise NotImplementedError("an unrolled network is for inference")
