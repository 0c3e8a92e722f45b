"""A user's own examples, from an .npz archive or a table."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import listed, unknown_name
from jaxnn.data import images, npz
from jaxnn.data.cache import cached
from jaxnn.data.dataset import (
    Dataset,
    as_features,
    as_weights,
    make_dataset,
    validate_labels,
    warn_without_weights,
)
from jaxnn.data.npy import read_strings
from jaxnn.data.preparation import Preparation
from jaxnn.data.tables.columns import Column
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
from jaxnn.data.tables.targets import TASKS, read_target, read_weights

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
            return _decode(path, targets, columns, task, reading, groups, prefer_numbers, weights)

        options = (targets, columns, task, tuple(reading), groups, prefer_numbers, weights)
        arrays = cached(path, decode, "table", _VERSION, *options)
        return _from_arrays(arrays)

    if groups is not None:
        raise ValueError(f"{path}: expected groups only for a table, got {groups!r}")
    if targets is not None and len(targets) > 1:
        raise ValueError(f"{path}: expected target to name one array, got {listed(targets)}")
    x_name, target_name = _array_name(path, inputs), targets[0] if targets else "target"
    optional = ("feature_names", "class_names")
    weighing = (weights,) if weights else ()
    arrays = npz.read_npz(path, (x_name, target_name, *weighing), optional)
    found = _from_npz(path, arrays, x_name, target_name, task, prefer_numbers)
    return found._replace(weights=_weights_of(path, arrays, weights, len(found.x)))


def _from_npz(
    path: Path,
    arrays: dict[str, np.ndarray],
    x_name: str,
    target_name: str,
    task: str | None,
    prefer_numbers: bool,
) -> Dataset:
    optional = ("feature_names", "class_names")
    features, classes = (_strings(path, key, arrays.get(key)) for key in optional)
    labels = arrays[target_name]
    if labels.dtype.kind == "U":
        if task in ("regression", "labels"):
            raise _words_for_numbers(path, target_name, task)
        labels, classes = _of_words(path, labels, classes)
    by_dtype = labels.dtype.kind == "f" or (prefer_numbers and labels.dtype.kind in "iu")
    if task in ("regression", "labels") or (task is None and not classes and by_dtype):
        found = make_dataset(str(path), arrays[x_name], labels, features)
        return found._replace(task="labels" if task == "labels" else "")
    if labels.dtype.kind == "b":
        classes = classes or ("False", "True")
    labels = _labels(labels)
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


def _of_words(
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


def _words_for_numbers(path: Path, name: str, task: str) -> ValueError:
    return ValueError(f"{path}: array {name!r}: expected numbers for the task {task}, got texts")


def _weights_of(
    path: Path, arrays: dict[str, np.ndarray], name: str | None, count: int
) -> np.ndarray | None:
    if not name or name not in arrays:
        return None
    try:
        return as_weights(arrays[name], count)
    except ValueError as error:
        raise ValueError(f"{path}: array {name!r}: {error}") from None


def _decode(
    path: Path,
    targets: tuple[str, ...] | None,
    inputs: tuple[str, ...] | None,
    task: str | None,
    reading: Reading,
    groups: str | None,
    prefer_numbers: bool,
    weights: str | None,
) -> dict[str, np.ndarray]:
    as_text, aside = kept_as_text(reading, targets, groups, weights)
    read = read_table(path, reading, as_text, (*aside, *(inputs or ())), aside)
    names = feature_columns(read, targets, inputs, groups, weights)
    assert targets is not None
    target, kept = read_target(read, targets, task, prefer_numbers=prefer_numbers)
    columns, x = read_columns(read, names)
    if not columns:
        raise ValueError(f"{path}: expected columns beside the target that are not dropped")
    facts = {
        "columns": [column._asdict() for column in columns],
        "class_names": target.class_names,
        "target_names": targets if target.task != "classification" else (),
        "task": "labels" if target.task == "labels" else "",
    }
    arrays = {"x": x if kept.all() else x[kept], "target": target.values}
    if groups:
        arrays["groups"] = read.codes(groups)[kept]
    if weights:
        arrays["weights"] = read_weights(read, weights, kept)
    return arrays | {"facts": np.array(json.dumps(facts))}


def kept_as_text(
    reading: Reading, targets: Sequence[str] | None, groups: str | None, weights: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that are read as they are written, and those that are beside the features."""
    kinds = [text.rpartition("=") for text in reading.kinds]
    said = (name for name, _, kind in kinds if kind.startswith(("category", "date")))
    as_text = (*said, *([groups] if groups else []))
    return as_text, (*(targets or ()), *([weights] if weights else []))


