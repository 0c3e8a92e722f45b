"""Losses of every output by itself that are a negative logarithm of a likelihood, or weigh one.

The likelihoods of normal and of Poisson distributed numbers, and the focal loss of two classes.
"""

import math
from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Loss
from jaxnn.core.task import of_numbers
from jaxnn.core.validation import require_non_negative, require_positive, require_share
from jaxnn.losses.elementwise import Binary, Elementwise
from jaxnn.losses.targets import (
    like,
    like_prediction,
    ratio,
    require_alike,
    require_everywhere,
    size,
    sum_by_example,
    times,
    times_log,
    wide,
)


class focal(Binary):
    """−(α t (1 − p)^γ log p + (1 − α) (1 − t) p^γ log(1 − p)) of logits z, p = σ(z).

    Averaged over the outputs; examples that are easy count less (Lin et al., 2017). Both terms are
    f(z) = σ(−z)^γ softplus(−z), at z and at −z, and since σ(−z) = exp(−softplus(z)), its slope is
    f'(z) = −σ(−z)^γ (γ σ(z) softplus(−z) + σ(−z)). Finite for logits of any size.

    Args:
        gamma: γ; 0 is `sigmoid_binary_cross_entropy`.
        alpha: α, what class 1 counts, and 1 − α class 0; None where both count 1.

    Raises:
        ValueError: ``gamma`` is negative, or ``alpha`` not in [0, 1].
    """

    gamma: Annotated[float, require_non_negative] = 2.0
    _: KW_ONLY
    alpha: Annotated[float, require_share] | None = None

    probability = staticmethod(jax.nn.sigmoid)

    def terms(self, y: Array, t: Array):
        ones, zeros = self._wanted(t)
        return times(ones, self._easing(y)) + times(zeros, self._easing(-y))

    def slope(self, y: Array, t: Array):
        ones, zeros = self._wanted(t)
        return times(ones, self._slope(y)) - times(zeros, self._slope(-y))

    def _wanted(self, t: Array) -> tuple[Array, Array]:
        return (t, 1 - t) if self.alpha is None else (self.alpha * t, (1 - self.alpha) * (1 - t))

    def _easing(self, z: Array) -> Array:
        return times(self._others(z), jax.nn.softplus(-z))

    def _slope(self, z: Array) -> Array:
        certain = times(jax.nn.sigmoid(z), jax.nn.softplus(-z))
        return -self._others(z) * (self.gamma * certain + jax.nn.sigmoid(-z))

    def _others(self, z: Array) -> Array:
        """σ(−z)^γ."""
        return jnp.exp(-self.gamma * jax.nn.softplus(z)) if self.gamma else jnp.ones_like(z)


class poisson_nll(Elementwise):
    """Mean over the outputs of eʸ − t y: −log of the Poisson probability of counts t of rate eʸ.

    The gradient is (eʸ − t) / n, the second derivative eʸ / n. log t!, which does not depend on y,
    is left out. With ``log_input=False``, y is the rate itself: y − t log(y + δ), gradient
    1 − t / (y + δ), second derivative t / (y + δ)².

    Args:
        log_input: Whether y is the logarithm of the rate.
        full: Whether Stirling's approximation of log t!, t log t − t + ½ log(2 π t), is added where
            t > 1.
        delta: δ, which keeps the loss finite where the rate is 0.

    Raises:
        ValueError: a concrete target, or ``delta``, is negative.
    """

    log_input: bool = True
    _: KW_ONLY
    full: bool = False
    delta: Annotated[float, require_non_negative] = 1e-8

    def read(self, prediction: Any, target: Any):
        y, t, count = super().read(prediction, target)
        self._require_counts(target)
        return y, t, count

    def terms(self, y: Array, t: Array):
        rate = jnp.exp(y) if self.log_input else y
        values = rate - (times(t, y) if self.log_input else times_log(t, y + self.delta))
        if self.full:
            many = jnp.where(t > 1, t, 1)
            stirling = many * jnp.log(many) - many + jnp.log(2 * math.pi * many) / 2
            values += jnp.where(t > 1, stirling, 0)
        return values

    def slope(self, y: Array, t: Array):
        return jnp.exp(y) - t if self.log_input else 1 - ratio(t, y + self.delta)

    def root(self, y: Array, t: Array, count: Any, v: Array):
        deviation = jnp.exp(y / 2) if self.log_input else ratio(jnp.sqrt(t), y + self.delta)
        return deviation / jnp.sqrt(jnp.asarray(count, y.dtype)) * v

    def task(self, classes: int):
        if classes:
            raise ValueError(f"{self.name}: expected data with counts, got {classes} classes")

        def prepare(numbers: Any):
            self._require_counts(numbers)
            return numbers

        rate = jnp.exp if self.log_input else (lambda prediction: prediction)
        return of_numbers(0)._replace(prepare=prepare, numbers=rate)

    def _require_counts(self, target: Any) -> None:
        expected = f"{self.name}: expected counts of at least 0 as target"
        require_everywhere(target, lambda t: t >= 0, expected)


class gaussian_nll(Loss):
    """Mean over the outputs of ½ (log v + (t − m)² / v), with the prediction (m, v).

    −log of the normal density of t with mean m and variance v; the prediction is a tuple, as
    ``fork(dense(n), serial(dense(n), softplus()))`` gives it, both of the shape of t. The gradient
    is (m − t) / v by m and ½ (1 / v − (t − m)² / v²) by v, both divided by n. Where v is below
    ``delta`` value and gradient are those at ``delta``: the gradient is not cut off, so that v can
    grow again.

    Args:
        full: Whether ½ log 2π is added.
        delta: The smallest variance.

    Raises:
        TypeError: the prediction is no tuple of two arrays.
        ValueError: shapes or dtypes are not the same, a concrete variance is negative, or ``delta``
            is not positive.
    """

    mixes = False

    full: bool = False
    _: KW_ONLY
    delta: Annotated[float, require_positive] = 1e-6

    def value(self, prediction: Any, target: Any):
        m, v, t, count = self._read(prediction, target)
        # Not of a square, which overflows or vanishes where the quotient does not.
        values = (jnp.log(v) + (t - m) * ((t - m) / v)) / 2
        if self.full:
            values += math.log(2 * math.pi) / 2
        return like(prediction[0], sum_by_example(values) / count)

    def gradient(self, prediction: Any, target: Any):
        m, v, t, count = self._read(prediction, target)
        by_mean = (m - t) / v
        by_variance = (1 / v - jnp.square(by_mean)) / 2
        return like(prediction[0], by_mean / count), like(prediction[1], by_variance / count)

    def task(self, classes: int):
        raise ValueError(
            f"{self.name}: expected a loss of one prediction for each number, but this one takes "
            "the tuple (mean, variance); train with it from Python"
        )

    def _read(self, prediction: Any, target: Any) -> tuple[Array, Array, Array, int]:
        mean, variance = require_alike(self.name, ("mean", "variance"), prediction)
        t = like_prediction(self.name, mean, target)
        expected = f"{self.name}: expected variances of at least 0"
        require_everywhere(variance, lambda v: v >= 0, expected)
        v = wide(variance)
        # Its derivative is 1 everywhere, for autodiff too.
        raised = v + jax.lax.stop_gradient(jnp.maximum(self.delta - v, 0))
        return wide(mean), raised, t, size(mean.shape[1:])
