"""Layers that rearrange an example without computing anything."""

import abc
import math
from typing import Annotated, Any, Literal

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
from jaxnn.layers.windows import Sizes, per_dimension, require_spatial, spatial_dimensions


class _Reshaping(ParameterFree):
    mixes = False

    @abc.abstractmethod
    def target(self, given: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an example of y, from that of one of x."""

    def apply(self, x: Array):
        require_rank(self.name, "x", x, 1)
        example = tuple(x.shape[1:])
        return x.reshape(x.shape[0], *self.target(example)), Static(example)

    def pull_back(self, residuals: Static, dy: Array | None):
        # Of integers, such as the ids of an embedding, there is no gradient.
        return None if dy is None else dy.reshape(dy.shape[0], *residuals.value)


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


class _Shuffle(ParameterFree):
    """Base of the two: a permutation of the elements, of which dx is the inverse."""

    factor: Sizes
    mode: Literal["CRD", "DCR"] = "CRD"

    mixes = False

    def factors(self, x: Array) -> tuple[int, ...]:
        """One for each spatial dimension of x."""
        dimensions = spatial_dimensions(self.name, factor=self.factor)
        return per_dimension(self.factor, len(require_spatial(self.name, x, dimensions)))


class pixel_shuffle(_Shuffle):
    """y[r h + i, r w + j, c] = x[h, w, (c r + i) r + j]: channels become finer positions.

    x is [batch, *size, channels · r²], y is [batch, *(size · r), channels] (Shi et al., 2016), in 1
    to 3 spatial dimensions, with one factor r for all of them or one for each. dx is
    `pixel_unshuffle` of dy.

    Args:
        factor: r.
        mode: How channels are counted, named as by ONNX: "CRD" as above and in PyTorch, or "DCR",
            x[h, w, (i r + j) channels + c], as in TensorFlow and by default in ONNX.

    Raises:
        TypeError: x is not floating-point, or a factor is not an integer.
        ValueError: a factor is below 1, x has another rank than ``factor``, the factors do not
            divide its channels, or ``mode`` is unknown.
    """

    def apply(self, x: Array):
        factors = self.factors(x)
        if x.shape[-1] % math.prod(factors):
            raise ValueError(
                f"pixel_shuffle: expected factor {self.factor} to divide the channels of x, "
                f"{math.prod(factors)} of them for each of y, got {x.shape[-1]}"
            )
        return _shuffled(x, factors, self.mode), Static(factors)

    def pull_back(self, residuals: Static, dy: Array):
        return _unshuffled(dy, residuals.value, self.mode)


class pixel_unshuffle(_Shuffle):
    """y[h, w, (c r + i) r + j] = x[r h + i, r w + j, c]: the inverse of `pixel_shuffle`.

    x is [batch, *size, channels], y is [batch, *(size / r), channels · r²]. ONNX's SpaceToDepth
    counts them as mode "DCR" does. Arguments are those of `pixel_shuffle`.

    Raises:
        TypeError: x is not floating-point, or a factor is not an integer.
        ValueError: a factor is below 1, x has another rank than ``factor``, or a factor does not
            divide the size of x.
    """

    def apply(self, x: Array):
        factors = self.factors(x)
        if any(size % factor for size, factor in zip(x.shape[1:-1], factors, strict=True)):
            raise ValueError(
                f"pixel_unshuffle: expected factor {self.factor} to divide the spatial sizes of x, "
                f"got {tuple(x.shape[1:-1])}"
            )
        return _unshuffled(x, factors, self.mode), Static(factors)

    def pull_back(self, residuals: Static, dy: Array):
        return _shuffled(dy, residuals.value, self.mode)


def _shuffled(x: Array, factors: tuple[int, ...], mode: str) -> Array:
    n, (batch, *sizes, _) = len(factors), x.shape
    channels = x.shape[-1] // math.prod(factors)
    if mode == "CRD":
        apart = x.reshape(batch, *sizes, channels, *factors)
    else:
        apart = jnp.moveaxis(x.reshape(batch, *sizes, *factors, channels), -1, n + 1)
    # [batch, h, i, w, j, channels]
    pairs = [axis for d in range(n) for axis in (1 + d, n + 2 + d)]
    larger = (size * factor for size, factor in zip(sizes, factors, strict=True))
    return apart.transpose(0, *pairs, n + 1).reshape(batch, *larger, channels)


def _unshuffled(x: Array, factors: tuple[int, ...], mode: str) -> Array:
    n, (batch, *sizes, channels) = len(factors), x.shape
    smaller = [size // factor for size, factor in zip(sizes, factors, strict=True)]
    pairs = (size for pair in zip(smaller, factors, strict=True) for size in pair)
    apart = x.reshape(batch, *pairs, channels)
    fine, last = range(2, 2 * n + 1, 2), 2 * n + 1
    within = (last, *fine) if mode == "CRD" else (*fine, last)
    order = (0, *range(1, 2 * n, 2), *within)
    return apart.transpose(order).reshape(batch, *smaller, channels * math.prod(factors))
