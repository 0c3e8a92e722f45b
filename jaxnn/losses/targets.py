"""What losses share: how they read targets, reduce to one number for each example, in which dtype.

Targets have the shape and the dtype of the prediction; classification losses also take integer
labels, of any integer dtype. Nothing is broadcast. A concrete label that is none of the valid ones
is an error. Inside `jax.jit` the values cannot be inspected: there each loss says what such a label
counts, and functions wrapped in `jax.experimental.checkify.checkify` report it.
"""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.contract import Loss
from jaxnn.core.validation import (
    LARGEST_SIZE,
    brief,
    check_traced,
    known_values,
    require_array,
    require_floating,
    require_integer,
    require_non_negative,
    require_rank,
    widened,
)
from jaxnn.kernels.products import sum_dtype


def wide(a: Any) -> Array:
    """In the dtype of sums: those of half-precision numbers are rounded at the end alone."""
    a = jnp.asarray(a)
    return a.astype(sum_dtype(a.dtype))


def like(prediction: Any, a: Array) -> Array:
    """``a`` in the dtype of the prediction."""
    return a.astype(jax.dtypes.canonicalize_dtype(prediction.dtype))


def size(shape: tuple[int, ...]) -> int:
    """How many a mean is of, at least 1: without outputs the sum is 0, and so is the mean."""
    return max(math.prod(shape), 1)


def sum_by_example(values: Array) -> Array:
    """[batch], the sum over all other axes."""
    return jnp.sum(values, range(1, values.ndim))


def over(of_examples: Any, rank: int) -> Any:
    """[batch] with further axes, to meet an array of this rank; a number stays one."""
    if jnp.ndim(of_examples) == 0:
        return of_examples
    return jnp.expand_dims(of_examples, range(jnp.ndim(of_examples), rank))


def times(t: Array, x: Array) -> Array:
    """t · x, but 0 · ∞ = 0: where nothing is wanted, nothing is lost."""
    return jnp.where(t == 0, 0, t * x)


def times_log(t: Array, y: Array) -> Array:
    """t log y with 0 log 0 = 0, for autodiff too."""
    return t * jnp.log(jnp.where(t == 0, 1, y))


def ratio(t: Array, y: Array) -> Array:
    """t / y, the derivative of t log y by y, with 0 / 0 = 0."""
    return t / jnp.where(t == 0, 1, y)


def require_alike(name: str, members: tuple[str, ...], prediction: Any) -> tuple:
    """The prediction, which must be a tuple of floating-point arrays of one shape and dtype."""
    expected = f"{name}: expected prediction to be a tuple ({', '.join(members)})"
    if not isinstance(prediction, tuple) or len(prediction) != len(members):
        count = f" of {len(prediction)}" if isinstance(prediction, tuple) else ""
        raise TypeError(f"{expected}, got {type(prediction).__name__}{count}")
    for member, a in zip(members, prediction, strict=True):
        require_floating(name, member, a)
        require_rank(name, member, a, 1)
    first = prediction[0]
    for member, a in zip(members, prediction, strict=True):
        if (a.shape, a.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"{expected} of one shape and dtype, got {members[0]} {first.dtype}{first.shape} "
                f"and {member} {a.dtype}{a.shape}"
            )
    return prediction


def like_prediction(name: str, prediction: Any, target: Any, labels: range | None = None) -> Array:
    """The target, which must have the prediction's shape and dtype, in the dtype of sums.

    ``labels``: the integers that it may consist of too.
    """
    require_floating(name, "prediction", prediction)
    require_rank(name, "prediction", prediction, 1)
    require_array(name, "target", target)
    if tuple(target.shape) != tuple(prediction.shape):
        raise ValueError(
            f"{name}: expected target to have the shape of prediction, {prediction.shape}, "
            f"got {target.shape}"
        )
    if labels is not None and not jnp.issubdtype(target.dtype, jnp.inexact):
        return read_labels(name, target, labels).astype(sum_dtype(prediction.dtype))
    if target.dtype != prediction.dtype:
        raise TypeError(
            f"{name}: expected target to have the dtype of prediction, {prediction.dtype}, "
            f"got {target.dtype}"
        )
    return wide(target)


def require_factors(where: str, name: str, value: Any) -> Any:
    """The value: None, a number of at least 0, or a tuple of them."""
    if isinstance(value, tuple | list):
        return tuple(require_non_negative(where, f"every one of {name}", one) for one in value)
    return None if value is None else require_non_negative(where, name, value)


def row_of(where: str, name: str, factors: Any, count: int, dtype: Any) -> Array:
    """Factors as an array of one, or of ``count`` where they are several."""
    row = jnp.asarray(factors, dtype)
    if row.ndim == 1 and len(row) != count:
        raise ValueError(
            f"{where}: expected {name} to hold {count} numbers, one for each on the last axis of "
            f"prediction, got {len(row)}"
        )
    return row


