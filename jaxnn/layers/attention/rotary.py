"""Rotary positions: queries and keys turned by an angle that grows with their position."""

from dataclasses import KW_ONLY
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.validation import (
    require_floating,
    require_members,
    require_positive,
    require_positive_integer,
    require_rank,
)
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


def require_turnable(where: str, name: str, features: int | None, depth: int) -> None:
    """Raise unless so many features of a head, or all, can be turned in pairs."""
    turned = depth if features is None else features
    if turned % 2:
        raise ValueError(f"{where}: expected an even depth where rotary is set, got {turned}")
    if turned > depth:
        raise ValueError(
            f"{where}: expected {name} to be at most the depth of a head, {depth}, got {turned}"
        )


class rotary(ParameterFree):
    """y_t = R_t x_t: pair i of n pairs of features turned by t · base^(−i / n) at position t.

    x is a tuple (x, start) of queries or keys [batch, *heads, time, depth] and the position of the
    first of them. The transpose of a rotation is the rotation back: dx_t = R_tᵀ dy_t; ``start`` has
    no gradient.

    Args:
        features: How many features are turned, the first ones; all unless given.
        interleaved: Whether neighbouring features are pairs, x₂ᵢ with x₂ᵢ₊₁, or those of both
            halves, xᵢ with xᵢ₊ₙ.
        base: The angles at position t are t · base^(−i / n), i = 0 … n − 1.

    Raises:
        TypeError: x is not floating-point.
        ValueError: an odd number of features is to be turned, or more than there are.
    """

    _: KW_ONLY
    features: Annotated[int, require_positive_integer] | None = None
    interleaved: bool = False
    base: Annotated[float, require_positive] = BASE

    mixes = False

    def apply(self, x: tuple):
        require_members(self.name, x, 2)
        vectors, start = x
        require_floating(self.name, "x", vectors)
        require_rank(self.name, "x", vectors, 3)
        require_turnable(self.name, "features", self.features, vectors.shape[-1])
        return rotate(vectors, 1, self._turning, start), start

    def pull_back(self, residuals: Any, dy: Array):
        return rotate(dy, -1, self._turning, residuals), None

    @property
    def _turning(self) -> Turning:
        return Turning(self.features, self.interleaved, self.base)
