"""Layers whose input follows from their output: of a chain of them the last output alone is kept.

`serial` and `repeat` hand the input that one has found to the one before it, whose output it is.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.residuals import Residuals
from jaxnn.kernels.ordering import after


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Reversed:
    """What a layer, or a chain of layers, that can be reversed keeps."""

    kept: Any
    """All that its input does not follow from otherwise: params, state, the key."""
    y: Any
    """Its output; None where it is handed back by what comes behind."""


class Reversible(Layer):
    """Base of layers that compute their input from their output: ``advance`` and ``reverse``."""

    @abc.abstractmethod
    def advance(self, params: Any, state: Any, x: Any, key: Array | None) -> tuple[Any, Any, Any]:
        """(y, state, kept), of which neither x nor y is kept."""

    @abc.abstractmethod
    def reverse(self, params: Any, kept: Any, y: Any, dy: Any) -> tuple[Any, Any, Any]:
        """(x, dx, captures)."""

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, state, kept = self.advance(params, state, x, key)
        return y, state, Reversed(kept, y)

    def backward(self, params: Any, residuals: Any, dy: Any):
        # Otherwise what forward has computed would be kept in place of computed again.
        return self.reverse(params, residuals.kept, after(dy, residuals.y), dy)[1:]


def handed_back(layers: Sequence[Layer], residuals: Sequence[Any]) -> list:
    """The residuals of layers one after the other, without the outputs that the next hands back."""
    followers = [*layers[1:], None]
    return [
        dataclasses.replace(kept, kept=Reversed(kept.kept.kept, None))
        if isinstance(layer, Reversible) and isinstance(next_layer, Reversible)
        else kept
        for layer, next_layer, kept in zip(layers, followers, residuals, strict=True)
    ]


def back_through(
    layer: Layer, params: Any, residuals: Residuals, y: Any, dy: Any
) -> tuple[Any, Any, Any]:
    """(x, dx, captures) of a layer whose residuals are of `handed_back`; x None where unknown.

    Args:
        layer: Any layer.
        params: Its params.
        residuals: Its residuals.
        y: Its output, as the layer behind it has found it; or None.
        dy: The cotangent.
    """
    if not isinstance(layer, Reversible):
        return None, *layer.backward(params, residuals, dy)
    kept = residuals.kept
    y = after(dy, kept.y) if y is None else y
    return layer.reverse(params, kept.kept, y, dy)
