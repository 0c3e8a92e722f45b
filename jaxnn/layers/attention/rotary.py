"""Rotary positions: queries and keys turned by an angle that grows with their position."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.positions import rotation_angles

BASE = 10000.0


def rotate(
    x: Float[Array, "batch *heads time depth"], direction: int = 1
) -> Float[Array, "batch *heads time depth"]:
    """Pair i of the features (xᵢ, xᵢ₊ₙ), n = depth / 2, turned by t · base^(−i / n) at position t.

    So that q_t · k_s depends on t − s alone (Su et al., 2021). A rotation's derivative is itself,
    and its transpose, which backward applies to the cotangent, is the rotation back:
    ``direction`` −1.
    """
    wide = sum_dtype(x.dtype)
    angles = direction * rotation_angles(x.shape[-2], x.shape[-1], BASE)
    cos, sin = jnp.cos(angles).astype(wide), jnp.sin(angles).astype(wide)
    first, second = jnp.split(x.astype(wide), 2, -1)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return jnp.concatenate(turned, -1).astype(x.dtype)
