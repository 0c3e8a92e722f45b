"""Rotary positions: queries and keys turned by an angle that grows with their position."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.positions import rotation_angles

BASE = 10000.0


class Turning(NamedTuple):
    """Which features are turned with each other, and how fast."""

    features: int | None = None
    """The first so many of a head, an even number; all unless given."""
    interleaved: bool = False
    """Whether neighbours are pairs, or each feature of the first half with one of the second."""
    base: float = BASE


WHOLE = Turning()


def rotate(
    x: Float[Array, "batch *heads time depth"],
    direction: int = 1,
    turning: Turning = WHOLE,
    start: Any = 0,
) -> Float[Array, "batch *heads time depth"]:
    """Pair i of n pairs of features turned by t · base^(−i / n) at position t, from ``start``.

    So that q_t · k_s depends on t − s alone (Su et al., 2021). Pairs are (xᵢ, xᵢ₊ₙ), or
    interleaved (x₂ᵢ, x₂ᵢ₊₁); features behind the first 2n stay as they are. A rotation's derivative
    is itself, and its transpose, which backward applies to the cotangent, is the rotation back:
    ``direction`` −1.
    """
    wide = sum_dtype(x.dtype)
    count = x.shape[-1] if turning.features is None else turning.features
    angles = direction * rotation_angles(x.shape[-2], count, turning.base, start)
    cos, sin = jnp.cos(angles).astype(wide), jnp.sin(angles).astype(wide)
    turned = x[..., :count].astype(wide)
    if turning.interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, -1)
    pairs = (first * cos - second * sin, first * sin + second * cos)
    if turning.interleaved:
        turned = jnp.stack(pairs, -1).reshape(turned.shape)
    else:
        turned = jnp.concatenate(pairs, -1)
    return jnp.concatenate([turned.astype(x.dtype), x[..., count:]], -1)
