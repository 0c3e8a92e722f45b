"""Losses of a distribution over classes: a value for each example, and its gradient.

Inside `jax.jit`, a label outside of the classes counts as a target of zeros, with the loss and the
gradient 0, label smoothing or not; `jaxnn.data` refuses such labels before training starts.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

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
    OfWeightedLabels,
    Reduced,
    is_integer,
    like_prediction,
    ratio,
    row_of,
    size,
    sum_by_example,
    times,
    times_log,
    wide,
)


class OfDistribution(Reduced, OfLabels):
    """Base of losses of a distribution on the last axis, averaged over positions."""

    probabilities: ClassVar[Callable[[Array], Array]] = staticmethod(jax.nn.softmax)
    """(predictions) -> the probabilities that they mean."""

    def distribution(self, t: Array) -> Array:
        """The probabilities that a target of floating-point numbers means."""
        return t

    def wanted(self, t: Array, known: Any) -> Array:
        """What it makes of targets, which are zeros where not ``known``."""
        return t

    def task(self, classes: int):
        return of_labels(self.name, classes, self.probabilities)

    def read(self, prediction: Any, target: Any):
        require_floating(self.name, "prediction", prediction)
        require_rank(self.name, "prediction", prediction, 2)
        require_array(self.name, "target", target)
        y, count = wide(prediction), size(prediction.shape[1:-1])
        if not is_integer(target):
            t = like_prediction(self.name, prediction, target)
            return y, self.wanted(self.distribution(t), True), count
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
        return y, self.wanted(one_hot, known[..., None]), count


class OfClasses(OfDistribution, OfWeightedLabels):
    """Base of those whose classes may count differently."""

    def wanted(self, t: Array, known: Any):
        if self.class_weights is None:
            return t
        return t * row_of(self.name, "class_weights", self.class_weights, t.shape[-1], t.dtype)


class categorical_cross_entropy(OfClasses):
    """−Σₖ tₖ log(yₖ + δ) of probabilities y; gradient −tₖ / (yₖ + δ).

    y is [batch, *positions, classes]; t holds integer labels [batch, *positions], or probabilities
    of the shape of y. Positions are averaged. δ keeps the loss finite where y = 0; 0 log 0 is 0. On
    logits, `softmax_cross_entropy` is exact and stable.
    """

    delta: Annotated[float, require_non_negative] = 1e-7

    probabilities = staticmethod(lambda y: y)

    def terms(self, y: Array, t: Array):
        return -jnp.sum(times_log(t, y + self.delta), -1)

    def slope(self, y: Array, t: Array):
        return -ratio(t, y + self.delta)


class negative_log_likelihood(OfClasses):
    """−Σₖ tₖ yₖ of log-probabilities y, as `log_softmax` gives them; gradient −t.

    y is [batch, *positions, classes]; t holds integer labels [batch, *positions], or probabilities
    of the shape of y. Positions are averaged. A class that is not wanted adds nothing where its
    log-probability is −∞. The Hessian by y is 0: for curvature, `softmax_cross_entropy` of logits.
    """

    probabilities = staticmethod(jnp.exp)

    def terms(self, y: Array, t: Array):
        return -jnp.sum(times(t, y), -1)

    def slope(self, y: Array, t: Array):
        return -t


class kl_divergence(OfDistribution):
    """Σₖ tₖ (log tₖ − yₖ) of log-probabilities y, the divergence of t from exp y; gradient −t.

    y is [batch, *positions, classes]; t holds probabilities of the shape of y, or integer labels
    [batch, *positions] for distributions that are certain. Positions are averaged; 0 log 0 is 0,
    and 0 · ∞ too. The Hessian by y is 0.

    Args:
        log_target: Whether floating-point targets are logarithms of probabilities; −∞ is one of 0.
    """

    log_target: bool = False

    def distribution(self, t: Array):
        return jnp.exp(t) if self.log_target else t

    probabilities = staticmethod(jnp.exp)

    def terms(self, y: Array, t: Array):
        return jnp.sum(times_log(t, t) - times(t, y), -1)

    def slope(self, y: Array, t: Array):
        return -t


class softmax_cross_entropy(OfClasses):
    """−Σₖ tₖ log softmax(z)ₖ of logits z; gradient softmax(z) Σₖ tₖ − t.

    z is [batch, *positions, classes]; t holds integer labels [batch, *positions], or one-hot or
    soft targets of the shape of z. Positions are averaged. With label smoothing α, t becomes
    (1 − α) t + α / classes, before ``class_weights``. Computed from z − max z, so that logits of
    any size are safe.

    Raises:
        ValueError: the shapes do not fit, or ``label_smoothing`` is not in [0, 1].
    """

    label_smoothing: Annotated[float, require_share] = 0.0

    def wanted(self, t: Array, known: Any):
        if self.label_smoothing:
            uniform = self.label_smoothing / t.shape[-1]
            t = jnp.where(known, (1 - self.label_smoothing) * t + uniform, 0)
        return super().wanted(t, known)

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


class softmax_focal(OfClasses):
    """−Σₖ tₖ (1 − pₖ)^γ log pₖ of logits z, p = softmax(z): examples that are easy count less.

    With the slope of a term by log pₖ, aₖ = tₖ (γ pₖ (1 − pₖ)^(γ−1) log pₖ − (1 − pₖ)^γ), and
    ∂ log pₖ/∂zⱼ = [j = k] − pⱼ, the gradient is a − p Σₖ aₖ. z is [batch, *positions, classes]; t
    holds integer labels [batch, *positions], or probabilities of the shape of z. Positions are
    averaged. γ = 0 is `softmax_cross_entropy`; of two classes by one logit see `focal`.

    Raises:
        ValueError: the shapes do not fit, or ``gamma`` is negative.
    """

    gamma: Annotated[float, require_non_negative] = 2.0

    def terms(self, y: Array, t: Array):
        log_p = jax.nn.log_softmax(y)
        return -jnp.sum(times(t, self._others(log_p) * log_p), -1)

    def slope(self, y: Array, t: Array):
        log_p = jax.nn.log_softmax(y)
        p, rest = jnp.exp(log_p), -jnp.expm1(log_p)
        # log p / (1 − p), whose limit at p = 1 is −1; p log p is 0 at p = 0.
        ratio = jnp.where(rest == 0, -1, times(p, log_p) / jnp.where(rest == 0, 1, rest))
        a = times(t, self._others(log_p) * (self.gamma * ratio - 1))
        return a - p * jnp.sum(a, -1, keepdims=True)

    def _others(self, log_p: Array) -> Array:
        """(1 − p)^γ, with the slope 0 where p = 1."""
        if self.gamma == 0:
            return jnp.ones_like(log_p)
        rest = -jnp.expm1(log_p)
        return jnp.where(rest == 0, 0, jnp.where(rest == 0, 1, rest) ** self.gamma)
