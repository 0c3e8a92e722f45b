"""Layers that change the spatial size of x [batch, *spatial, channels], 1 to 3 dimensions."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.layer import Layer, Static, parameter_free
from jaxnn.layers.windows import (
    Pairs,
    Sizes,
    per_dimension,
    require_padding,
    require_sizes,
    require_spatial,
    resolve_padding,
    spatial_dimensions,
)


def upsample(factor: Sizes) -> Layer:
    """y[p] = x[⌊p / factor⌋], the nearest element; dx is the sum of dy over the copies.

    x is [batch, *spatial, channels], and every spatial size of y is that of x times ``factor``: one
    number for each dimension, or one for all.

    Raises:
        TypeError: x is not floating-point, or a factor is not an integer.
        ValueError: x has another rank than ``factor``, or a factor is below 1.
    """
    require_sizes("upsample", "factor", factor)
    dimensions = spatial_dimensions("upsample", factor=factor)

    def forward(x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("upsample", x, dimensions)
        factors = per_dimension(factor, len(sizes))
        copies = _interleave(sizes, factors)
        y = jnp.expand_dims(x, range(2, 2 * len(sizes) + 1, 2))
        y = jnp.broadcast_to(y, (x.shape[0], *copies, x.shape[-1]))
        larger = (n * f for n, f in zip(sizes, factors, strict=True))
        return y.reshape(x.shape[0], *larger, x.shape[-1]), Static(copies)

    def backward(copies: Static, dy: Float[Array, "batch *larger channels"]):
        copied = dy.reshape(dy.shape[0], *copies.value, dy.shape[-1])
        return jnp.sum(copied, range(2, len(copies.value) + 1, 2))

    return parameter_free("upsample", forward, backward)


def pad(widths: int | Pairs) -> Layer:
    """Zeros around x [batch, *spatial, channels]; dx is dy without what lies on them.

    ``widths`` holds (low, high) for each spatial dimension: how many zeros stand before and after;
    one integer stands for all of them.

    Raises:
        TypeError: x is not floating-point, or ``widths`` holds something else than integers.
        ValueError: x has another rank than ``widths``, or a width is negative.
    """
    if isinstance(widths, str):
        raise TypeError(
            f"pad: expected widths to be an integer or (low, high) pairs, got {widths!r}"
        )
    require_padding("pad", widths, name="widths")
    dimensions = spatial_dimensions("pad", widths=widths)

    def forward(x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("pad", x, dimensions)
        ones = (1,) * len(sizes)
        pairs = resolve_padding(widths, sizes, ones, ones, ones)
        inside = tuple((low, low + n) for n, (low, _) in zip(sizes, pairs, strict=True))
        return jnp.pad(x, ((0, 0), *pairs, (0, 0))), Static(inside)

    def backward(inside: Static, dy: Float[Array, "batch *larger channels"]):
        return dy[:, *(slice(*bounds) for bounds in inside.value)]

    return parameter_free("pad", forward, backward)


def _interleave(*sizes: Any) -> tuple[int, ...]:
    """(a₁, b₁, a₂, b₂, …)."""
    return tuple(size for of_axis in zip(*sizes, strict=True) for size in of_axis)
