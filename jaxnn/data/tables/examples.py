"""A table as examples: which of its columns are features, and what they and the others hold."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import listed
from jaxnn.data.dataset import Dataset
from jaxnn.data.tables.columns import Column
from jaxnn.data.tables.features import read_columns
from jaxnn.data.tables.reading import Reading
from jaxnn.data.tables.table import Table, read_table
from jaxnn.data.tables.targets import Target, read_target, read_weights


def decode_table(
    path: Path,
    targets: tuple[str, ...] | None,
    inputs: tuple[str, ...] | None,
    task: str | None,
    reading: Reading,
    groups: str | None,
    prefer_numbers: bool,
    weights: str | None,
) -> Dataset:
    """The examples of a table; the arguments are those of `jaxnn.data.load`."""
    as_text, aside = kept_as_text(reading, targets, groups, weights)
    table = read_table(path, reading, as_text, (*aside, *(inputs or ())), aside)
    names = feature_columns(table, targets, inputs, groups, weights)
    assert targets is not None
    target, kept = read_target(table, targets, task, prefer_numbers=prefer_numbers)
    columns, x = read_columns(table, names)
    if not columns:
        raise ValueError(f"{path}: expected columns beside the target that are not dropped")
    return table_examples(
        x if kept.all() else x[kept],
        columns,
        target,
        targets,
        table.codes(groups)[kept] if groups else None,
        read_weights(table, weights, kept) if weights else None,
    )


def kept_as_text(
    reading: Reading, targets: Sequence[str] | None, groups: str | None, weights: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that are read as they are written, and those that are beside the features."""
    kinds = [text.rpartition("=") for text in reading.kinds]
    said = (name for name, _, kind in kinds if kind.startswith(("category", "date")))
    as_text = (*said, *([groups] if groups else []))
    return as_text, (*(targets or ()), *([weights] if weights else []))


def feature_columns(
    table: Table,
    targets: tuple[str, ...] | None,
    inputs: Sequence[str] | None,
    groups: str | None,
    weights: str | None,
) -> list[str]:
    """The names of the columns of x; raises ValueError where one of the others is not there."""
    path, others = table.path, (*(targets or ()), *(name for name in (groups, weights) if name))
    if not targets:
        shown = ", ".join(table.names[:30]) + ", …" * (len(table.names) > 30)
        raise ValueError(
            f"{path}: expected target to name a column, one of {shown}: say --data.target"
        )
    for name in others:
        table.require_column(name)
    if both := [name for name in others if name in (inputs or ())]:
        of = {groups: "groups", weights: "weights"}.get(both[0], "target")
        raise ValueError(f"{path}: expected inputs without the {of} column {both[0]!r}")
    if weights in (targets or ()):
        raise ValueError(f"{path}: expected weights beside the target, got {weights!r} for both")
    names = list(inputs) if inputs is not None else [n for n in table.names if n not in {*others}]
    if not names:
        raise ValueError(f"{path}: expected columns beside {listed(others)}, got none")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: expected distinct feature columns, got {names}")
    return names


def table_examples(
    x: np.ndarray,
    columns: Sequence[Column],
    target: Target,
    target_names: Sequence[str],
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Dataset:
    """The `Dataset` of features whose columns are these, and of targets with or without classes."""
    classes, values = target.class_names, target.values
    return Dataset(
        x,
        values if classes else values.reshape(len(values), -1),
        tuple(column.name for column in columns),
        classes,
        () if classes else tuple(target_names),
        "labels" if target.task == "labels" else "",
        tuple(columns),
        groups=groups,
        weights=weights,
    )


def to_arrays(examples: Dataset) -> dict[str, np.ndarray]:
    """The examples of a table as the cache keeps them."""
    facts = {
        "columns": [column._asdict() for column in examples.columns],
        "class_names": examples.class_names,
        "target_names": examples.target_names,
        "task": examples.task,
    }
    arrays = {"x": examples.x, "target": examples.target}
    arrays["facts"] = np.array(json.dumps(facts))
    others = {"groups": examples.groups, "weights": examples.weights}
    return arrays | {name: array for name, array in others.items() if array is not None}


def from_arrays(arrays: dict[str, np.ndarray]) -> Dataset:
    """What `to_arrays` made these of."""
    facts = json.loads(str(arrays["facts"]))
    columns = [
        Column(f["name"], f["kind"], tuple(f["values"]), f["format"]) for f in facts["columns"]
    ]
    target = Target(arrays["target"], tuple(facts["class_names"]), facts["task"])
    others = arrays.get("groups"), arrays.get("weights")
    return table_examples(arrays["x"], columns, target, facts["target_names"], *others)
