"""Straight-through estimators: the slope of another function where a layer has none of use."""

import dataclasses
from typing import Any

import jax
from jax import Array

from jaxnn.core.combinators import identity, inside
from jaxnn.core.contract import Layer


class straight_through(Layer):
    """y of ``layer``, dx of ``surrogate`` at the same x (Bengio et al., 2013).

    `heaviside` has the derivative 0 nearly everywhere, so that nothing before it would learn;
    ``straight_through(heaviside())`` passes dy on as it is. With ``sigmoid()`` or ``tanh()`` as the
    surrogate the estimate fades where x is far from the jump.

    Args:
        layer: A layer without parameters, such as ``heaviside()``.
        surrogate: A layer without parameters whose y has the same shape; `identity` unless given.

    Raises:
        ValueError: at ``init``, one of the two has parameters, or their outputs differ in shape.
    """

    layer: Layer
    surrogate: Layer | None = None
    true_gradient: bool = dataclasses.field(default=False, kw_only=True)
    """Whether dx is that of ``layer`` after all; see `plain`."""

    mixes = False

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.layer, identity() if self.surrogate is None else self.surrogate)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        default = self.surrogate is None and parts[1] == identity()
        surrogate = None if default else parts[1]
        return dataclasses.replace(self, layer=parts[0], surrogate=surrogate)

    def plain(self) -> Layer:
        return dataclasses.replace(self, true_gradient=True)

    def init(self, key: Array | None, x: Any):
        made, outputs = [], []
        for index, part in enumerate(self.parts):
            with inside(self, index):
                params, state = part.init(key, x)
                if jax.tree.leaves((params, state)):
                    raise ValueError(
                        "straight_through: expected layers without parameters and state, "
                        f"{part.name} has some"
                    )
                y = jax.eval_shape(part.predict, params, state, x)
            made.append((params, state))
            outputs.append(jax.tree.map(lambda a: (a.shape, a.dtype), y))
        if outputs[0] != outputs[1]:
            raise ValueError(
                f"straight_through: expected surrogate to return what {self.layer.name} returns, "
                f"{outputs[0]}, got {outputs[1]}"
            )
        return tuple(zip(*made, strict=True))

    def predict(self, params: Any, state: Any, x: Any):
        with inside(self, 0):
            return self.layer.predict(params[0], state[0], x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        results = []
        for index, part in enumerate(self.parts):
            with inside(self, index):
                results.append(part.forward(params[index], state[index], x, key))
        (y, _, _), _ = results
        _, new_state, residuals = zip(*results, strict=True)
        kept = [r if index == self._back else () for index, r in enumerate(residuals)]
        return y, new_state, tuple(kept)

    def backward(self, params: Any, residuals: Any, dy: Any):
        back, captures = self._back, list(params)  # which are empty
        with inside(self, back):
            dx, captures[back] = self.parts[back].backward(params[back], residuals[back], dy)
        return dx, tuple(captures)

    @property
    def _back(self) -> int:
        """Through which of the parts dy travels back."""
        return 0 if self.true_gradient else 1
