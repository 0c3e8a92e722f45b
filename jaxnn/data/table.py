"""Reading .csv tables: a header row, numeric features, and a target column of any kind."""

import csv
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import brief, listed, unknown_name

VERSION = 1  # changes when the same file would be decoded to something else

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_examples(
    path: Path, target: str | None, inputs: Sequence[str] | None, task: str | None
) -> dict[str, np.ndarray]:
    """The arrays x, target, feature_names and class_names (empty for regression) of a table.

    Args:
        path: The table.
        target: The target column. Text or integers are classes (numbered in the order of the text
            or of the integers), numbers with a fraction a regression, unless ``task`` says which.
        inputs: The feature columns; None for all others.
        task: "classification", "regression", or None to tell by the target column.

    Raises:
        ValueError: naming the file, and the column and line of the first bad cell.
    """
    header = _read_header(path)
    if target is None:
        raise ValueError(f"{path}: expected target to name a column, one of {listed(header)}")
    features = _choose(path, header, inputs, [name for name in header if name != target])
    _require_column(path, header, target)
    if target in features:
        raise ValueError(f"{path}: expected inputs without the target column {target!r}")
    x, cells = _read_columns(path, header, features, target)
    labels, class_names = _read_target(path, target, cells, task)
    return {
        "x": x,
        "target": labels,
        "feature_names": np.array(features, str),
        "class_names": np.array(class_names, str),
    }


def read_columns(path: Path, columns: Sequence[str] | None) -> np.ndarray:
    """Numeric columns as float64 [rows, columns]; None for all. Raises as `read_examples` does."""
    header = _read_header(path)
    return _read_columns(path, header, _choose(path, header, columns, header), None)[0]


def _read_columns(
    path: Path, header: list[str], features: list[str], target: str | None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """The numbers of the features, and (line, text) for each cell of the target."""
    places = [header.index(name) for name in features]
    target_place = None if target is None else header.index(target)
    numbers, cells = array("d"), []
    rows = _rows(path)
    next(rows)
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: expected {len(header)} cells as in the header, "
                f"got {len(row)}"
            )
        numbers.extend(_number(path, line, header[place], row[place]) for place in places)
        if target_place is not None:
            cells.append((line, row[target_place]))
    if not numbers:
        raise ValueError(f"{path}: expected rows below the header, got none")
    return np.array(numbers).reshape(-1, len(features)), cells


def _read_target(
    path: Path, name: str, cells: list[tuple[int, str]], task: str | None
) -> tuple[np.ndarray, list[str]]:
    for line, cell in cells:
        if not cell:
            raise ValueError(f"{path}, line {line}, column {name!r}: expected a target, got none")
    texts = [cell for _, cell in cells]
    all_integers = all(map(_INTEGER.fullmatch, texts))
    # One number with a fraction makes it a regression: a word among such numbers is a mistake.
    fractions = any(_NUMBER.fullmatch(text) and not _INTEGER.fullmatch(text) for text in texts)
    if task == "regression" or (task is None and fractions):
        return np.array([_number(path, line, name, cell) for line, cell in cells]), []
    values = [int(text) for text in texts] if all_integers else texts
    classes, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int32), [str(value) for value in classes]


def _number(path: Path, line: int, column: str, cell: str) -> float:
    value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{path}, line {line}, column {column!r}: expected a finite number, "
            f"got {brief(cell) if cell else 'an empty cell'}"
        )
    return value


def _read_header(path: Path) -> list[str]:
    _, header = next(_rows(path), (0, []))
    if not header:
        raise ValueError(f"{path}: expected a header row, got an empty file")
    if any(map(_NUMBER.fullmatch, header)):
        raise ValueError(f"{path}: expected a header row of column names, got {listed(header)}")
    if len(set(header)) < len(header) or "" in header:
        raise ValueError(f"{path}: expected distinct column names, got {listed(header)}")
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise ValueError(f"{path}: expected columns separated by commas, got {header[0]!r}")
    return header


def _choose(
    path: Path, header: list[str], chosen: Sequence[str] | None, default: list[str]
) -> list[str]:
    for name in chosen or ():
        _require_column(path, header, name)
    names = default if chosen is None else list(chosen)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected distinct feature columns, got {names}")
    return names


def _require_column(path: Path, header: list[str], name: str) -> None:
    if name not in header:
        raise ValueError(f"{path}: {unknown_name('column', name, header)}")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells without the blanks around them) of every row that is not empty."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, [cell.strip() for cell in row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, after line {reader.line_num}: {error}") from error
