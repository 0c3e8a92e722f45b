"""Held-out splits, and the standardisation that is fitted on the training split alone."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnn.core.validation import brief, unknown_name
from jaxnn.data.dataset import Dataset
from jaxnn.data.optional import require_library


class Standardization(NamedTuple):
    """x ↦ (x − mean) / deviation, in float32."""

    mean: np.ndarray
    """float32, of the shape of one example; [] where one number serves all of x."""
    deviation: np.ndarray
    """float32, of the same shape."""

    def apply(self, x: np.ndarray) -> np.ndarray:
        """(x − mean) / deviation; raises ValueError where examples have another shape."""
        self._require_examples(x)
        return (x - self.mean) / self.deviation

    def invert(self, z: np.ndarray) -> np.ndarray:
        """Back to the original units, z · deviation + mean; raises as `apply` does."""
        self._require_examples(z)
        return z * self.deviation + self.mean

    def _require_examples(self, x: np.ndarray) -> None:
        if self.mean.ndim and x.shape[1:] != self.mean.shape:
            raise ValueError(
                f"standardization: expected examples of shape {self.mean.shape}, as those it was "
                f"fitted on, got {x.shape[1:]}"
            )


class Splits(NamedTuple):
    """A data set split three ways; every example is in exactly one of them."""

    train: Dataset
    validation: Dataset
    """Without examples where validation_fraction is 0."""
    test: Dataset
    standardization: Standardization
    """What has been applied to every x; apply it to new examples as well."""
    target_standardization: Standardization
    """What has been applied to every regression target; invert it for the original units."""


IDENTITY = Standardization(np.zeros((), np.float32), np.ones((), np.float32))


def _fit(x: np.ndarray, axis: int | None) -> Standardization:
    mean = np.mean(x, axis, dtype=np.float64)
    deviation = np.std(x, axis, dtype=np.float64)
    deviation = np.asarray(deviation, np.float32)
    # Rounding leaves a constant feature a tiny deviation, so it is recognised by its range.
    constant = (np.max(x, axis) == np.min(x, axis)) | (deviation == 0)
    return Standardization(
        np.asarray(mean, np.float32), np.where(constant, np.float32(1), deviation)
    )


STANDARDIZATIONS: dict[str, Callable[[np.ndarray], Standardization]] = {
    "none": lambda x: IDENTITY,
    "features": lambda x: _fit(x, 0),
    "all": lambda x: _fit(x, None),
}


def require_standardization(where: str, name: str) -> None:
    """Raise ValueError unless ``name`` is a key of `STANDARDIZATIONS`."""
    if name not in tuple(STANDARDIZATIONS):  # a tuple, since any object can be sought in it
        raise ValueError(f"{where}: {unknown_name('standardize', name, STANDARDIZATIONS)}")


def standardize(splits: Splits, features: str, target: bool) -> Splits:
    """Every split standardised by the mean and deviation of the training split.

    Args:
        splits: Splits to which nothing has been applied yet.
        features: "none"; "features", each element of x by its own mean and deviation; "all", all
            of x by one. What is constant in the training split gets deviation 1.
        target: Whether to standardise the (regression) target too, each output by its own.
    """
    of_x = STANDARDIZATIONS[features](splits.train.x)
    of_target = STANDARDIZATIONS["features" if target else "none"](splits.train.target)

    def apply(part: Dataset) -> Dataset:
        if features != "none":
            part = part._replace(x=of_x.apply(part.x))
        return part._replace(target=of_target.apply(part.target)) if target else part

    train, validation, test = map(apply, splits[:3])
    return Splits(train, validation, test, of_x, of_target)


def split_off(
    where: str, examples: Dataset, count: int, seed: int, fraction: str
) -> tuple[Dataset, Dataset]:
    """(the others, ``count`` of the examples), drawn by ``seed``, in an order drawn by it too.

    The classes keep their proportions (stratified), as far as whole examples allow.

    Args:
        where: For errors.
        examples: What is split.
        count: The size of the second part.
        seed: The same seed gives the same parts.
        fraction: For errors: the name of the option that ``count`` follows from.

    Raises:
        ValueError: a part would be empty, or too small to hold every class; a class has only one
            example.
    """
    rest = len(examples.x) - count
    if count < 1 or rest < 1:
        raise ValueError(
            f"{where}: expected {fraction} to leave examples in every split, got splits of "
            f"{rest} and {count} of {len(examples.x)} examples"
        )
    classes = examples.class_names
    if classes:
        _require_stratifiable(where, examples, min(count, rest), fraction)
    selection = require_library("sklearn.model_selection", "splitting a data set")
    kept, drawn = selection.train_test_split(
        np.arange(len(examples.x)),
        test_size=count,
        random_state=seed,
        stratify=examples.target if classes else None,
    )
    return take(examples, kept), take(examples, drawn)


def take(examples: Dataset, index: np.ndarray | slice) -> Dataset:
    """The examples at ``index``."""
    return examples._replace(x=examples.x[index], target=examples.target[index])


def _require_stratifiable(where: str, examples: Dataset, smallest: int, fraction: str) -> None:
    names = examples.class_names
    counts = np.bincount(examples.target, minlength=len(names))
    single = [names[label] for label in np.flatnonzero(counts == 1)]
    if single:
        shown = ", ".join(map(brief, single[:5])) + (", …" if len(single) > 5 else "")
        raise ValueError(
            f"{where}: expected at least 2 examples of each class that {fraction} splits, got "
            f"1 of {len(single)} of the {len(names)} classes: {shown} "
            '(for a regression on integers say task="regression")'
        )
    present = int(np.count_nonzero(counts))
    if smallest < present:
        raise ValueError(
            f"{where}: expected {fraction} to leave every split at least {present} examples, one "
            f"for each class, got {smallest}"
        )
