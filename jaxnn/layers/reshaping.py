"""Layers that rearrange an example without computing anything."""

import math
from typing import Any

from jax import Array

from jaxnn.core.layer import Layer, Static, parameter_free
from jaxnn.core.validation import require_positive_integer, require_rank


def flatten() -> Layer:
    """y is [batch, features]: every axis of an example in one, in row-major order."""
    return _reshaped("flatten", lambda shape: (math.prod(shape),))


def reshape(*shape: int) -> Layer:
    """y is [batch, *shape]; the number of elements of an example must stay the same."""
    for size in shape:
        require_positive_integer("reshape", "every size", size)

    def target(given: tuple[int, ...]):
        if math.prod(given) != math.prod(shape):
            raise ValueError(
                f"reshape: expected an example with {math.prod(shape)} elements for shape {shape}, "
                f"got {math.prod(given)} in shape {given}"
            )
        return shape

    return _reshaped("reshape", target)


def _reshaped(name: str, shape_of: Any) -> Layer:
    def forward(x: Array):
        require_rank(name, "x", x, 1)
        example = tuple(x.shape[1:])
        return x.reshape(x.shape[0], *shape_of(example)), Static(example)

    def backward(example: Static, dy: Array):
        return dy.reshape(dy.shape[0], *example.value)

    return parameter_free(name, forward, backward)
