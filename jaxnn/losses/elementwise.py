"""Losses of every output by itself: a value for each example, and its gradient by the prediction.

A prediction is [batch, *outputs]. Where a loss is a mean, it is the mean over the outputs of one
example; the mean over the batch is taken by the gradient functions.
"""

import abc
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.task import of_numbers, of_two_classes
from jaxnn.core.validation import require_non_negative, require_number, require_positive
from jaxnn.losses.targets import (
    Reduced,
    like_prediction,
    ratio,
    require_factors,
    row_of,
    size,
    times,
    times_log,
    wide,
)


class Elementwise(Reduced):
    """Base of losses that sum or average a function of every output and its target."""

    averages: ClassVar[bool] = True
    labels: ClassVar[range | None] = None
    """The integers that a target may consist of."""

    def read(self, prediction: Any, target: Any):
        t = like_prediction(self.name, prediction, target, self.labels)
        return wide(prediction), t, size(prediction.shape[1:]) if self.averages else 1


class OfError(Elementwise):
    """Base of losses that are a function of the error y − t."""

    @abc.abstractmethod
    def of_error(self, e: Array) -> tuple[Array, Array]:
        """The function and its derivative."""

    def terms(self, y: Array, t: Array):
        return self.of_error(y - t)[0]

    def slope(self, y: Array, t: Array):
        return self.of_error(y - t)[1]

    def task(self, classes: int):
        return of_numbers(classes)


class _SquaredError(OfError):
    def of_error(self, e: Array):
        return jnp.square(e), 2 * e

    def root(self, y: Array, t: Array, count: Any, v: Array):
        return jnp.sqrt(jnp.full_like(y, 2) / count) * v


class mean_squared_error(_SquaredError):
    """(1/n) Σ (y − t)² over the n outputs of an example; gradient 2 (y − t) / n."""


class sum_squared_error(_SquaredError):
    """Σ (y − t)², the squared L2 norm of the error; gradient 2 (y − t)."""

    averages = False


class half_squared_error(OfError):
    """½ Σ (y − t)²; gradient y − t."""

    averages = False

    def of_error(self, e: Array):
        return e * e / 2, e

    def root(self, y: Array, t: Array, count: Any, v: Array):
        return v


class _AbsoluteError(OfError):
    def of_error(self, e: Array):
        return e * jnp.sign(e), jnp.sign(e)  # the autodiff derivative of jnp.abs at 0 is 1


class mean_absolute_error(_AbsoluteError):
    """(1/n) Σ |y − t| over the n outputs of an example; gradient sign(y − t) / n, 0 where equal."""


class sum_absolute_error(_AbsoluteError):
    """Σ |y − t|, the L1 norm of the error; gradient sign(y − t), 0 where they are equal."""

    averages = False


def _require_level(where: str, name: str, value: Any) -> float:
    bounds: dict[str, Any] = {"minimum": 0, "maximum": 1}
    return require_number(where, name, value, **bounds, open_minimum=True, open_maximum=True)


class quantile(OfError):
    """Mean over the outputs of τ (t − y) where y ≤ t, else (1 − τ) (y − t): the pinball loss.

    Its minimum is the quantile of level τ of the targets (Koenker and Bassett, 1978); that of level
    ½ is half of `mean_absolute_error`. The slope, divided by the number of outputs, is −τ where
    y < t, 1 − τ where y > t, and 0 where they are equal.

    Raises:
        ValueError: ``level`` is not in (0, 1).
    """

    level: Annotated[float, _require_level] = 0.5

    def of_error(self, e: Array):
        slope = jnp.sign(e) * jnp.where(e > 0, 1 - self.level, self.level)
        return e * slope, slope


class huber(OfError):
    """Mean over the outputs of e²/2 where |e| ≤ δ, else δ (|e| − δ/2), with e = y − t.

    The gradient is e clipped to [−δ, δ], divided by the number of outputs (Huber, 1964).

    Raises:
        ValueError: ``delta`` is not positive.
    """

    delta: Annotated[float, require_positive] = 1.0

    def of_error(self, e: Array):
        quadratic = jnp.minimum(jnp.abs(e), self.delta)
        value = quadratic * (jnp.abs(e) - quadratic / 2)
        return value, jnp.clip(e, -self.delta, self.delta)


