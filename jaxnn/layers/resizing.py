"""Layers that change the spatial size of x [batch, *spatial, channels], 1 to 3 dimensions."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.residuals import Static
from jaxnn.layers.windows import (
    Sizes,
    Widths,
    per_dimension,
    require_spatial,
    resolve_padding,
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


class pad(ParameterFree):
    """Zeros around x [batch, *spatial, channels]; dx is dy without what lies on them.

    ``widths`` holds (low, high) for each spatial dimension: how many zeros stand before and after;
    one integer stands for all of them.

    Raises:
        TypeError: x is not floating-point, or ``widths`` holds something else than integers.
        ValueError: x has another rank than ``widths``, or a width is negative.
    """

    widths: Widths

    mixes = False

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("pad", x, spatial_dimensions("pad", widths=self.widths))
        ones = (1,) * len(sizes)
        pairs = resolve_padding(self.widths, sizes, ones, ones, ones)
        inside = tuple((low, low + n) for n, (low, _) in zip(sizes, pairs, strict=True))
        return jnp.pad(x, ((0, 0), *pairs, (0, 0))), Static(inside)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch *larger channels"]):
        return dy[:, *(slice(*bounds) for bounds in residuals.value)]


def _interleave(*sizes: Any) -> tuple[int, ...]:
    """(a₁, b₁, a₂, b₂, …)."""
    return tuple(size for of_axis in zip(*sizes, strict=True) for size in of_axis)
