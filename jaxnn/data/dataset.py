"""A data set in memory, and the checks that every one passes before work starts."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.tables.columns import Column


class Dataset(NamedTuple):
    """Examples with their targets, as numpy arrays."""

    x: Any
    """[examples, ...]: float32 in splits, with the digits that their file gives them before. Where
    columns are embedded, in splits a tuple: see `jaxnn.data.preparation.Preparation.together`."""
    target: np.ndarray
    """int32 labels [examples], or for regression [examples, outputs], which have the dtype of x."""
    feature_names: tuple[str, ...]
    """One for each column of x; () where features have no names (images)."""
    class_names: tuple[str, ...]
    """One for each label; () for regression."""
    target_names: tuple[str, ...] = ()
    """One for each output of a regression, where they have names."""
    task: str = ""
    """"labels" where the outputs are truth values, of which each example has any number."""
    columns: tuple[Column, ...] = ()
    """Of a table, before they are encoded: x then has one column for each, with NaN for a gap."""
    groups: np.ndarray | None = None
    """[examples]: those of one group are not to be divided by a split."""
    images: Any = None
    """`jaxnn.data.images.Pixels` where x are pixels of image files, 0 to 255."""
    weights: np.ndarray | None = None
    """[examples], float32: what each counts in training and in metrics, at least 0."""


def rows_of(x: Any, index: Any) -> Any:
    """The examples at ``index`` of an array or of the arrays of a tuple."""
    return tuple(a[index] for a in x) if isinstance(x, tuple) else x[index]


def make_dataset(
    where: str,
    x: Any,
    target: Any,
    feature_names: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Dataset:
    """A `Dataset` of ``x`` and ``target`` as a file has them, checked.

    x keeps the digits that it has, for a `Preparation` to round them.

    Raises:
        TypeError: x is not made of real numbers, or labels are not integers.
        ValueError: no examples; lengths that differ; NaN or infinity (in float32), with the number
            of such values and the place of the first; labels out of range.
    """
    x = as_features(where, x, feature_names)
    target = np.asarray(target)
    if target.ndim == 0 or len(target) != len(x):
        raise ValueError(
            f"{where}: expected one target for each of the {len(x)} examples, "
            f"got target of shape {target.shape}"
        )
    if class_names:
        validate_labels(target, len(class_names), where)
        target = target.astype(np.int32)
    else:
        target = _as_outputs(where, target)
    return Dataset(x, target, tuple(feature_names), tuple(class_names))


def as_features(where: str, x: Any, feature_names: Sequence[str] = ()) -> np.ndarray:
    """``x`` as [examples, ...] of numbers; raises as `make_dataset` does."""
    x = np.asarray(x)
    _require_real(where, "x", x)
    if x.ndim < 2:
        raise ValueError(f"{where}: expected x to be [examples, features, ...], got {x.shape}")
    if x.size == 0:
        raise ValueError(f"{where}: expected at least one example and feature, got x of {x.shape}")
    if feature_names and (x.ndim != 2 or x.shape[1] != len(feature_names)):
        raise ValueError(
            f"{where}: expected x to be [examples, {len(feature_names)}], one column for each "
            f"feature name, got {x.shape}"
        )
    x = np.ascontiguousarray(x, _kept_dtype(x.dtype))
    _require_finite(where, "x", x, feature_names)
    return x


def _kept_dtype(dtype: np.dtype) -> Any:
    """That of the narrowest floats which hold all digits of the numbers."""
    return np.float32 if np.can_cast(dtype, np.float32, "safe") else np.float64


def warn_without_weights(path: Any, name: str) -> None:
    """Warn that a file of other examples does not say what each counts."""
    warnings.warn(f"{path}: no {name!r}: all examples count the same", stacklevel=3)


def validate_labels(target: Any, classes: int, where: str = "validate_labels") -> None:
    """Check that ``target`` holds integer labels [examples] in 0 … classes − 1.

    Raises:
        TypeError: ``target`` is not an array of integers.
        ValueError: it has another rank, or a label is out of range; the first one is named.
    """
    target = np.asarray(target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"{where}: expected target to hold integer labels, got {target.dtype}")
    if target.ndim != 1:
        columns = target.shape[1] if target.ndim == 2 else 0
        hint = {0: "", 1: "; of one column take target[:, 0]"}.get(
            columns, "; for one-hot rows take argmax(axis=1)"
        )
        raise ValueError(
            f"{where}: expected target to be labels of shape [examples], got {target.shape}{hint}"
        )
    wrong = (target < 0) | (target >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{where}: expected labels 0 to {classes - 1} for {classes} classes, got "
            f"{target[first]} at example {first} (and {int(wrong.sum()) - 1} more out of range)"
        )


def _as_outputs(where: str, target: np.ndarray) -> np.ndarray:
    _require_real(where, "target", target)
    if target.ndim > 2 or target.size == 0:
        raise ValueError(
            f"{where}: expected a regression target of shape [examples] or [examples, outputs], "
            f"got {target.shape}"
        )
    outputs = target.reshape(len(target), -1).astype(_kept_dtype(target.dtype))
    _require_finite(where, "target", outputs)
    return outputs


def as_weights(weights: Any, count: int) -> np.ndarray:
    """Weights of so many examples as float32.

    Raises:
        BadWeight: One is no number of at least 0; it says which.
        ValueError: There are not as many, or all are 0.
    """
    weights = np.asarray(weights)
    if weights.shape != (count,) or weights.dtype.kind not in "biuf":
        raise ValueError(
            f"expected one number as weight for each of the {count} examples, got "
            f"{weights.dtype} of shape {weights.shape}"
        )
    bad = ~((weights >= 0) & (weights <= np.finfo(np.float32).max))
    if bad.any():
        raise BadWeight(int(np.argmax(bad)), weights[np.argmax(bad)])
    if not weights.any():
        raise ValueError("expected some weights above 0, got all 0")
    return weights.astype(np.float32)


class BadWeight(ValueError):
    """A weight that is none; who knows the file adds where it is."""

    expected = "a weight, a finite number of at least 0"

    def __init__(self, example: int, weight: Any):
        super().__init__(f"expected {self.expected}, got {weight} at example {example}")
        self.example = example


def require_two_classes(where: str, examples: Dataset) -> None:
    """Raise ValueError where a classification has only one class to learn from."""
    if examples.class_names and np.all(examples.target == examples.target[0]):
        raise ValueError(
            f"{where}: expected examples of at least two classes, got only "
            f"{examples.class_names[examples.target[0]]!r}"
        )


def _require_real(where: str, name: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{where}: expected {name} to hold real numbers, got {array.dtype}")


def _require_finite(
    where: str, name: str, array: np.ndarray, feature_names: Sequence[str] = ()
) -> None:
    # A float32 that is not there would be rounded to infinity. NaN is in no range.
    largest = np.finfo(np.float32).max
    if array.min() >= -largest and array.max() <= largest:
        return
    wrong = ~(np.abs(array) <= largest)
    example, *position = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
    feature = repr(feature_names[position[0]]) if feature_names else tuple(position)
    raise ValueError(
        f"{where}: expected {name} to be finite in float32, got {array[(example, *position)]} at "
        f"example {example}, feature {feature}; {int(wrong.sum())} of {wrong.size} values are "
        "NaN or infinite"
    )
