"""A network as stages, one for each layer with parameters."""

from typing import Any, NamedTuple

import jax
from jax import Array

from jaxnn.core.adapters import Pointwise
from jaxnn.core.captures import contract_for
from jaxnn.core.combinators import serial
from jaxnn.core.contract import Layer
from jaxnn.core.networks import label
from jaxnn.core.validation import brief
from jaxnn.statistics.trees import scaled


class Stage(NamedTuple):
    """h = ρ(z), z = f(x): f ends with a layer that has parameters, ρ are the pointwise layers
    behind it; so z and h have one shape.

    What lies between, such as a pooling, is at the front of the next f.
    """

    linear: tuple[Layer, ...]
    activation: tuple[Layer, ...]
    params: tuple
    """Of the layers of f."""
    state: tuple
    """Of the layers of f and ρ: empty ones."""
    key: Array | None

    def weigh(self, x: Any) -> tuple[Array, list]:
        """(z, residuals)."""
        return self._forward(self.linear, self.params, x, 0)

    def activate(self, z: Array) -> tuple[Array, list]:
        """(h, residuals)."""
        params = ((),) * len(self.activation)
        return self._forward(self.activation, params, z, len(self.linear))

    def weigh_back(self, residuals: list, dz: Array) -> tuple[Any, tuple]:
        """(dx, captures of the layers of f)."""
        captures = []
        for layer, p, r in reversed(list(zip(self.linear, self.params, residuals, strict=True))):
            dz, capture = layer.backward(p, r, dz)
            captures.append(capture)
        return dz, tuple(reversed(captures))

    def activate_back(self, residuals: list, dh: Array) -> Array:
        """dz."""
        for layer, r in reversed(list(zip(self.activation, residuals, strict=True))):
            dh, _ = layer.backward((), r, dh)
        return dh

    def forward(self, x: Any) -> tuple[Array, Any]:
        """(h, residuals)."""
        z, weighed = self.weigh(x)
        h, activated = self.activate(z)
        return h, (weighed, activated)

    def backward(self, residuals: Any, dh: Array) -> tuple[Any, tuple]:
        """(dx, captures of the layers of f)."""
        weighed, activated = residuals
        return self.weigh_back(weighed, self.activate_back(activated, dh))

    def _forward(self, layers: tuple, params: tuple, x: Any, start: int) -> tuple[Any, list]:
        kept = []
        for index, (layer, p) in enumerate(zip(layers, params, strict=True), start):
            key = None if self.key is None else jax.random.fold_in(self.key, index)
            x, _, residuals = layer.forward(p, self.state[index], x, key)
            kept.append(residuals)
        return x, kept


def stages_of(
    where: str, network: Layer, params: Any, state: Any, key: Array | None
) -> list[Stage]:
    """The stages of a network.

    Raises:
        ValueError: a layer has a state, which a rule would not know how to change; no layer has
            parameters, or behind the last that has there is one that is not pointwise.
    """
    layers, ends = network.parts, []
    for index, layer in enumerate(layers):
        if jax.tree.leaves(state[index]):
            raise ValueError(
                f"{where}: expected layers without state, {label(str(index), layer)} has some"
            )
        if jax.tree.leaves(params[index]):
            ends.append([index + 1, index + 1])
        elif ends and ends[-1][1] == index and isinstance(layer, Pointwise):
            ends[-1][1] = index + 1
    if not ends or ends[-1][1] != len(layers):
        raise ValueError(
            f"{where}: expected the last layers to be one with parameters and, behind it, "
            f"pointwise ones, got {brief(network)}"
        )
    found, start = [], 0
    for number, (middle, end) in enumerate(ends):
        own_key = None if key is None else jax.random.fold_in(key, number)
        parts = layers[start:middle], layers[middle:end]
        found.append(Stage(*parts, tuple(params[start:middle]), tuple(state[start:end]), own_key))
        start = end
    return found


def run_through(stages: list[Stage], x: Any) -> tuple[list[Array], list]:
    """(h of every stage, their residuals)."""
    outputs, kept = [], []
    for stage in stages:
        x, residuals = stage.forward(x)
        outputs.append(x)
        kept.append(residuals)
    return outputs, kept


def gradients_of(
    network: serial, params: Any, stages: list[Stage], captures: list[tuple], factors: Array
) -> Any:
    """The tree of params, of the captures of every stage, each example times its factor."""
    flat = []
    for stage, own in zip(stages, captures, strict=True):
        flat += [*own, *((),) * len(stage.activation)]
    return contract_for(params, scaled(network.gather(flat), factors))
