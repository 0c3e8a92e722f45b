"""Held-out splits of a data set."""

from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import brief
from jaxnn.data.dataset import Dataset, rows_of
from jaxnn.data.optional import require_library
from jaxnn.data.preparation import Preparation, Standardization


class Source(NamedTuple):
    """By what the same data and the same split are recognised."""

    data: str
    """The digest of all examples, as their file has them."""
    split: str
    """The digest of which of them are in which part."""


class Splits(NamedTuple):
    """A data set split three ways; every example is in exactly one of them."""

    train: Dataset
    validation: Dataset
    """Without examples where validation_fraction is 0."""
    test: Dataset
    preparation: Preparation
    """What has been done to every x and target, found out on the training examples alone."""
    source: Source

    @property
    def standardization(self) -> Standardization:
        """What has been applied to every x."""
        return self.preparation.standardization

    @property
    def target_standardization(self) -> Standardization:
        """What has been applied to every regression target; invert it for the original units."""
        return self.preparation.target_standardization


def split_off(
    where: str,
    examples: Dataset,
    chosen: np.ndarray,
    count: int,
    seed: int,
    fraction: str,
    stratify: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """(the others, ``count`` of the chosen examples), drawn by ``seed``, in an order drawn by it.

    The classes keep their proportions (stratified), as far as whole examples allow. Where examples
    have groups, whole groups are drawn, until there are ``count`` examples or as near to it as can
    be.

    Args:
        where: For errors.
        examples: What is split.
        chosen: The indices of the examples that are divided.
        count: The size of the second part.
        seed: The same seed gives the same parts.
        fraction: For errors: the name of the option that ``count`` follows from.
        stratify: Whether classes keep their proportions.

    Raises:
        ValueError: a part would be empty, or too small to hold every class; a class has only one
            example.
    """
    rest = len(chosen) - count
    if count < 1 or rest < 1:
        raise ValueError(
            f"{where}: expected {fraction} to leave examples in every split, got splits of "
            f"{rest} and {count} of {len(chosen)} examples: choose another, "
            f"--data.{fraction.replace('_', '-')}"
        )
    if examples.groups is not None:
        return _split_groups(where, chosen, examples.groups[chosen], count, seed)
    labels = examples.target[chosen] if examples.class_names and stratify else None
    if labels is not None:
        _require_stratifiable(where, labels, examples.class_names, min(count, rest), fraction)
    if labels is None:  # as scikit-learn does it, whose import takes longer than many a table
        drawn = np.random.RandomState(seed).permutation(len(chosen))
        return chosen[drawn[count:]], chosen[drawn[:count]]
    selection = require_library("sklearn.model_selection", "splitting a data set")
    kept, drawn = selection.train_test_split(
        np.arange(len(chosen)), test_size=count, random_state=seed, stratify=labels
    )
    return chosen[kept], chosen[drawn]


def split_fold(
    where: str, examples: Dataset, fold: tuple[int, int], seed: int, stratify: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(the others, those of fold i) for ``fold`` = (i, k): every example is in one of k folds.

    Classes keep their proportions (stratified), groups stay together; the folds have as many
    examples each as can be.

    Raises:
        ValueError: there are fewer examples, groups, or examples of a class than folds.
    """
    selection = require_library("sklearn.model_selection", "dividing a data set into folds")
    index, folds = fold
    count, groups = len(examples.x), examples.groups
    labels = examples.target if examples.class_names and stratify else None
    _require_at_least(where, folds, count, "examples")
    options: dict[str, Any] = {"shuffle": True, "random_state": seed}
    if groups is not None:
        _require_at_least(where, folds, len(np.unique(groups)), "groups")
        kind = selection.GroupKFold if labels is None else selection.StratifiedGroupKFold
        options = {} if labels is None else options
    else:
        kind = selection.KFold if labels is None else selection.StratifiedKFold
        if labels is not None:
            counts = np.bincount(labels, minlength=len(examples.class_names))
            name = brief(examples.class_names[int(np.argmin(counts))])
            of = f"examples of each class, of {name}"
            way_out = ", or draw them without regard to classes, --data.no-stratify"
            _require_at_least(where, folds, int(counts.min()), of, way_out)
    parts = [*kind(folds, **options).split(examples.x, labels, groups)]
    return parts[index]


def _require_at_least(where: str, folds: int, count: int, of: str, way_out: str = "") -> None:
    if count < folds:
        raise ValueError(
            f"{where}: expected at most as many folds as there are {of}, {count}, got {folds}: "
            f"say --folds {max(count, 2)}{way_out}"
        )


def _split_groups(
    where: str, chosen: np.ndarray, groups: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    found, sizes = np.unique(groups, return_counts=True)
    if len(found) < 2:
        raise ValueError(f"{where}: expected at least two groups to split, got {len(found)}")
    order = np.random.default_rng(seed).permutation(len(found))
    totals = np.cumsum(sizes[order])[:-1]  # at least one group is left
    drawn = found[order[: int(np.argmin(np.abs(totals - count))) + 1]]
    is_drawn = np.isin(groups, drawn)
    return chosen[~is_drawn], chosen[is_drawn]


def take(examples: Dataset, index: np.ndarray | slice) -> Dataset:
    """The examples at ``index``."""
    groups, weights = (
        None if of is None else of[index] for of in (examples.groups, examples.weights)
    )
    x, target = rows_of(examples.x, index), examples.target[index]
    return examples._replace(x=x, target=target, groups=groups, weights=weights)


def _require_stratifiable(
    where: str, labels: np.ndarray, names: tuple[str, ...], smallest: int, fraction: str
) -> None:
    counts = np.bincount(labels, minlength=len(names))
    single = [names[label] for label in np.flatnonzero(counts == 1)]
    if single:
        shown = ", ".join(map(brief, single[:5])) + (", …" if len(single) > 5 else "")
        raise ValueError(
            f"{where}: expected at least 2 examples of each class that {fraction} splits, got "
            f"1 of {len(single)} of the {len(names)} classes: {shown} "
            "(--data.no-stratify draws them without regard to classes, and "
            "--data.task regression takes whole numbers as such)"
        )
    present = int(np.count_nonzero(counts))
    if smallest < present:
        raise ValueError(
            f"{where}: expected {fraction} to leave every split at least {present} examples, one "
            f"for each class, got {smallest}: take more, --data.{fraction.replace('_', '-')}, or "
            "draw without regard to classes, --data.no-stratify"
        )
