"""Losses, reduced over the batch."""

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Loss
from jaxnn.core.gradients import (
    of_present,
    of_those_present,
    require_weights,
    weighted_mean,
)
from jaxnn.core.value import checked
from jaxnn.functional.arrays import array, floats, given, numbers, run
from jaxnn.functional.making import function_of
from jaxnn.interop.functions import values
from jaxnn.kernels.products import sum_dtype
from jaxnn.losses import (
    classification,
    elementwise,
    likelihoods,
    pairs,
    projection,
    sequences,
)
from jaxnn.losses import (
    contrastive as of_contrastive,
)
from jaxnn.losses import (
    ctc as of_ctc,
)

Reduction = Literal["mean", "sum", "none"]


class Given(NamedTuple):
    """What a loss is given."""

    prediction: Any
    target: Any
    seen: Callable = lambda prediction: prediction
    """(prediction) -> what the loss sees, once examples of weight 0 are replaced."""


_OPTIONS = """
    reduction: What is made of the losses lᵢ of the examples: "mean", Σ wᵢ lᵢ / Σ wᵢ over the
        batch; "sum", Σ wᵢ lᵢ; or "none", wᵢ lᵢ, [batch].
    weights: wᵢ, [batch], what each example counts; 1 unless given. An example of weight 0
        counts as if it were not there, whatever it holds."""


def _function(
    kind: type[Loss],
    read: Callable,
    axes: int | None = None,
    reduction: Reduction = "mean",
    is_described: bool = False,
) -> Callable:
    """The function of a loss.

    Args:
        kind: Its class.
        read: (loss, *arrays) -> `Given`; the arrays are arguments of the function.
        axes: How many axes one example has, where a prediction with no more is one example.
        reduction: The default.
        is_described: Whether ``read`` says what the loss is, in place of its class.
    """
    own = [
        *inspect.signature(read).parameters.values(),
        Parameter("reduction", Parameter.KEYWORD_ONLY, default=reduction, annotation=Reduction),
        Parameter("weights", Parameter.KEYWORD_ONLY, default=None, annotation=Any),
    ]

    def call(make: Callable, *, reduction: Reduction, weights: Any, **arrays: Any):
        loss = make()
        return reduced(loss, read(loss, **arrays), reduction, weights, axes)

    call.__signature__ = inspect.Signature(own)  # pyright: ignore[reportFunctionMemberAccess]
    call.__doc__ = inspect.cleandoc(read.__doc__ or "") + _OPTIONS
    return function_of(kind, call, text=call if is_described else None)


def reduced(
    loss: Loss, of_loss: Given, reduction: Reduction, weights: Any, axes: int | None
) -> Array:
    """The losses of the examples, differentiated by hand, by what is to be made of them."""
    checked(loss.name, "reduction", reduction, Reduction)
    prediction, target, seen = of_loss
    first = jax.tree.leaves(prediction)[0]
    if weights is not None:
        weights = _like(loss, "weights", weights, first)
    is_single = first.ndim == axes
    if is_single:
        prediction, target, weights = jax.tree.map(lambda a: a[None], (prediction, target, weights))
    prediction, target = of_those_present(loss, weights, prediction, target)
    losses: Any = values(loss, seen(prediction), target)
    require_weights(weights, losses, loss.name)
    losses = of_present(weights, losses)
    if reduction == "mean":
        return weighted_mean(losses, weights)
    weighted = losses if weights is None else losses * weights
    if reduction == "sum":
        return jnp.sum(weighted, dtype=sum_dtype(losses.dtype)).astype(losses.dtype)
    return weighted[0] if is_single else weighted


def _like(loss: Loss, name: str, value: Any, like: Array) -> Array:
    """The value as an array, numbers and integers in the dtype of another."""
    a = array(loss.name, name, value)
    is_number = isinstance(value, bool | int | float)
    return a if jnp.issubdtype(a.dtype, jnp.inexact) and not is_number else a.astype(like.dtype)


def _as_labels(loss: Loss, target: Any, prediction: Array) -> Any:
    """The target as arrays, in which integers are labels or lengths."""
    if isinstance(target, tuple):
        return tuple(_as_labels(loss, member, prediction) for member in target)
    if isinstance(target, float):
        return _like(loss, "target", target, prediction)
    return array(loss.name, "target", target)


def _of_numbers(loss: Loss, prediction: Any, target: Any) -> Given:
    """``prediction`` is [batch, *outputs], or a number.

    Args:
        prediction: Integers are taken in JAX's default floating-point dtype.
        target: In the shape and dtype of prediction; integers are taken as numbers.
    """
    prediction = numbers(loss.name, "prediction", prediction)
    return Given(prediction, _like(loss, "target", target, prediction))


def _of_labels(loss: Loss, prediction: Any, target: Any) -> Given:
    """``prediction`` may be a single example, without the axis of the batch, and so may target.

    Args:
        prediction: Integers are taken in JAX's default floating-point dtype.
        target: Integer labels, or numbers in the shape and dtype of prediction.
    """
    prediction = numbers(loss.name, "prediction", prediction)
    return Given(prediction, _as_labels(loss, target, prediction))


