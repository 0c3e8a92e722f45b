"""What stands around an input: a value, or the input itself continued."""

from dataclasses import KW_ONLY
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.residuals import Static
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.windows import (
    Pairs,
    Widths,
    require_spatial,
    resolve_padding,
    spatial_dimensions,
)

Mode: TypeAlias = Literal["constant", "edge", "reflect", "symmetric", "circular"]
"""A value; the last element again and again; the input mirrored at its last element, which stands
once, or behind it, so that it stands twice; the input continued periodically."""

_OF_NUMPY = {"circular": "wrap"}


class pad(ParameterFree):
    """y[p] = x[s(p)]: x [batch, *spatial, channels] with something around it.

    ``widths`` holds (low, high) for each spatial dimension: how many elements stand before and
    after; one integer stands for all of them. ``mode`` says what they are, here two on each side of
    a b c d: "constant" v v | a b c d | v v with v = ``value``, "edge" a a | a b c d | d d,
    "reflect" c b | a b c d | c b, "symmetric" b a | a b c d | d c, "circular" c d | a b c d | a b.

    Backward: dx[q] = Σ dy[p] over the p with s(p) = q: what lies on x, and for every element around
    it that is a copy of x[q] one dy more; of a value nothing goes on.

    Raises:
        TypeError: x is not floating-point, or ``widths`` holds something else than integers.
        ValueError: x has another rank than ``widths``, a width is negative, a mirrored one is
            larger than x reaches, ``mode`` is unknown, or ``value`` is given to another mode than
            "constant".
    """

    widths: Widths
    _: KW_ONLY
    mode: Mode = "constant"
    value: float = 0.0

    mixes = False

    def validate(self) -> None:
        require_value_of(self.name, "value", "mode", self.value, self.mode)

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("pad", x, spatial_dimensions("pad", widths=self.widths))
        ones = (1,) * len(sizes)
        pairs = resolve_padding(self.widths, sizes, ones, ones, ones)
        require_fillable(self.name, "widths", sizes, pairs, self.mode)
        return filled(x, pairs, self.mode, self.value), Static(pairs)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch *larger channels"]):
        return filled_backward(dy, residuals.value, self.mode)


def require_value_of(where: str, name: str, of: str, value: float, mode: str) -> None:
    """Raise where a ``value`` is given to a ``mode`` that has none."""
    if value != 0 and mode != "constant":
        raise ValueError(
            f'{where}: expected {of} to be "constant" where {name} is given, got {mode!r}'
        )


def require_fillable(where: str, name: str, size: tuple, pairs: Pairs, mode: str) -> None:
    """Raise where more elements would be mirrored than there are."""
    most = {"reflect": -1, "symmetric": 0}.get(mode)
    if most is None:
        return
    for n, pair in zip(size, pairs, strict=True):
        if max(pair) > n + most:
            raise ValueError(
                f"{where}: expected {name} to mirror at most {n + most} of {n} elements in mode "
                f'{mode!r}, got {pair}; "edge" and "circular" take any number'
            )


def filled(x: Array, pairs: Pairs, mode: str, value: float) -> Array:
    """x [batch, *size, channels] with what the mode says around its spatial axes."""
    if not any(map(any, pairs)):
        return x
    options = {"constant_values": value} if mode == "constant" else {}
    return jnp.pad(x, ((0, 0), *pairs, (0, 0)), _OF_NUMPY.get(mode, mode), **options)


def filled_backward(dy: Array, pairs: Pairs, mode: str) -> Array:
    """The gradients of all copies of an element added up, half-precision numbers in float32."""
    dx = dy
    for axis, (low, high) in enumerate(pairs, start=1):
        if low == high == 0:
            continue
        size = dx.shape[axis] - low - high
        inside = lax.slice_in_dim(dx, low, low + size, axis=axis)
        if mode != "constant":
            sources = np.pad(np.arange(size), (low, high), _OF_NUMPY.get(mode, mode))  # type: ignore
            around = np.r_[:low, low + size : low + size + high]
            copies = jnp.take(dx, around, axis).astype(sum_dtype(dy.dtype))
            before = (slice(None),) * axis
            inside = inside.astype(copies.dtype).at[*before, sources[around]].add(copies)
        dx = inside
    return dx.astype(dy.dtype)
