"""Arrays of an .npz archive as examples: x, labels or numbers, and weights."""

from collections import Counter
from pathlib import Path

import numpy as np

from jaxnn.core.validation import listed
from jaxnn.data.dataset import Dataset, as_weights, make_dataset, validate_labels
from jaxnn.data.npy import read_strings
from jaxnn.data.tables.numerals import INTEGER


def array_examples(
    path: Path,
    arrays: dict[str, np.ndarray],
    x_name: str,
    target_name: str,
    task: str | None,
    prefer_numbers: bool,
) -> Dataset:
    """The examples of arrays of these names; the arguments are those of `jaxnn.data.load`."""
    optional = ("feature_names", "class_names")
    features, classes = (array_strings(path, key, arrays.get(key)) for key in optional)
    labels = arrays[target_name]
    if labels.dtype.kind == "U":
        if task in ("regression", "labels"):
            raise words_for_numbers(path, target_name, task)
        labels, classes = labels_of_words(path, labels, classes)
    by_dtype = labels.dtype.kind == "f" or (prefer_numbers and labels.dtype.kind in "iu")
    if task in ("regression", "labels") or (task is None and not classes and by_dtype):
        found = make_dataset(str(path), arrays[x_name], labels, features)
        return found._replace(task="labels" if task == "labels" else "")
    if labels.dtype.kind == "b":
        classes = classes or ("False", "True")
    labels = as_labels(labels)
    if not classes:
        # Without names the labels say how many classes there are: 0 … classes − 1, each occurring.
        classes = tuple(map(str, range(len(np.unique(labels)))))
        try:
            validate_labels(labels, len(classes), str(path))
        except ValueError as error:
            raise ValueError(
                f"{error}; an array class_names beside them names all classes from 0 on"
            ) from None
    return make_dataset(str(path), arrays[x_name], labels, features, classes)


def labels_of_words(
    path: Path, words: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of classes that are given by their names, and all names: those given or, in order,
    those that there are."""
    if not names:
        given = {*map(str, np.unique(words))}
        names = tuple(sorted(given, key=int if all(map(INTEGER.fullmatch, given)) else None))
    place = {name: label for label, name in enumerate(names)}
    if unknown := [name for name in map(str, np.unique(words)) if name not in place]:
        raise ValueError(f"{path}: expected labels among {listed(names)}, got {listed(unknown)}")
    return np.array([place[str(word)] for word in words.ravel()]).reshape(words.shape), names


def words_for_numbers(path: Path, name: str, task: str) -> ValueError:
    """Of texts where the task takes numbers."""
    return ValueError(f"{path}: array {name!r}: expected numbers for the task {task}, got texts")


def array_weights(
    path: Path, arrays: dict[str, np.ndarray], name: str | None, count: int
) -> np.ndarray | None:
    """What so many examples count, by the array of a name; None where there is none."""
    if not name or name not in arrays:
        return None
    try:
        return as_weights(arrays[name], count)
    except ValueError as error:
        raise ValueError(f"{path}: array {name!r}: {error}") from None


def as_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as integers, without the axis of length 1 that some libraries give them."""
    is_whole = labels.dtype.kind == "f" and bool(np.all(labels == np.rint(labels)))
    if labels.dtype.kind == "b" or (is_whole and bool(np.all(np.abs(labels) < 2**31))):
        labels = labels.astype(np.int32)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def array_strings(path: Path, key: str, value: np.ndarray | None) -> tuple[str, ...]:
    """Distinct names, of features or classes; () where there are none."""
    names = () if value is None else read_strings(str(path), key, value)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path}: expected distinct {key}, got {listed(twice)} more than once")
    return names
