"""Layers that rearrange an example without computing anything."""

import abc
import math
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.residuals import Static
from jaxnn.core.validation import (
    require_axis,
    require_feature_axis,
    require_floating,
    require_positive_integer,
    require_rank,
)


class _Reshaping(ParameterFree):
    mixes = False

    @abc.abstractmethod
    def target(self, given: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an example of y, from that of one of x."""

    def apply(self, x: Array):
        require_rank(self.name, "x", x, 1)
        example = tuple(x.shape[1:])
        return x.reshape(x.shape[0], *self.target(example)), Static(example)

    def pull_back(self, residuals: Static, dy: Array):
        return dy.reshape(dy.shape[0], *residuals.value)


class flatten(_Reshaping):
    """y is [batch, features]: every axis of an example in one, in row-major order."""

    def target(self, given: tuple[int, ...]):
        return (math.prod(given),)


class reshape(_Reshaping, init=False):
    """y is [batch, *shape]; the number of elements of an example must stay the same."""

    shape: tuple[Annotated[int, require_positive_integer], ...]

    def __init__(self, *shape: int):
        object.__setattr__(self, "shape", shape)
        self.__post_init__()

    def arguments(self) -> list[tuple[str, Any]]:
        return [("", size) for size in self.shape]

    def target(self, given: tuple[int, ...]):
        if math.prod(given) != math.prod(self.shape):
            raise ValueError(
                f"reshape: expected an example with {math.prod(self.shape)} elements for shape "
                f"{self.shape}, got {math.prod(given)} in shape {given}"
            )
        return self.shape


class split(ParameterFree):
    """y = ``n`` equal parts of x along ``axis`` (not the batch), a tuple; dx joins those of dy.

    Raises:
        TypeError: x is not floating-point.
        ValueError: x has no such axis, or ``n`` does not divide its size.
    """

    n: Annotated[int, require_positive_integer]
    axis: Annotated[int, require_feature_axis] = -1

    mixes = False

    def apply(self, x: Array):
        require_floating("split", "x", x)
        size = x.shape[require_axis("split", "axis", self.axis, x)]
        if size % self.n:
            raise ValueError(
                f"split: expected n to divide the {size} elements of axis {self.axis}, got {self.n}"
            )
        return tuple(jnp.split(x, self.n, self.axis)), ()

    def pull_back(self, residuals: Any, dy: tuple):
        return jnp.concatenate(dy, self.axis)