def _of_sequences(loss: Loss, prediction: Any, target: Any) -> Given:
    """The first axes of ``prediction`` are the batch and time.

    Args:
        prediction: [batch, time, ...].
        target: The tuple (target, lengths or mask).
    """
    return _of_labels(loss, prediction, target)


def _of_normal(loss: Loss, mean: Any, target: Any, variance: Any) -> Given:
    """All three are of one shape, [batch, *outputs], or numbers.

    Args:
        mean: m; integers are taken in JAX's default floating-point dtype.
        target: t, in the dtype of the mean; integers are taken as numbers.
        variance: v, in the dtype of the mean.
    """
    mean = numbers(loss.name, "mean", mean)
    variance = _like(loss, "variance", variance, mean)
    return Given((mean, variance), _like(loss, "target", target, mean))


def _of_two(loss: Loss, first: Any, second: Any, target: Any) -> Given:
    """The vectors may be single ones, [features], with one number as target.

    Args:
        first: a, [batch, features].
        second: b, [batch, features].
        target: t, [batch].
    """
    vectors = _vectors(loss, first=first, second=second)
    return Given(vectors, _as_labels(loss, target, vectors[0]))


def _of_pairs(loss: Loss, first: Any, second: Any, target: Any = None) -> Given:
    """The first axis is the batch, whose examples are told from each other.

    Args:
        first: a, [batch, features].
        second: b, [batch, features].
        target: None, or booleans [batch], True for the examples that are there.
    """
    vectors = _vectors(loss, first=first, second=second)
    return Given(vectors, None if target is None else array(loss.name, "target", target))


def _of_three(loss: Loss, anchor: Any, positive: Any, negative: Any) -> Given:
    """The vectors may be single ones, [features].

    Args:
        anchor: a, [batch, features].
        positive: p, [batch, features].
        negative: n, [batch, features].
    """
    return Given(_vectors(loss, anchor=anchor, positive=positive, negative=negative), None)


def _vectors(loss: Loss, **vectors: Any) -> tuple:
    return tuple(floats(loss.name, name, a, "[*batch, features]") for name, a in vectors.items())


def _of_projection(loss: Loss, x: Any, weight: Any, target: Any, bias: Any = None) -> Given:
    """`softmax_cross_entropy` with integer labels, of the logits x W + b.

    At most ``block`` positions · classes logits are held at a time, in the forward pass and, once
    more computed, in the backward pass. The loss of an example is the mean over its positions, of
    a target (labels, lengths or mask) as `sequence_loss` takes it that over the real ones. A label
    that is no class is treated as by `softmax_cross_entropy`.

    Args:
        x: [batch, *positions, features], or [features] with one label.
        weight: W, [features, classes].
        target: Integer labels [batch, *positions], or the tuple (labels, lengths or mask).
        bias: b, [classes], or None.
    """
    x = floats(loss.name, "x", x, "[*batch, features]")
    weight = floats(loss.name, "weight", weight, "[features, classes]")
    bias = None if bias is None else floats(loss.name, "bias", bias, "[classes]")
    layer = projection.projection(weight.shape[1], use_bias=bias is not None)
    params = given(weight=weight, bias=bias)
    return Given(x, _as_labels(loss, target, x), lambda x: run(layer, params, x))


mean_squared_error = _function(elementwise.mean_squared_error, _of_numbers, 0)
mean_absolute_error = _function(elementwise.mean_absolute_error, _of_numbers, 0)
quantile = _function(elementwise.quantile, _of_numbers, 0)
huber = _function(elementwise.huber, _of_numbers, 0)
sum_squared_error = _function(elementwise.sum_squared_error, _of_numbers, 0, "sum")
half_squared_error = _function(elementwise.half_squared_error, _of_numbers, 0, "sum")
sum_absolute_error = _function(elementwise.sum_absolute_error, _of_numbers, 0, "sum")
poisson_nll = _function(likelihoods.poisson_nll, _of_numbers, 0)
gaussian_nll = _function(likelihoods.gaussian_nll, _of_normal, 0)
binary_cross_entropy = _function(elementwise.binary_cross_entropy, _of_labels, 0)
sigmoid_binary_cross_entropy = _function(elementwise.sigmoid_binary_cross_entropy, _of_labels, 0)
hinge = _function(elementwise.hinge, _of_labels, 0)
focal = _function(likelihoods.focal, _of_labels, 0)
categorical_cross_entropy = _function(classification.categorical_cross_entropy, _of_labels, 1)
softmax_cross_entropy = _function(classification.softmax_cross_entropy, _of_labels, 1)
softmax_focal = _function(classification.softmax_focal, _of_labels, 1)
negative_log_likelihood = _function(classification.negative_log_likelihood, _of_labels, 1)
kl_divergence = _function(classification.kl_divergence, _of_labels, 1)
ctc = _function(of_ctc.ctc, _of_labels, 2)
sequence_loss = _function(sequences.sequence_loss, _of_sequences)
projected_cross_entropy = _function(
    projection.projected_cross_entropy, _of_projection, 1, is_described=True
)
cosine_embedding = _function(pairs.cosine_embedding, _of_two, 1)
triplet_margin = _function(pairs.triplet_margin, _of_three, 1)
contrastive = _function(of_contrastive.contrastive, _of_pairs)
