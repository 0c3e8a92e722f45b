"""What a loss asks of a data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.validation import require_range


class Task(NamedTuple):
    """How one loss is used on one kind of data."""

    outputs: int | None
    """The number of outputs that the network must have; None where the data decide."""
    prepare: Callable[[Any], Any]
    """(labels or numbers of the data set) -> the target that the loss takes."""
    decide: Callable[[Array], Array] | None
    """(predictions) -> labels; None for regression."""
    numbers: Callable[[Array], Array] = lambda prediction: prediction
    """(predictions) -> the numbers that a regression expects."""
    probabilities: Callable[[Array], Array] | None = None
    """(predictions) -> those of the classes [n, classes], or of the labels [n, labels]; None where
    the loss is not one of probabilities."""
    mean: Any = 0.0
    """Of a regression's target before it was standardised, a number or one for each output,"""
    deviation: Any = 1.0
    """and its deviation: errors are told in the units that it had then."""
    names: tuple[str, ...] = ()
    """Of the classes, labels or outputs; their numbers where there are none."""


def of_numbers(classes: int) -> Task:
    """Numbers, or labels one-hot: for losses of an error."""
    if classes == 0:
        return Task(None, lambda numbers: numbers, None)
    return Task(
        classes,
        lambda labels: np.eye(classes, dtype=np.float32)[_indices(labels, classes)],
        lambda prediction: jnp.argmax(prediction, -1),
    )


def of_labels(where: str, classes: int, probabilities: Callable[[Array], Array]) -> Task:
    """Labels as they are, one output for each class."""
    if classes == 0:
        raise ValueError(f"{where}: expected data with classes, got numbers to regress")
    return Task(
        outputs=classes,
        prepare=lambda labels: labels,
        decide=lambda prediction: jnp.argmax(prediction, -1),
        probabilities=probabilities,
    )


def of_two_classes(
    where: str,
    classes: int,
    threshold: float,
    numbers: tuple[float, float],
    probability: Callable[[Array], Array] | None = None,
) -> Task:
    """Labels of two classes as ``numbers`` [n, 1], one output: class 1 above ``threshold``.

    ``probability``, of class 1, is (predictions [n, 1]) -> [n, 1].
    """
    if classes != 2:
        raise ValueError(f"{where}: expected data with 2 classes, got {classes}")
    return Task(
        outputs=1,
        prepare=lambda labels: np.asarray(numbers, np.float32)[_indices(labels, 2)][:, None],
        decide=lambda prediction: (prediction[:, 0] > threshold).astype(jnp.int32),
        probabilities=probability and (lambda y: _both(probability(y))),
    )


def of_many_labels(
    threshold: float,
    numbers: tuple[float, float],
    probability: Callable[[Array], Array] | None = None,
) -> Task:
    """Truth values [n, labels], 0 or 1, as ``numbers``, one output for each: decided by itself."""
    first, second = numbers
    return Task(
        outputs=None,
        prepare=lambda truth: np.where(np.asarray(truth) > 0.5, second, first).astype(np.float32),
        decide=lambda prediction: (prediction > threshold).astype(jnp.int32),
        probabilities=probability,
    )


def _both(probability: Array) -> Array:
    return jnp.concatenate([1 - probability, probability], axis=1)


def _indices(labels: Any, classes: int) -> Any:
    """The labels, once they are found to be classes: NumPy takes −1 for the last one."""
    require_range("task", "labels", labels, 0, classes - 1)
    return labels