class Binary(Elementwise):
    """Base of losses of two classes, in whose targets a label is one of two integers.

    Inside `jax.jit`, another integer counts as that number.
    """

    labels: ClassVar[range] = range(2)
    threshold: ClassVar[float] = 0.0
    """The prediction above which the class is 1."""
    probability: ClassVar[Callable[[Array], Array] | None] = None
    """(predictions) -> the probability of class 1 that they mean, if they mean one."""

    def task(self, classes: int):
        first, second = map(float, self.labels)
        numbers = first, second
        return of_two_classes(self.name, classes, self.threshold, numbers, self.probability)


class _CrossEntropy(Binary):
    """Base of the binary cross-entropies, with pos_weight: see there."""

    _: KW_ONLY
    pos_weight: Annotated[Any, require_factors] = None

    def positive(self, y: Array, t: Array) -> Array:
        """w t: how much is wanted of class 1."""
        if self.pos_weight is None:
            return t
        return t * row_of(self.name, "pos_weight", self.pos_weight, size(y.shape[1:][-1:]), y.dtype)


class binary_cross_entropy(_CrossEntropy):
    """−(w t log(y + δ) + (1 − t) log(1 − y + δ)) of probabilities y, averaged over the outputs.

    The gradient is (1 − t) / (1 − y + δ) − w t / (y + δ). δ keeps the loss finite at y = 0 and 1;
    0 log 0 is 0. On logits, `sigmoid_binary_cross_entropy` is exact and stable.

    Args:
        delta: δ.
        pos_weight: w, what class 1 counts; a number, or one for each output on the last axis.

    Raises:
        ValueError: ``delta`` or a weight is negative, or there are other than one for each output.
    """

    delta: Annotated[float, require_non_negative] = 1e-7

    threshold = 0.5
    probability = staticmethod(lambda y: y)

    def terms(self, y: Array, t: Array):
        of_ones = times_log(self.positive(y, t), y + self.delta)
        return -(of_ones + times_log(1 - t, 1 - y + self.delta))

    def slope(self, y: Array, t: Array):
        of_ones = ratio(self.positive(y, t), y + self.delta)
        return ratio(1 - t, 1 - y + self.delta) - of_ones


class sigmoid_binary_cross_entropy(_CrossEntropy):
    """−(w t log σ(z) + (1 − t) log σ(−z)) of logits z, averaged over the outputs.

    The gradient is (1 − t) σ(z) − w t σ(−z), which is σ(z) − t where w = 1; the second derivative
    (w t + 1 − t) σ(z) σ(−z). Computed with log σ(z) = −softplus(−z), which is finite for logits of
    any size.

    Args:
        pos_weight: w, what class 1 counts; a number, or one for each output on the last axis.

    Raises:
        ValueError: a weight is negative, or there are other than one for each output.
    """

    probability = staticmethod(jax.nn.sigmoid)

    def terms(self, y: Array, t: Array):
        of_ones = times(self.positive(y, t), jax.nn.softplus(-y))
        return of_ones + times(1 - t, jax.nn.softplus(y))

    def slope(self, y: Array, t: Array):
        if self.pos_weight is None:
            return jax.nn.sigmoid(y) - t
        return (1 - t) * jax.nn.sigmoid(y) - self.positive(y, t) * jax.nn.sigmoid(-y)

    def root(self, y: Array, t: Array, count: Any, v: Array):
        wanted = 1 if self.pos_weight is None else self.positive(y, t) + 1 - t
        return jnp.sqrt(wanted * jax.nn.sigmoid(y) * jax.nn.sigmoid(-y) / count) * v


class hinge(Binary):
    """max(0, 1 − t y) averaged over the outputs, t = ±1; gradient −t where t y < 1, else 0."""

    labels = range(-1, 2, 2)

    def terms(self, y: Array, t: Array):
        return jax.nn.relu(1 - t * y)

    def slope(self, y: Array, t: Array):
        return jnp.where(t * y < 1, -t, 0)
