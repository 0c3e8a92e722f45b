"""A policy of precision for the backward pass alone: deltas in eight bits.

What is handed from layer to layer on the way back is rounded to numbers of a format, times a scale:

    s = max |d| / F,  d̂ = s · round(d / s),

with F the largest number of the format: 448 of float8_e4m3fn, 57344 of float8_e5m2 (Micikevicius et
al., 2022), 127 of int8. Computed in the dtype of the deltas, so that it tells on any device what
training with such deltas would come to. Stochastic rounding goes up with the probability that
leaves the mean, E d̂ = d (Gupta et al., 2015).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Pointwise
from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_key
from jaxnn.kernels.products import sum_dtype
from jaxnn.rewrites.leaves import Altered, OfLeaves, of_floating


class Format(NamedTuple):
    """Numbers of eight bits."""

    largest: float
    digits: int | None
    """Of the fraction; None where all numbers have the same distance, 1."""
    smallest_exponent: int = 0
    """Of the numbers with full precision."""


FORMATS = {
    "float8_e4m3fn": Format(448.0, 3, -6),
    "float8_e5m2": Format(57344.0, 2, -14),
    "int8": Format(127.0, None),
}


class low_precision_deltas(OfLeaves):
    """The same network, whose every layer is given dy rounded to ``format``.

    Activations alone are not: they multiply what they are given by their slopes, and the layer
    before them rounds the product. y is the network's own; dx and gradients are those of the
    rounded deltas. Rounding at random needs a key in every forward pass. In inference mode, and of
    `jaxnn.plain`, nothing is rounded.

    Args:
        layer: A layer or a network.
        format: "float8_e4m3fn", "float8_e5m2" or "int8".
        scale: What has an s of its own: the whole dy ("tensor"), each "example", or each "row" of
            features. With one for the whole dy, what an example gets depends on the others: the
            layer mixes them.
        stochastic: Whether rounding is at random, without bias, in place of to the nearest, ties to
            even.

    Raises:
        ValueError: ``format`` or ``scale`` is unknown; with ``stochastic``, there is no key.
    """

    format: Literal["float8_e4m3fn", "float8_e5m2", "int8"] = "float8_e5m2"
    scale: Literal["tensor", "example", "row"] = "tensor"
    stochastic: bool = False

    def replaced(self, leaf: Layer) -> Layer:
        if isinstance(leaf, Pointwise):
            return leaf
        return LowPrecisionDeltas(leaf, self.format, self.scale, self.stochastic)


class LowPrecisionDeltas(Altered):
    """A layer without parts, whose backward pass is given dy rounded."""

    format: str
    scale: str
    stochastic: bool

    @property
    def mixes(self) -> bool | None:
        """Whether one example's scale depends on the others."""
        return self.scale == "tensor" or self.layer.mixes

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, residuals = self.layer.forward(params, state, x, key)
        own = None
        if self.stochastic:  # the layer draws from the key itself
            own = jax.random.fold_in(require_key("low_precision_deltas", key), 4)
        return y, new_state, (residuals, own)

    def backward(self, params: Any, residuals: Any, dy: Any):
        kept, key = residuals

        def rounded(delta: Array, number: int) -> Array:
            own = None if key is None else jax.random.fold_in(key, number)
            return round_to(delta, FORMATS[self.format], self.scale, own)

        return self.layer.backward(params, kept, of_floating(rounded, dy))


def round_to(delta: Array, form: Format, scale: str, key: Array | None = None) -> Array:
    """d̂ of deltas [batch, …] in the dtype of d; at random where there is a key."""
    axes = {"tensor": None, "example": tuple(range(1, delta.ndim)), "row": (-1,)}[scale]
    if delta.ndim < 2 and scale != "tensor":
        axes = ()
    if delta.size == 0:
        return delta
    wide = delta.astype(sum_dtype(delta.dtype))
    s = jnp.max(jnp.abs(wide), axes, keepdims=True) / form.largest
    v = wide / jnp.where(s > 0, s, 1)
    step = jnp.ones_like(v)
    if form.digits is not None:
        _, exponent = jnp.frexp(v)  # |v| in [2^(e−1), 2^e)
        power = jnp.maximum(exponent - 1, form.smallest_exponent) - form.digits
        step = jnp.ldexp(step, power)
    places = v / step
    if key is None:
        places = jnp.round(places)
    else:
        places = jnp.floor(places + jax.random.uniform(key, v.shape, v.dtype))
    rounded = jnp.clip(places * step, -form.largest, form.largest)
    return (jnp.where(s > 0, s, 1) * rounded).astype(delta.dtype)
