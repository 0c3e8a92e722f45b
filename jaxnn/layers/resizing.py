"""Layers that change the spatial size of x [batch, *spatial, channels], 1 to 3 dimensions."""

import functools
import math
from dataclasses import KW_ONLY
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.residuals import Static
from jaxnn.core.validation import LARGEST_SIZE
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.windows import (
    MAX_DIMENSIONS,
    Sizes,
    per_dimension,
    require_spatial,
    spatial_dimensions,
)


class upsample(ParameterFree):
    """y[p] = x[⌊p / factor⌋], the nearest element; dx is the sum of dy over the copies.

    x is [batch, *spatial, channels], and every spatial size of y is that of x times ``factor``: one
    number for each dimension, or one for all.

    Raises:
        TypeError: x is not floating-point, or a factor is not an integer.
        ValueError: x has another rank than ``factor``, or a factor is below 1.
    """

    factor: Sizes

    mixes = False

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("upsample", x, spatial_dimensions("upsample", factor=self.factor))
        factors = per_dimension(self.factor, len(sizes))
        copies = _interleave(sizes, factors)
        y = jnp.expand_dims(x, range(2, 2 * len(sizes) + 1, 2))
        y = jnp.broadcast_to(y, (x.shape[0], *copies, x.shape[-1]))
        larger = (n * f for n, f in zip(sizes, factors, strict=True))
        return y.reshape(x.shape[0], *larger, x.shape[-1]), Static(copies)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch *larger channels"]):
        copies = residuals.value
        copied = dy.reshape(dy.shape[0], *copies, dy.shape[-1])
        return jnp.sum(copied, range(2, len(copies) + 1, 2))  # of halves, JAX sums in float32


class resize(ParameterFree):
    """x [batch, *spatial, channels] drawn with another number of elements in each dimension.

    Either ``size`` is given, that of y, or ``scale``: the size of y is then ⌊size · scale⌋. One
    number stands for all dimensions. Along an axis with n elements of x and m of y, element p of y
    lies at s(p) on x, and

        "linear"          y[p] = (1 − w) x[i] + w x[i + 1],   i = ⌊s(p)⌋, w = s(p) − i
        "nearest"         y[p] = x[⌊p n / m⌋]
        "nearest_exact"   y[p] = x[⌊(p + ½) n / m⌋]

    one axis after the other: linear in two dimensions is bilinear. s(p) = (p + ½) n / m − ½, taken
    for the nearest element where it lies outside of x, or with ``align_corners``
    s(p) = p (n − 1) / (m − 1). Where ``scale`` is given, it stands in place of m / n. As in PyTorch
    ("nearest_exact" is called nearest-exact there). Half-precision numbers are weighed and summed
    in float32; an element of weight 0 has no part in y, whatever it holds.

    Backward: y is linear in x, so dx[q] = Σ_p (weight of x[q] in y[p]) dy[p].

    Raises:
        TypeError: x is not floating-point, or an argument is of another type.
        ValueError: not one of ``size`` and ``scale`` is given; x has another rank; a size is below
            1 or a scale not positive; ``method`` is unknown, or has no corners to align.
    """

    size: Sizes | None = None
    _: KW_ONLY
    scale: float | tuple[float, ...] | None = None
    method: Literal["linear", "nearest", "nearest_exact"] = "linear"
    align_corners: bool = False

    mixes = False

    def validate(self) -> None:
        if (self.size is None) == (self.scale is None):
            raise ValueError(
                "resize: expected one of size and scale, "
                f"got size={self.size!r} and scale={self.scale!r}"
            )
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if not 1 <= len(scales) <= MAX_DIMENSIONS:
            raise ValueError(
                f"resize: expected scale to have 1 to {MAX_DIMENSIONS} entries, got {self.scale!r}"
            )
        if any(s is not None and not 0 < s < math.inf for s in scales):
            raise ValueError(f"resize: expected scale to be positive, got {self.scale!r}")
        if self.align_corners and self.method != "linear":
            raise ValueError(
                'resize: expected method to be "linear" where align_corners is True, '
                f"got {self.method!r}"
            )

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        given = self.scale if self.size is None else self.size
        sizes = require_spatial("resize", x, len(given) if isinstance(given, tuple) else None)
        y = x.astype(sum_dtype(x.dtype))
        for axis, n in enumerate(sizes, start=1):
            taps = self._taps(n, axis - 1)
            terms = (_weighed(jnp.take(y, index, axis), axis, weight) for index, weight in taps)
            y = functools.reduce(jnp.add, terms)
        return y.astype(x.dtype), Static(sizes)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch *other channels"]):
        dx = dy.astype(sum_dtype(dy.dtype))
        for axis, n in enumerate(residuals.value, start=1):
            shape = (*dx.shape[:axis], n, *dx.shape[axis + 1 :])
            before, part = (slice(None),) * axis, dx
            dx = jnp.zeros(shape, dx.dtype)
            for index, weight in self._taps(n, axis - 1):
                dx = dx.at[*before, index].add(_weighed(part, axis, weight))
        return dx.astype(dy.dtype)

    def _taps(self, n: int, dimension: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Which elements of n the elements of y along a dimension are made of, with what weight."""
        m, scale = self._along(n, dimension)
        p = np.arange(m)
        if self.method != "linear":
            middle = 0.5 if self.method == "nearest_exact" else 0.0
            if self.size is None:
                index = np.floor((p + middle) / scale).astype(int)
            else:
                index = (2 * p + int(2 * middle)) * n // (2 * m)
            return [(np.minimum(index, n - 1), np.ones(m))]
        if self.align_corners:
            place = p * (n - 1) / max(m - 1, 1)
        else:
            place = np.clip((p + 0.5) / scale - 0.5, 0, n - 1)
        lower = np.minimum(np.floor(place).astype(int), n - 1)
        weight = np.where(lower < n - 1, place - lower, 0)
        return [(lower, 1 - weight), (np.minimum(lower + 1, n - 1), weight)]

    def _along(self, n: int, dimension: int) -> tuple[int, float]:
        """The size of y along a dimension, and how many of its elements one of x becomes."""
        given: Any = self.scale if self.size is None else self.size
        value = given[dimension] if isinstance(given, tuple) else given
        if self.size is not None:
            return value, value / n
        m = math.floor(n * value)
        if not 1 <= m <= LARGEST_SIZE:
            raise ValueError(
                f"resize: expected scale to make 1 to {LARGEST_SIZE} elements of {n}, got {value}"
            )
        return m, value


def _weighed(a: Array, axis: int, weight: np.ndarray) -> Array:
    """a times a weight along an axis, 0 where that is 0: there a may be infinite."""
    if (weight == 1).all():
        return a
    factors = jnp.asarray(weight, a.dtype).reshape(-1, *(1,) * (a.ndim - axis - 1))
    return jnp.where(factors == 0, 0, factors * a)


def _interleave(*sizes: Any) -> tuple[int, ...]:
    """(a₁, b₁, a₂, b₂, …)."""
    return tuple(size for of_axis in zip(*sizes, strict=True) for size in of_axis)
