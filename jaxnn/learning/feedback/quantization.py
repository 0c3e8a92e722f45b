"""Straight-through estimators in the space of weights: binary, ternary, and of few bits."""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.validation import brief
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.reparametrization import Reparametrized, axes_but

Levels = Literal["binary", "ternary"]


def _require_levels(where: str, name: str, value: Any) -> Any:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 8
    if not (is_count or value in ("binary", "ternary")):
        raise ValueError(
            f'{where}: expected {name} to be "binary", "ternary" or a number of bits from 2 to 8, '
            f"got {brief(value)}"
        )
    return value


class quantized(Reparametrized):
    """The layer with weights of few values, learnt as if they were not: Ŵ = q(W), and ∂Ŵ/∂W is
    taken for the identity.

    W is ``weight``, which the optimiser moves, of the shape of the layer's own; q is of each
    output, an index along ``axis``, by itself:

        "binary"    α sign(W), α = mean |W|, with sign(0) = 1 (Rastegari et al., 2016)
        "ternary"   α sign(W) where |W| > Δ = 0.7 mean |W|, else 0; α = mean |W| of those (Li et
                    al., 2016)
        k bits      s round(W / s), s = max |W| / (2ᵏ⁻¹ − 1): as many values on both sides of 0

    Where W = 0 throughout, so is Ŵ. The gradient by W is that by Ŵ (Bengio et al., 2013;
    Courbariaux et al., 2015), so that every quantity of single examples is that of the layer with
    Ŵ. α, Δ and s count as constants: the true gradient, of `plain`, is 0.

    Args:
        layer: A layer with a ``weight``, such as `dense` or `conv`.
        levels: q.
        axis: That of the outputs, the last, unless given; of `conv_transpose` it is −2.

    Raises:
        ValueError: ``levels`` is something else; at ``init``, the layer has no ``weight`` of at
            least 2 axes, or its weight has no such axis.
    """

    layer: Layer
    levels: Annotated[Levels | int, _require_levels] = "binary"
    axis: int = -1
    true_gradient: bool = dataclasses.field(default=False, kw_only=True)
    """Whether the gradient by W is 0 after all; see `plain`."""

    mixes = False

    def plain(self) -> Layer:
        return dataclasses.replace(self, true_gradient=True)

    def start(self, weight: Array, key: Array | None):
        axes_but(self.name, weight, self.axis)
        return {"weight": weight}, ()

    def weight(self, params: dict, own: Any):
        w = params["weight"].astype(sum_dtype(params["weight"].dtype))
        over = axes_but(self.name, w, self.axis)
        values = jax.lax.stop_gradient(_quantized(w, self.levels, over))
        return values, jnp.asarray(0.0 if self.true_gradient else 1.0, w.dtype)

    @staticmethod
    def pull(known: Any, gradient: Array):
        return {"weight": gradient * known}


def _quantized(w: Array, levels: Levels | int, over: tuple[int, ...]) -> Array:
    size = jnp.abs(w)
    sign = jnp.where(w < 0, -1, 1).astype(w.dtype)
    if levels == "binary":
        return sign * jnp.mean(size, over, keepdims=True)
    if levels == "ternary":
        there = size > 0.7 * jnp.mean(size, over, keepdims=True)
        count = jnp.maximum(jnp.sum(there, over, keepdims=True), 1)
        return sign * there * jnp.sum(size * there, over, keepdims=True) / count
    step = jnp.max(size, over, keepdims=True) / (2 ** (levels - 1) - 1)
    return step * jnp.round(w / jnp.where(step > 0, step, 1))
