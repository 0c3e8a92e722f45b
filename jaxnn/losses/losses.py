"""Losses: a value for each example of a batch and its gradient by the prediction.

A prediction is [batch, *outputs]. Where a loss is a mean, it is the mean over the outputs of one
example; the mean over the batch is taken by the gradient functions. Targets have the shape and the
dtype of the prediction; classification losses also take integer labels. Nothing is broadcast.

Inside `jax.jit` the values of labels cannot be inspected: a label outside of the classes counts as
a target of zeros. `jaxnn.data` refuses such labels before training starts.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.layer import Loss
from jaxnn.core.validation import require_array, require_floating, require_number, require_rank


def mean_squared_error() -> Loss:
    """(1/n) Σ (y − t)² over the n outputs of an example; gradient 2 (y − t) / n."""
    return _of_error("mean_squared_error", jnp.square, lambda e: 2 * e, mean=True, curvature=2)


def half_squared_error() -> Loss:
    """½ Σ (y − t)²; gradient y − t."""
    return _of_error("half_squared_error", lambda e: e * e / 2, lambda e: e, curvature=1)


def sum_squared_error() -> Loss:
    """Σ (y − t)², the squared L2 norm of the error; gradient 2 (y − t)."""
    return _of_error("sum_squared_error", jnp.square, lambda e: 2 * e, curvature=2)


def sum_absolute_error() -> Loss:
    """Σ |y − t|, the L1 norm of the error; gradient sign(y − t), 0 where they are equal."""
    # The autodiff derivative of jnp.abs at 0 is 1.
    return _of_error("sum_absolute_error", lambda e: e * jnp.sign(e), jnp.sign)


def huber(delta: float = 1.0) -> Loss:
    """Mean over the outputs of e²/2 where |e| ≤ δ, else δ (|e| − δ/2), with e = y − t.

    The gradient is e clipped to [−δ, δ], divided by the number of outputs (Huber, 1964).

    Raises:
        ValueError: ``delta`` is not positive.
    """
    require_number("huber", "delta", delta, minimum=0, open_minimum=True)

    def value(error: Array):
        quadratic = jnp.minimum(jnp.abs(error), delta)
        return quadratic * (jnp.abs(error) - quadratic / 2)

    return _of_error("huber", value, lambda error: jnp.clip(error, -delta, delta), mean=True)


def binary_cross_entropy(delta: float = 1e-7) -> Loss:
    """−(t log(y + δ) + (1 − t) log(1 − y + δ)) of probabilities y, averaged over the outputs.

    The gradient is (1 − t) / (1 − y + δ) − t / (y + δ). δ keeps the loss finite at y = 0 and 1. On
    logits, `sigmoid_binary_cross_entropy` is exact and stable.
    """
    require_number("binary_cross_entropy", "delta", delta, minimum=0)

    def value(y: Array, t: Array):
        return -(t * jnp.log(y + delta) + (1 - t) * jnp.log(1 - y + delta))

    def slope(y: Array, t: Array):
        return (1 - t) / (1 - y + delta) - t / (y + delta)

    return _elementwise("binary_cross_entropy", value, slope, mean=True, labels=True)


def sigmoid_binary_cross_entropy() -> Loss:
    """−(t log σ(z) + (1 − t) log σ(−z)) of logits z, averaged over the outputs; gradient σ(z) − t.

    Computed with log σ(z) = −softplus(−z), which is finite for logits of any size.
    """

    def value(z: Array, t: Array):
        return t * jax.nn.softplus(-z) + (1 - t) * jax.nn.softplus(z)

    def slope(z: Array, t: Array):
        return jax.nn.sigmoid(z) - t

    def curvature(z: Array):
        return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)

    name = "sigmoid_binary_cross_entropy"
    return _elementwise(name, value, slope, mean=True, labels=True, curvature=curvature)


def hinge() -> Loss:
    """max(0, 1 − t y) averaged over the outputs, t = ±1; gradient −t where t y < 1, else 0."""

    def value(y: Array, t: Array):
        return jax.nn.relu(1 - t * y)

    def slope(y: Array, t: Array):
        return jnp.where(t * y < 1, -t, 0)

    return _elementwise("hinge", value, slope, mean=True, labels=True)


def categorical_cross_entropy(delta: float = 1e-7) -> Loss:
    """−Σₖ tₖ log(yₖ + δ) of probabilities y; gradient −tₖ / (yₖ + δ).

    y is [batch, *positions, classes]; t holds integer labels [batch, *positions], or probabilities
    of the shape of y. Positions are averaged. δ keeps the loss finite where y = 0. On logits,
    `softmax_cross_entropy` is exact and stable.
    """
    require_number("categorical_cross_entropy", "delta", delta, minimum=0)

    def value(y: Array, t: Array):
        return -jnp.sum(t * jnp.log(y + delta), -1)

    def slope(y: Array, t: Array):
        return -t / (y + delta)

    return _over_classes("categorical_cross_entropy", value, slope)


def softmax_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """−Σₖ tₖ log softmax(z)ₖ of logits z; gradient softmax(z) Σₖ tₖ − t.

    z is [batch, *positions, classes]; t holds integer labels [batch, *positions], or one-hot or
    soft targets of the shape of z. Positions are averaged. With label smoothing α, t becomes
    (1 − α) t + α / classes. Computed from z − max z, so that logits of any size are safe.

    Raises:
        ValueError: the shapes do not fit, or ``label_smoothing`` is not in [0, 1].
    """
    require_number(
        "softmax_cross_entropy", "label_smoothing", label_smoothing, minimum=0, maximum=1
    )

    def smooth(t: Array):
        if label_smoothing == 0:
            return t
        return (1 - label_smoothing) * t + label_smoothing / t.shape[-1]

    def value(z: Array, t: Array):
        t = smooth(t)
        # A class that is masked by a logit of −∞ and has no target adds nothing: 0 log 0 = 0.
        return -jnp.sum(jnp.where(t == 0, 0, t * jax.nn.log_softmax(z)), -1)

    def slope(z: Array, t: Array):
        t = smooth(t)
        return jax.nn.softmax(z) * jnp.sum(t, -1, keepdims=True) - t

    def root(z: Array, t: Array, v: Array):
        # diag(p) − p pᵀ = S Sᵀ with S = diag(√p) − p √pᵀ, since √p has length 1.
        p = jax.nn.softmax(z)
        along = jnp.sum(jnp.sqrt(p) * v, -1, keepdims=True)
        return jnp.sqrt(jnp.sum(smooth(t), -1, keepdims=True)) * (jnp.sqrt(p) * v - p * along)

    return _over_classes("softmax_cross_entropy", value, slope, root)


def _of_error(
    name: str,
    value: Callable,
    slope: Callable,
    *,
    mean: bool = False,
    curvature: float | None = None,
) -> Loss:
    """A function of the error y − t, summed or averaged over the outputs.

    ``curvature`` is its second derivative, where that is a number.
    """
    return _elementwise(
        name,
        lambda y, t: value(y - t),
        lambda y, t: slope(y - t),
        mean=mean,
        curvature=None if curvature is None else lambda y: jnp.full_like(y, curvature),
    )


def _elementwise(
    name: str,
    value: Callable,
    slope: Callable,
    *,
    mean: bool = False,
    labels: bool = False,
    curvature: Callable | None = None,
) -> Loss:
    """A function of every output and its target, summed or averaged over the outputs.

    ``curvature`` is its second derivative, where that is known and does not depend on the target.
    """

    def per_example(prediction: Array, target: Array):
        target = _like_prediction(name, prediction, target, labels)
        total = _sum_by_example(value(prediction, target))
        return total / _size(prediction.shape[1:]) if mean else total

    def gradient(prediction: Array, target: Array):
        delta = slope(prediction, _like_prediction(name, prediction, target, labels))
        return delta / _size(prediction.shape[1:]) if mean else delta

    if curvature is None:
        return Loss(per_example, gradient, name)

    def hessian_root(prediction: Array, target: Array, v: Array):
        _like_prediction(name, prediction, target, labels)
        count = _size(prediction.shape[1:]) if mean else 1
        return jnp.sqrt(curvature(prediction) / count) * v

    return Loss(per_example, gradient, name, hessian_root)


def _over_classes(
    name: str, value: Callable, slope: Callable, root: Callable | None = None
) -> Loss:
    """A function of the distribution on the last axis and its target, averaged over positions.

    ``root``: (prediction, target, v) -> S v for a root S of its Hessian, where that is known.
    """

    def per_example(prediction: Array, target: Array):
        values = value(prediction, _one_hot(name, prediction, target))
        return _sum_by_example(values) / _size(prediction.shape[1:-1])

    def gradient(prediction: Array, target: Array):
        return slope(prediction, _one_hot(name, prediction, target)) / _size(prediction.shape[1:-1])

    if root is None:
        return Loss(per_example, gradient, name)

    def hessian_root(prediction: Array, target: Array, v: Array):
        column = root(prediction, _one_hot(name, prediction, target), v)
        return column / math.sqrt(_size(prediction.shape[1:-1]))

    return Loss(per_example, gradient, name, hessian_root)


def _sum_by_example(values: Array) -> Array:
    return jnp.sum(values, range(1, values.ndim))


def _size(shape: tuple[int, ...]) -> int:
    return max(math.prod(shape), 1)  # no outputs: the sum is 0, and so is the mean


def _like_prediction(name: str, prediction: Array, target: Array, labels: bool = False) -> Array:
    """The target, which must have the prediction's shape and dtype (labels may be integers)."""
    require_floating(name, "prediction", prediction)
    require_rank(name, "prediction", prediction, 1)
    require_array(name, "target", target)
    if target.shape != prediction.shape:
        raise ValueError(
            f"{name}: expected target to have the shape of prediction, {prediction.shape}, "
            f"got {target.shape}"
        )
    if labels and not jnp.issubdtype(target.dtype, jnp.inexact):
        return target.astype(prediction.dtype)
    if target.dtype != prediction.dtype:
        raise TypeError(
            f"{name}: expected target to have the dtype of prediction, {prediction.dtype}, "
            f"got {target.dtype}"
        )
    return target


def _one_hot(name: str, prediction: Array, target: Array) -> Array:
    """The target as a distribution over the last axis of the prediction."""
    require_floating(name, "prediction", prediction)
    require_rank(name, "prediction", prediction, 2)
    require_array(name, "target", target)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        return _like_prediction(name, prediction, target)
    if target.shape != prediction.shape[:-1]:
        raise ValueError(
            f"{name}: expected integer labels to have shape {prediction.shape[:-1]}, one for each "
            f"distribution in prediction, got {target.shape}"
        )
    return jax.nn.one_hot(target, prediction.shape[-1], dtype=prediction.dtype)
