"""Losses of a distribution over classes: a value for each example, and its gradient.

Inside `jax.jit`, a label outside of the classes counts as a target of zeros, with the loss and the
gradient 0, label smoothing or not; `jaxnn.data` refuses such labels before training starts.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.task import of_labels
from jaxnn.core.validation import (
    require_array,
    require_floating,
    require_non_negative,
    require_rank,
    require_share,
)
from jaxnn.losses.targets import (
    OfLabels,
    Reduced,
    is_integer,
    like_prediction,
    ratio,
    size,
    sum_by_example,
    times,
    times_log,
    wide,
)


class OfDistribution(Reduced, OfLabels):
    """Base of losses of a distribution on the last axis, averaged over positions."""

    def smoothed(self, t: Array, known: Any) -> Array:
        """What it makes of targets, which are zeros where not ``known``."""
        return t

    def task(self, classes: int):
        return of_labels(self.name, classes)

    def read(self, prediction: Any, target: Any):
        require_floating(self.name, "prediction", prediction)
        require_rank(self.name, "prediction", prediction, 2)
        require_array(self.name, "target", target)
        y, count = wide(prediction), size(prediction.shape[1:-1])
        if not is_integer(target):
            t = like_prediction(self.name, prediction, target)
            return y, self.smoothed(t, True), count
        if tuple(target.shape) != tuple(prediction.shape[:-1]):
            raise ValueError(
                f"{self.name}: expected integer labels to have shape {prediction.shape[:-1]}, one "
                f"for each distribution in prediction, got {target.shape}"
            )
        classes = prediction.shape[-1]
        labels, counted = self.read_labels(target, classes), self.counted(target)
        if counted is not None:
            y = jnp.where(counted[..., None], y, 0)
            count = jnp.maximum(sum_by_example(counted), 1).astype(y.dtype)
        one_hot = jax.nn.one_hot(labels, classes, dtype=y.dtype)
        known = (labels >= 0) & (labels < classes)
        return y, self.smoothed(one_hot, known[..., None]), count


class categorical_cross_entropy(OfDistribution):
    """−Σₖ tₖ log(yₖ + δ) of probabilities y; gradient −tₖ / (yₖ + δ).

    y is [batch, *positions, classes]; t holds integer labels [batch, *positions], or probabilities
    of the shape of y. Positions are averaged. δ keeps the loss finite where y = 0; 0 log 0 is 0. On
    logits, `softmax_cross_entropy` is exact and stable.
    """

    delta: Annotated[float, require_non_negative] = 1e-7

    def terms(self, y: Array, t: Array):
        return -jnp.sum(times_log(t, y + self.delta), -1)

    def slope(self, y: Array, t: Array):
        return -ratio(t, y + self.delta)


class softmax_cross_entropy(OfDistribution):
    """−Σₖ tₖ log softmax(z)ₖ of logits z; gradient softmax(z) Σₖ tₖ − t.

    z is [batch, *positions, classes]; t holds integer labels [batch, *positions], or one-hot or
    soft targets of the shape of z. Positions are averaged. With label smoothing α, t becomes
    (1 − α) t + α / classes. Computed from z − max z, so that logits of any size are safe.

    Raises:
        ValueError: the shapes do not fit, or ``label_smoothing`` is not in [0, 1].
    """

    label_smoothing: Annotated[float, require_share] = 0.0

    def smoothed(self, t: Array, known: Any):
        if self.label_smoothing == 0:
            return t
        uniform = self.label_smoothing / t.shape[-1]
        return jnp.where(known, (1 - self.label_smoothing) * t + uniform, 0)

    def terms(self, y: Array, t: Array):
        # A class that is masked by a logit of −∞ and has no target adds nothing.
        return -jnp.sum(times(t, jax.nn.log_softmax(y)), -1)

    def slope(self, y: Array, t: Array):
        return jax.nn.softmax(y) * jnp.sum(t, -1, keepdims=True) - t

    def root(self, y: Array, t: Array, count: Any, v: Array):
        # diag(p) − p pᵀ = S Sᵀ with S = diag(√p) − p √pᵀ, since √p has length 1.
        p = jax.nn.softmax(y)
        along = jnp.sum(jnp.sqrt(p) * v, -1, keepdims=True)
        column = jnp.sqrt(jnp.sum(t, -1, keepdims=True)) * (jnp.sqrt(p) * v - p * along)
        return column / jnp.sqrt(count)
