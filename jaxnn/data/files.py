"""A user's own examples, from an .npz archive or a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import listed, unknown_name
from jaxnn.data import images, npz
from jaxnn.data.archives import (
    array_examples,
    array_strings,
    array_weights,
    as_labels,
    labels_of_words,
    words_for_numbers,
)
from jaxnn.data.cache import cached
from jaxnn.data.dataset import (
    Dataset,
    as_features,
    make_dataset,
    validate_labels,
    warn_without_weights,
)
from jaxnn.data.preparation import Preparation
from jaxnn.data.tables.columns import Column
from jaxnn.data.tables.examples import decode_table, from_arrays, table_examples, to_arrays
from jaxnn.data.tables.features import read_columns
from jaxnn.data.tables.numerals import INTEGER
from jaxnn.data.tables.reading import (
    BINARIES,
    FOUND,
    TEXTS,
    Reading,
    is_compressed,
    is_in_text,
    is_table,
)
from jaxnn.data.tables.table import Table, read_table
from jaxnn.data.tables.targets import TASKS, Target, read_target, read_weights

SUFFIXES = (*TEXTS, *BINARIES, ".npz")
_VERSION = 4  # changes when the same table would be decoded to something else

Columns = str | Sequence[str] | None
Known = Dataset | Preparation
"""What is known of data, to which others are to be like."""


def read_file(
    path: Path,
    target: Columns,
    inputs: Columns,
    task: str | None,
    reading: Reading = FOUND,
    groups: str | None = None,
    prefer_numbers: bool = False,
    weights: str | None = None,
) -> Dataset:
    """The data set in ``path``; the arguments are those of `jaxnn.data.load`."""
    require_file(path)
    require_task(path, task)
    targets = _names(target)
    if is_table(path):
        columns = _names(inputs)

        def decode():
            how = targets, columns, task, reading, groups, prefer_numbers, weights
            return to_arrays(decode_table(path, *how))

        options = (targets, columns, task, tuple(reading), groups, prefer_numbers, weights)
        arrays = cached(path, decode, "table", _VERSION, *options)
        return from_arrays(arrays)

    if groups is not None:
        raise ValueError(f"{path}: expected groups only for a table, got {groups!r}")
    if targets is not None and len(targets) > 1:
        raise ValueError(f"{path}: expected target to name one array, got {listed(targets)}")
    x_name, target_name = _array_name(path, inputs), targets[0] if targets else "target"
    optional = ("feature_names", "class_names")
    weighing = (weights,) if weights else ()
    arrays = npz.read_npz(path, (x_name, target_name, *weighing), optional)
    found = array_examples(path, arrays, x_name, target_name, task, prefer_numbers)
    return found._replace(weights=array_weights(path, arrays, weights, len(found.x)))


def read_inputs(path: Path, feature_names: Columns, inputs: Columns) -> np.ndarray:
    """x alone; the arguments are those of `jaxnn.data.read_features`."""
    require_file(path)
    feature_names = _names(feature_names) or ()
    if is_table(path):
        columns = (feature_names or None) if inputs is None else _names(inputs)
        read = read_table(path, FOUND, (), columns or ())
        known = [Column(name, "number") for name in columns or read.names]
        x = read_columns(read, [column.name for column in known], known)[1]
        return as_features(str(path), x, feature_names)
    x_name = _array_name(path, inputs)
    return as_features(str(path), npz.read_npz(path, (x_name,))[x_name], feature_names)


def inputs_like(known: Known, path: Path, inputs: Columns, reading: Reading = FOUND) -> np.ndarray:
    """x of a file in the form of the data that ``known`` is about.

    Columns are found by name: those of a table, and those of an array that has feature_names
    beside it.
    """
    if known.images is not None:
        found = images.find_images(path, _column_of_images(path, inputs), reading)
        return images.decode_like(known.images, _shape(known), found.paths)
    require_file(path)
    if is_table(path):
        wanted = _names(inputs) or _columns_of(known)
        read = read_table(path, reading._replace(kinds=()), _kept_as_text(known), wanted)
        return _columns_like(known, read, (), inputs)
    names = _columns_of(known)
    x_name = _array_name(path, inputs)
    arrays = npz.read_npz(path, (x_name,), ("feature_names",))
    given = array_strings(path, "feature_names", arrays.get("feature_names"))
    x = as_features(str(path), arrays[x_name], given)
    for name in names if given else ():
        if name not in given:
            raise ValueError(f"{path}: {unknown_name('feature', name, given)}")
    if any(column.kind == "category" for column in known.columns):
        raise ValueError(f"{path}: expected a table, since the data have columns of categories")
    return x[:, [given.index(name) for name in names]] if names and given else x


def _columns_like(known: Known, read: Table, targets: Sequence[str], inputs: Columns) -> np.ndarray:
    """The columns, by their names or, where ``inputs`` gives other ones, in that order."""
    columns = known.columns or tuple(Column(name, "number") for name in known.feature_names)
    names = _names(inputs) or tuple(column.name for column in columns)
    if not names:
        names = tuple(name for name in read.names if name not in {*targets})
        columns = tuple(Column(name, "number") for name in names)
    if columns and len(names) != len(columns):
        raise ValueError(
            f"{read.path}: expected inputs to be {len(columns)} columns, got {len(names)}"
        )
    columns = columns or tuple(Column(name, "number") for name in names)
    return read_columns(read, names, columns)[1]


def _columns_of(known: Known) -> tuple[str, ...]:
    """The names of the columns of x, as a file has them."""
    return tuple(column.name for column in known.columns) or known.feature_names


def _kept_as_text(known: Known) -> tuple[str, ...]:
    return tuple(column.name for column in known.columns if column.kind in ("category", "date"))


def examples_like(
    known: Known,
    path: Path,
    target: Columns,
    inputs: Columns,
    reading: Reading = FOUND,
    weights: str | None = None,
) -> Dataset:
    """The examples of a file with targets, in the form of the data that ``known`` is about.

    One example is enough, and so are those of one class. Where the file has no column, or array, of
    ``weights``, a warning says that all count the same.

    Raises:
        ValueError: The file has a class that is not known.
    """
    classes, targets = known.class_names, _names(target)
    if known.images is not None:
        column = _column_of_images(path, inputs)
        return images.examples_like(known, _shape(known), path, column, targets, reading, weights)
    require_file(path)
    task = "classification" if classes else known.task or "regression"
    if is_table(path):
        targets = targets or known.target_names
        wanted = (*targets, *(_names(inputs) or _columns_of(known)))
        weighing = (weights,) if weights else ()
        as_text = (*targets, *weighing, *_kept_as_text(known))
        read = read_table(path, reading._replace(kinds=()), as_text, wanted)
        if not targets:
            raise ValueError(f"{path}: expected target to name a column: say --target")
        for name in targets:
            read.require_column(name)
        found, kept = read_target(read, targets, task, classes)
        x = _columns_like(known, read, (*targets, *weighing), inputs)[kept]
        counted = read_weights(read, weights, kept) if weights and weights in read.names else None
        given, names = found.values, found.class_names
    else:
        x = inputs_like(known, path, inputs)
        name = targets[0] if targets else "target"
        arrays = npz.read_npz(path, (name,), ("class_names", *([weights] if weights else [])))
        counted = array_weights(path, arrays, weights, len(x))
        given = as_labels(arrays[name]) if classes else arrays[name]
        names = array_strings(path, "class_names", arrays.get("class_names"))
        if given.dtype.kind == "U":
            if not classes:
                raise words_for_numbers(path, name, task)
            given, names = labels_of_words(path, given, names)
        if classes and not names and all(map(INTEGER.fullmatch, classes)):
            # Labels without names are names of themselves.
            values, given = np.unique(given, return_inverse=True)
            names = tuple(map(str, values))
        names = names or classes
    if classes:
        validate_labels(given, len(names), str(path))
        unknown = [names[label] for label in np.unique(given) if names[label] not in classes]
        if unknown:
            raise ValueError(
                f"{path}: expected the classes to be among {listed(classes)}, got {listed(unknown)}"
            )
        place = {name: label for label, name in enumerate(classes)}
        given = np.array([place.get(name, -1) for name in names], np.int32)[given]
    if weights and counted is None:
        warn_without_weights(path, weights)
    if not known.columns:
        return make_dataset(str(path), x, given, known.feature_names, classes)._replace(
            target_names=known.target_names, task=known.task, weights=counted
        )
    targets = Target(given, classes, known.task)
    return table_examples(x, known.columns, targets, known.target_names, weights=counted)


def _column_of_images(path: Path, inputs: Columns) -> str | None:
    return None if inputs is None else _array_name(path, inputs)


def _shape(known: Known) -> tuple[int, ...]:
    return known.x.shape[1:] if isinstance(known, Dataset) else known.shape


def is_file_name(path: Path) -> bool:
    """Whether the suffix is one that can be read; a table in text may be compressed by gzip."""
    if is_compressed(path):
        return is_in_text(path)
    return path.suffix.lower() in SUFFIXES


def require_task(path: Path, task: str | None) -> None:
    """Raise ValueError unless this is one of `TASKS`, or none."""
    if task is not None and task not in TASKS:
        raise ValueError(f"{path}: {unknown_name('task', task, TASKS)}")


def require_file(path: Path) -> None:
    """Raise FileNotFoundError or ValueError unless this is a file that can be read."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: expected a file, got {found}")
    if not is_file_name(path):
        raise ValueError(
            f"{path}: expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, got "
            f"{path.suffix!r}"
        )


def _names(inputs: Columns) -> tuple[str, ...] | None:
    return (inputs,) if isinstance(inputs, str) else None if inputs is None else tuple(inputs)


def _array_name(path: Path, inputs: Columns) -> str:
    names = ("x",) if inputs is None else _names(inputs)
    if names is None or len(names) != 1:
        raise ValueError(f"{path}: expected inputs to name one array, got {inputs}")
    return names[0]
