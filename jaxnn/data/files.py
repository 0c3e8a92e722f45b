"""A user's own examples, from an .npz archive or a .csv table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import unknown_name
from jaxnn.data import npz, table
from jaxnn.data.cache import cached
from jaxnn.data.dataset import Dataset, as_features, make_dataset
from jaxnn.data.npy import read_strings

SUFFIXES = (".csv", ".npz")
TASKS = ("classification", "regression")

Columns = str | Sequence[str] | None


def read_file(path: Path, target: str | None, inputs: Columns, task: str | None) -> Dataset:
    """The data set in ``path``; the arguments are those of `jaxnn.data.load`."""
    _require_file(path)
    if task is not None and task not in TASKS:
        raise ValueError(f"{path}: {unknown_name('task', task, TASKS)}")
    if _is_table(path):
        columns = _names(inputs)

        def decode():
            return table.read_examples(path, target, columns, task)

        arrays = cached(path, decode, "csv", table.VERSION, target, columns, task)
        names = (tuple(map(str, arrays[key])) for key in ("feature_names", "class_names"))
        return make_dataset(str(path), arrays["x"], arrays["target"], *names)

    x_name, target_name = _array_name(path, inputs), target or "target"
    optional = ("feature_names", "class_names")
    arrays = npz.read_npz(path, (x_name, target_name), optional)
    features, classes = (_strings(path, key, arrays.get(key)) for key in optional)
    labels = arrays[target_name]
    if task == "regression" or (task is None and not classes and labels.dtype.kind == "f"):
        return make_dataset(str(path), arrays[x_name], labels, features)
    if labels.dtype.kind == "b":
        labels, classes = labels.astype(np.int32), classes or ("False", "True")
    # Without names the labels say how many classes there are: 0 … classes − 1, each occurring.
    classes = classes or tuple(map(str, range(len(np.unique(labels)))))
    return make_dataset(str(path), arrays[x_name], labels, features, classes)


def read_inputs(path: Path, feature_names: Columns, inputs: Columns) -> np.ndarray:
    """x alone; the arguments are those of `jaxnn.data.read_features`."""
    _require_file(path)
    feature_names = _names(feature_names) or ()
    if _is_table(path):
        columns = (feature_names or None) if inputs is None else _names(inputs)
        return as_features(str(path), table.read_columns(path, columns), feature_names)
    x_name = _array_name(path, inputs)
    return as_features(str(path), npz.read_npz(path, (x_name,))[x_name], feature_names)


def _require_file(path: Path) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: expected a file, got {found}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a {' or '.join(SUFFIXES)} file, got {path.suffix!r}")


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _names(inputs: Columns) -> tuple[str, ...] | None:
    return (inputs,) if isinstance(inputs, str) else None if inputs is None else tuple(inputs)


def _array_name(path: Path, inputs: Columns) -> str:
    names = ("x",) if inputs is None else _names(inputs)
    if names is None or len(names) != 1:
        raise ValueError(f"{path}: expected inputs to name one array, got {inputs}")
    return names[0]


def _strings(path: Path, key: str, value: np.ndarray | None) -> tuple[str, ...]:
    return () if value is None else read_strings(str(path), key, value)