def feature_columns(
    read: Table,
    targets: tuple[str, ...] | None,
    inputs: Sequence[str] | None,
    groups: str | None,
    weights: str | None,
) -> list[str]:
    """The names of the columns of x; raises ValueError where one of the others is not there."""
    path, others = read.path, (*(targets or ()), *(name for name in (groups, weights) if name))
    if not targets:
        shown = ", ".join(read.names[:30]) + ", …" * (len(read.names) > 30)
        raise ValueError(
            f"{path}: expected target to name a column, one of {shown}: say --data.target"
        )
    for name in others:
        read.require_column(name)
    if both := [name for name in others if name in (inputs or ())]:
        of = {groups: "groups", weights: "weights"}.get(both[0], "target")
        raise ValueError(f"{path}: expected inputs without the {of} column {both[0]!r}")
    if weights in (targets or ()):
        raise ValueError(f"{path}: expected weights beside the target, got {weights!r} for both")
    names = list(inputs) if inputs is not None else [n for n in read.names if n not in {*others}]
    if not names:
        raise ValueError(f"{path}: expected columns beside {listed(others)}, got none")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: expected distinct feature columns, got {names}")
    return names


def _from_arrays(arrays: dict[str, np.ndarray]) -> Dataset:
    facts = json.loads(str(arrays["facts"]))
    columns = tuple(
        Column(f["name"], f["kind"], tuple(f["values"]), f["format"]) for f in facts["columns"]
    )
    target = arrays["target"]
    return Dataset(
        arrays["x"],
        target.reshape(len(target), -1) if not facts["class_names"] else target,
        tuple(column.name for column in columns),
        tuple(facts["class_names"]),
        tuple(facts["target_names"]),
        facts["task"],
        columns,
        groups=arrays.get("groups"),
        weights=arrays.get("weights"),
    )


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
    given = _strings(path, "feature_names", arrays.get("feature_names"))
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
        counted = _weights_of(path, arrays, weights, len(x))
        given = _labels(arrays[name]) if classes else arrays[name]
        names = _strings(path, "class_names", arrays.get("class_names"))
        if given.dtype.kind == "U":
            if not classes:
                raise _words_for_numbers(path, name, task)
            given, names = _of_words(path, given, names)
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
    names = tuple(column.name for column in known.columns)
    given = given if classes else given.reshape(len(given), -1)
    about = names, classes, known.target_names, known.task, known.columns
    return Dataset(x, given, *about, weights=counted)


def _column_of_images(path: Path, inputs: Columns) -> str | None:
    return None if inputs is None else _array_name(path, inputs)


def _shape(known: Known) -> tuple[int, ...]:
    return known.x.shape[1:] if isinstance(known, Dataset) else known.shape


def _labels(labels: np.ndarray) -> np.ndarray:
    """Labels as integers, without the axis of length 1 that some libraries give them."""
    is_whole = labels.dtype.kind == "f" and bool(np.all(labels == np.rint(labels)))
    if labels.dtype.kind == "b" or (is_whole and bool(np.all(np.abs(labels) < 2**31))):
        labels = labels.astype(np.int32)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


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


def _strings(path: Path, key: str, value: np.ndarray | None) -> tuple[str, ...]:
    names = () if value is None else read_strings(str(path), key, value)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path}: expected distinct {key}, got {listed(twice)} more than once")
    return names