class LabelError(ValueError):
    """A concrete label is none of the valid ones."""

    def __init__(self, expected: str, label: Any, place: Sequence[int]):
        self.expected, self.label, self.place = expected, label, tuple(place)
        example, *position = map(str, place)
        at = f"example {example}" + (f", position {', '.join(position)}" if position else "")
        super().__init__(f"{expected}, got {label} at {at}")


def read_labels(
    name: str, labels: Any, valid: range, *, ignored: int | None = None, note: str = ""
) -> Array:
    """The labels, of any integer dtype, in int32; raises `LabelError` unless they are ``valid``."""
    interval = f"lie in {valid.start} … {valid.stop - 1}"
    named = interval if valid.step == 1 else f"be {' or '.join(map(str, valid))}"
    expected = f"{name}: expected labels to {named}{note}"

    def holds(labels: Any):
        inside = (labels >= valid.start) & (labels < valid.stop)
        inside &= (labels - valid.start) % valid.step == 0
        return inside if ignored is None else inside | (labels == ignored)

    require_everywhere(labels, lambda labels: holds(widened(labels)), expected)
    return jnp.asarray(widened(labels))


def require_everywhere(x: Any, holds: Callable, expected: str) -> None:
    """Raise `LabelError` at the first place where ``holds`` is not true of ``x``.

    Where the values are not known, inside `jax.jit`, see `check_traced`.
    """
    known = known_values(x)
    if known is None:
        check_traced(x, holds, expected)
    elif (wrong := ~holds(known)).any():
        place = np.argwhere(wrong)[0].tolist()
        raise LabelError(expected, known[tuple(place)], place)


def is_integer(a: Any) -> bool:
    """Whether it is an array of integers."""
    return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.integer)


def _require_label(where: str, name: str, value: Any) -> int:
    return require_integer(where, name, value, -(2**31), LARGEST_SIZE)


class OfLabels(Loss):
    """Base of losses that take integer labels [batch, *positions], one for each distribution.

    Args:
        ignore_index: The label of positions that have none. Such a position has the loss and the
            gradient 0, whatever its prediction holds, and the mean over the positions of an example
            is that over the others, 0 if there are none. In the mean over the batch the example
            counts all the same; there, give it the weight 0. Of labels alone, not of distributions.
    """

    mixes = False

    _: KW_ONLY
    ignore_index: Annotated[int, _require_label] | None = None

    def counted(self, labels: Any) -> Array | None:
        """Which labels are not ignored; None where all count."""
        if self.ignore_index is None or not is_integer(labels):
            return None
        return jnp.asarray(widened(labels) != self.ignore_index)

    def read_labels(self, labels: Any, classes: int) -> Array:
        """The labels in int32, −1 for those that are ignored."""
        ignored, note = self.ignore_index, " (ignore_index may name one that is left out)"
        if ignored is not None:
            note = f", or to be {ignored}, which is ignored"
        labels = read_labels(self.name, labels, range(classes), ignored=ignored, note=note)
        return labels if ignored is None else jnp.where(labels == ignored, -1, labels)


def _require_weights(where: str, name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, tuple | list):
        raise TypeError(f"{where}: expected {name} to be a tuple of numbers, got {brief(value)}")
    return require_factors(where, name, value)


class OfWeightedLabels(OfLabels):
    """Base of those whose classes may count differently.

    Args:
        class_weights: cₖ, one number for each class; tₖ becomes cₖ tₖ. An example's loss is still
            divided by the number of its positions, and the mean over the batch by the number of
            examples, so that an example's loss does not depend on the others. PyTorch's ``weight``
            divides the sum over the batch by Σ c of its labels: for that, leave class_weights out
            and give the gradient function the ``weights`` c[labels].
    """

    _: KW_ONLY
    class_weights: Annotated[Any, _require_weights] = None


class Reduced(Loss):
    """Base of losses that are a sum or a mean of terms, over the outputs or positions."""

    mixes = False

    @abc.abstractmethod
    def read(self, prediction: Any, target: Any) -> tuple[Array, Array, Any]:
        """(y, t, count): both in the dtype of sums; the sum is divided by count, one or [batch]."""

    @abc.abstractmethod
    def terms(self, y: Array, t: Array) -> Array:
        """What is summed, batch first."""

    @abc.abstractmethod
    def slope(self, y: Array, t: Array) -> Array:
        """The derivative of the sum of the terms by y."""

    def root(self, y: Array, t: Array, count: Any, v: Array) -> Array:
        """S v, where a root is known; ``count`` meets y."""
        raise NotImplementedError

    def value(self, prediction: Any, target: Any):
        y, t, count = self.read(prediction, target)
        return like(prediction, sum_by_example(self.terms(y, t)) / count)

    def gradient(self, prediction: Any, target: Any):
        y, t, count = self.read(prediction, target)
        return like(prediction, self.slope(y, t) / over(count, y.ndim))

    @property
    def root_known(self) -> bool:
        return type(self).root is not Reduced.root

    def hessian_root(self, prediction: Any, target: Any, v: Any):
        if not self.root_known:
            return super().hessian_root(prediction, target, v)
        y, t, count = self.read(prediction, target)
        return like(prediction, self.root(y, t, over(count, y.ndim), wide(v)))
