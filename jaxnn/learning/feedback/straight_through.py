"""Straight-through estimators: the slope of another function where a layer has none of use."""

from typing import Any

import jax
from jax import Array

from jaxnn.core.combinators import identity
from jaxnn.core.layer import Layer


def straight_through(layer: Layer, surrogate: Layer | None = None) -> Layer:
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
    other = identity() if surrogate is None else surrogate

    def init(key: Array | None, x: Any):
        outputs = [_output_of(part, key, x) for part in (layer, other)]
        if outputs[0] != outputs[1]:
            raise ValueError(
                f"straight_through: expected surrogate to return what {layer.name} returns, "
                f"{outputs[0]}, got {outputs[1]}"
            )
        return layer.init(key, x)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        y, state, _ = layer.forward(params, state, x, key)
        return y, state, other.forward(params, state, x, key)[2]

    def backward(params: Any, residuals: Any, dy: Any):
        return other.backward(params, residuals, dy)

    return Layer(init, layer.predict, forward, backward, layer.name)


def _output_of(part: Layer, key: Array | None, x: Any) -> Any:
    """The shapes and dtypes of y."""
    params, state = part.init(key, x)
    if jax.tree.leaves((params, state)):
        raise ValueError(
            f"straight_through: expected layers without parameters and state, {part.name} has some"
        )
    y = jax.eval_shape(lambda x: part.predict(params, state, x), x)
    return jax.tree.map(lambda a: (a.shape, a.dtype), y)
