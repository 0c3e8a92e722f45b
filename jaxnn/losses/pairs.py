"""Losses of how near two vectors are, each example by itself: the prediction is a tuple.

Such a prediction is what `fork` or `share` returns: arrays [batch, features], of one shape.
"""

from dataclasses import KW_ONLY
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Loss
from jaxnn.core.validation import require_non_negative, require_number, require_positive
from jaxnn.layers.normalization import normalize
from jaxnn.losses.targets import like, like_prediction, require_alike, wide


class OfVectors(Loss):
    """Base of losses whose prediction is a tuple of vectors."""

    mixes = False

    def task(self, classes: int):
        raise ValueError(
            f"{self.name}: expected a loss of one prediction for each example, but this one takes "
            "a tuple of vectors; train with it from Python"
        )


def _require_cosine(where: str, name: str, value: Any) -> float:
    return require_number(where, name, value, minimum=-1, maximum=1)


class cosine_embedding(OfVectors):
    """1 − c where t = 1, max(0, c − margin) where t = −1, with the cosine c of the two vectors.

    With u = a / ‖a‖, v = b / ‖b‖ and c = u · v, ∂c/∂a = (v − c u) / ‖a‖, ∂c/∂b = (u − c v) / ‖b‖.
    A norm below 10⁻⁶ counts as 10⁻⁶, whose slope is 0. The prediction is (a, b), [batch, features]
    both; the target [batch] holds 1 and −1, integers or numbers of the prediction's dtype. Numbers
    between weigh both cases, by (1 + t) / 2 and (1 − t) / 2. At c = margin the slope is 0.

    Args:
        margin: How large the cosine of what is unlike may be, in [−1, 1].

    Raises:
        TypeError: the prediction is no tuple of two arrays.
        ValueError: the shapes do not fit, a label is neither 1 nor −1, or ``margin`` not in
            [−1, 1].
    """

    margin: Annotated[float, _require_cosine] = 0.0

    def value(self, prediction: Any, target: Any):
        first, (u, v, _, _), t = self._read(prediction, target)
        c = jnp.sum(u * v, -1)
        unlike = jax.nn.relu(c - self.margin)
        return like(first, (1 + t) / 2 * (1 - c) + (1 - t) / 2 * unlike)

    def gradient(self, prediction: Any, target: Any):
        first, (u, v, back_u, back_v), t = self._read(prediction, target)
        c = jnp.sum(u * v, -1)
        slope = jnp.where(c > self.margin, (1 - t) / 2, 0) - (1 + t) / 2
        slope = slope[:, None]
        return like(first, back_u(slope * v)), like(first, back_v(slope * u))

    def _read(self, prediction: Any, target: Any) -> tuple[Array, tuple, Array]:
        a, b = require_vectors(self.name, ("first", "second"), prediction)
        of_labels = jax.ShapeDtypeStruct(a.shape[:1], a.dtype)
        t = like_prediction(self.name, of_labels, target, range(-1, 2, 2))
        (u, back_u), (v, back_v) = unit(a), unit(b)
        return a, (u, v, back_u, back_v), t


SHORTEST = 1e-6
"""A vector that is shorter is divided by this in place of its norm."""


def unit(a: Array) -> tuple[Array, Any]:
    """a / max(‖a‖, SHORTEST) along the last axis, in the dtype of sums, and its pull-back."""
    layer = normalize(epsilon=SHORTEST)
    u, residuals = layer.apply(wide(a))
    return u, partial(layer.pull_back, residuals)


def _require_order(where: str, name: str, value: Any) -> float:
    return require_number(where, name, value, minimum=1)


class triplet_margin(OfVectors):
    """max(0, d(a, p) − d(a, n) + margin), with d(x, y) = ‖x − y + ε‖ₚ: like nearer than unlike.

    ∂‖v‖ₚ/∂v = sign(v) (|v| / ‖v‖ₚ)^(p − 1), 0 at v = 0. The prediction is (anchor, positive,
    negative), [batch, features] each, as ``share(network)`` of three inputs gives it. There is no
    target: give None. Where d(a, p) − d(a, n) + margin is 0, so is the slope.

    Args:
        margin: By how much d(a, n) has to be larger, more than 0.
        p: The order of the norm, at least 1.
        swap: Whether d(p, n) takes the place of d(a, n) where it is smaller (Balntas et al., 2016).
        delta: ε, added to every difference.

    Raises:
        TypeError: the prediction is no tuple of three arrays, or there is a target.
        ValueError: the shapes do not fit, or an option is out of its range.
    """

    margin: Annotated[float, require_positive] = 1.0
    p: Annotated[float, _require_order] = 2.0
    _: KW_ONLY
    swap: bool = False
    delta: Annotated[float, require_non_negative] = 1e-6

    def value(self, prediction: Any, target: Any):
        self._require(prediction, target)
        (to_positive, _), (to_negative, _), (between, _) = self._distances(prediction)
        unlike = jnp.where(between < to_negative, between, to_negative)
        return like(prediction[0], jax.nn.relu(to_positive - unlike + self.margin))

    def gradient(self, prediction: Any, target: Any):
        self._require(prediction, target)
        (near, ap), (far, an), (between, pn) = self._distances(prediction)
        swapped = between < far
        acts = near - jnp.where(swapped, between, far) + self.margin > 0
        acts, swapped = acts[:, None], swapped[:, None]
        # Of an and pn, the one that is there; each is the slope by the first of its two vectors.
        an, pn = jnp.where(swapped, 0, an), jnp.where(swapped, pn, 0)
        deltas = (ap - an, -ap - pn, an + pn)
        return tuple(like(prediction[0], jnp.where(acts, d, 0)) for d in deltas)

    def _require(self, prediction: Any, target: Any) -> None:
        require_no_target(self.name, target)
        require_vectors(self.name, ("anchor", "positive", "negative"), prediction)

    def _distances(self, prediction: Any) -> tuple:
        """(distance, its slope by the first vector) of (a, p), (a, n) and (p, n)."""
        a, p, n = map(wide, prediction)
        between = self._distance(p, n) if self.swap else (jnp.inf, jnp.zeros_like(p))
        return self._distance(a, p), self._distance(a, n), between

    def _distance(self, x: Array, y: Array) -> tuple[Array, Array]:
        v = x - y + self.delta
        sizes = v * jnp.sign(v)
        largest = jnp.max(sizes, -1, keepdims=True, initial=0)
        # Relative to the largest, no power overflows; where all are 0, autodiff must meet no 0^½.
        unit = jax.lax.stop_gradient(jnp.where(largest == 0, 1, largest))
        power = jnp.sum((sizes / unit) ** self.p, -1, keepdims=True)
        norm = jnp.where(power == 0, 0, jnp.where(power == 0, 1, power) ** (1 / self.p)) * unit
        shares = sizes / jnp.where(norm == 0, 1, norm)
        return norm[..., 0], jnp.sign(v) * shares ** (self.p - 1)


def require_vectors(name: str, members: tuple[str, ...], prediction: Any) -> tuple:
    """The prediction, which must be a tuple of arrays [batch, features] of one shape and dtype."""
    prediction = require_alike(name, members, prediction)
    if prediction[0].ndim != 2:
        raise ValueError(
            f"{name}: expected {members[0]} to have shape [batch, features], got "
            f"{prediction[0].shape}"
        )
    return prediction


def require_no_target(name: str, target: Any) -> None:
    """Raise TypeError unless the target is None, or without arrays."""
    if jax.tree.leaves(target):
        raise TypeError(f"{name}: expected no target, which is None, got {type(target).__name__}")
