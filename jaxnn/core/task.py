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


def of_numbers(classes: int) -> Task:
    """Numbers, or labels one-hot: for losses of an error."""
    if classes == 0:
        return Task(None, lambda numbers: numbers, None)
    return Task(
        classes,
        lambda labels: np.eye(classes, dtype=np.float32)[_indices(labels, classes)],
        lambda prediction: jnp.argmax(prediction, -1),
    )


def of_labels(where: str, classes: int) -> Task:
    """Labels as they are, one output for each class."""
    if classes == 0:
        raise ValueError(f"{where}: expected data with classes, got numbers to regress")
    return Task(classes, lambda labels: labels, lambda prediction: jnp.argmax(prediction, -1))


def of_two_classes(
    where: str, classes: int, threshold: float, numbers: tuple[float, float]
) -> Task:
    """Labels of two classes as ``numbers`` [n, 1], one output: class 1 above ``threshold``."""
    if classes != 2:
        raise ValueError(f"{where}: expected data with 2 classes, got {classes}")
    return Task(
        outputs=1,
        prepare=lambda labels: np.asarray(numbers, np.float32)[_indices(labels, 2)][:, None],
        decide=lambda prediction: (prediction[:, 0] > threshold).astype(jnp.int32),
    )


def of_many_labels(threshold: float, numbers: tuple[float, float]) -> Task:
    """Truth values [n, labels], 0 or 1, as ``numbers``, one output for each: decided by itself."""
    first, second = numbers
    return Task(
        outputs=None,
        prepare=lambda truth: np.where(np.asarray(truth) > 0.5, second, first).astype(np.float32),
        decide=lambda prediction: (prediction > threshold).astype(jnp.int32),
    )


def _indices(labels: Any, classes: int) -> Any:
    """The labels, once they are found to be classes: NumPy takes −1 for the last one."""
    require_range("task", "labels", labels, 0, classes - 1)
    return labels
