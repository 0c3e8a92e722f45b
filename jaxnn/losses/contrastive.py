"""A loss that tells the pairs of a batch from each other: InfoNCE."""

from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.validation import require_array, require_positive
from jaxnn.losses.pairs import OfVectors, require_vectors, unit
from jaxnn.losses.targets import like

NEVER = -1e30
"""The similarity to who is not there. Where a row is nothing but −∞, autodiff finds ∞ − ∞."""


class contrastive(OfVectors):
    """−log softmax(Sᵢ)ᵢ with Sᵢⱼ = uᵢ · vⱼ / τ: each first vector has to know its own second one.

    The prediction is (a, b), [batch, features] both, u = a / ‖a‖ and v = b / ‖b‖ (a norm below 10⁻⁶
    counts as 10⁻⁶). The other examples of the batch are what an example is told from (van den Oord
    et al., 2018), so that its loss depends on them: `mixes`. Quantities of single examples, private
    gradients and `accumulate` refuse it; an example of weight 0 is left out for the others too.

    With P the softmax of the rows of S, the gradient of Σ fᵢ lᵢ by S is Gᵢⱼ = fᵢ (Pᵢⱼ − [i = j]);
    by u it is G v / τ and by v Gᵀ u / τ, and by a (du − u (u · du)) / ‖a‖. Symmetric, the loss is
    half of this and half of the same with a and b exchanged (Radford et al., 2021), and Gᵢⱼ is the
    mean of fᵢ (Pᵢⱼ − [i = j]) and fⱼ (Qᵢⱼ − [i = j]), with Q the softmax of the columns.

    The target is None, or booleans [batch]: the examples that are there; others have the loss 0.

    Args:
        temperature: τ, more than 0.
        symmetric: Whether second vectors have to know their first ones too.

    Raises:
        TypeError: the prediction is no tuple of two arrays, or the target not as described.
        ValueError: the shapes do not fit, or ``temperature`` is not positive.
    """

    temperature: Annotated[float, require_positive] = 0.1
    _: KW_ONLY
    symmetric: bool = False

    mixes = True

    def value(self, prediction: Any, target: Any):
        first, (u, _), (v, _), there = self._read(prediction, target)
        s = self._similarities(u, v, there)
        values = _own(s, there)
        if self.symmetric:
            values = (values + _own(s.T, there)) / 2
        return like(first, values)

    def gradient(self, prediction: Any, target: Any):
        return self.weighted(prediction, target, jnp.ones(len(prediction[0])))[1]

    def weighted(self, prediction: Any, target: Any, factors: Array):
        first, (u, back_u), (v, back_v), there = self._read(prediction, target)
        s = self._similarities(u, v, there)
        factors = jnp.where(there, factors.astype(s.dtype), 0)
        g = _slope(s, factors)
        if self.symmetric:
            g = (g + _slope(s.T, factors).T) / 2
        g = g / self.temperature
        du, dv = back_u(g @ v), back_v(g.T @ u)
        return self.value(prediction, target), (like(first, du), like(first, dv))

    def leaving_out(self, target: Any, absent: Array):
        return ~absent if target is None else target & ~absent

    def _similarities(self, u: Array, v: Array, there: Array) -> Array:
        both = there[:, None] & there
        return jnp.where(both, u @ v.T / self.temperature, NEVER)

    def _read(self, prediction: Any, target: Any) -> tuple[Array, tuple, tuple, Array]:
        a, b = require_vectors(self.name, ("first", "second"), prediction)
        if target is None:
            return a, unit(a), unit(b), jnp.ones(len(a), bool)
        require_array(self.name, "target", target)
        if target.dtype != bool or target.shape != a.shape[:1]:
            raise TypeError(
                f"{self.name}: expected target to be None or booleans of shape {a.shape[:1]}, "
                f"got {target.dtype}{target.shape}"
            )
        return a, unit(a), unit(b), target


def _own(s: Array, there: Array) -> Array:
    """[batch], −log softmax of each row at its own column; 0 where the example is not there."""
    largest = jax.lax.stop_gradient(jnp.max(s, -1, keepdims=True, initial=NEVER))
    log_sum = jnp.log(jnp.sum(jnp.exp(s - largest), -1)) + largest[:, 0]
    return jnp.where(there, log_sum - jnp.diagonal(s), 0)


def _slope(s: Array, factors: Array) -> Array:
    """The gradient of Σ factors[i] · own loss of row i, by S."""
    e = jnp.exp(s - jnp.max(s, -1, keepdims=True, initial=NEVER))
    softmax = e / jnp.sum(e, -1, keepdims=True)
    return factors[:, None] * (softmax - jnp.eye(len(s), dtype=s.dtype))
