"""Columns of a table as targets, classes or numbers, and as the weights of examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.dataset import BadWeight, as_weights
from jaxnn.data.tables.columns import MISSING, BadCell, Column, read_column
from jaxnn.data.tables.numerals import INTEGER, LARGEST_EXACT, as_numbers
from jaxnn.data.tables.table import Table

TASKS = ("classification", "regression", "labels")
_LONGEST_CLASS = 1000
_MOST_CLASSES = 20
"""Whole numbers with more different values are classes only if there are ten examples of each."""
_TRUTH = {"true": "1", "yes": "1", "false": "0", "no": "0"}


class Target(NamedTuple):
    """The targets of a table."""

    values: np.ndarray
    """Labels [examples], or numbers [examples, outputs]."""
    class_names: tuple[str, ...]
    task: str


def read_target(
    table: Table,
    names: Sequence[str],
    task: str | None,
    classes: Sequence[str] = (),
    *,
    prefer_numbers: bool = False,
) -> tuple[Target, np.ndarray]:
    """The targets in these columns, and which rows have them.

    Text and few whole numbers are classes (numbered in the order of the text or of the numbers),
    other numbers a regression, unless ``task`` says which. Several columns are the outputs of a
    regression, or, where all are truth values, labels of which each example has any number.

    Args:
        table: The table.
        names: The columns.
        task: One of `TASKS`; None to tell by the cells.
        classes: Those that are known, which are taken by their very names.
        prefer_numbers: Whether, where the task is not given, whole numbers are a regression.
    """
    found = [_numbers_aside(table, name, task) for name in names]
    numbers = [cells for cells in found if cells is not None]
    if len(numbers) == len(names):
        everything = np.ones(len(table.frame), bool)
        if len(numbers) > 1:
            values = np.stack(numbers, 1, dtype=np.float64)
            return _several_targets(table, names, values, task, prefer_numbers), everything
        one = _target_of_numbers(numbers[0], task, classes, prefer_numbers)
        if one is not None:
            return one, everything
    texts = [table.written(name) for name in names]
    kept = _with_target(table, names, texts, classes)
    if not kept.any():
        if table.piece:
            return Target(np.zeros(0), (), task or ""), kept
        raise ValueError(f"{table.path}: expected rows with a target, got none")
    texts = [cells[kept] for cells in texts]
    if len(names) == 1:
        return _one_target(table, names[0], texts[0], task, classes, prefer_numbers), kept
    decimal = table.decimal(names)
    numbers = [
        _all_numbers(table, name, cells.str.lower().map(_TRUTH).fillna(cells), decimal)
        for name, cells in zip(names, texts, strict=True)
    ]
    return _several_targets(table, names, np.stack(numbers, 1), task, prefer_numbers), kept


def has_fractions(table: Table, name: str, texts: Sequence[str]) -> bool:
    """Whether some of these texts of a column are numbers that are no classes."""
    return _are_fractions(texts, table.decimal([name]))


def are_many(classes: int, examples: int) -> bool:
    """Whether whole numbers are too many different ones to be classes."""
    return classes > _MOST_CLASSES and examples < 10 * classes


def read_weights(table: Table, name: str, kept: np.ndarray) -> np.ndarray:
    """What the rows that are kept count, by this column: see `as_weights`."""
    known = Column(name, "number")
    try:
        numbers = read_column(name, table.cells(name), table.decimal([name]), known, "")[1]
        if table.piece and not numbers[kept].any():
            return numbers[kept].astype(np.float32)  # others may count
        return as_weights(numbers[kept], int(kept.sum()))
    except BadCell as error:
        raise table.bad_cell(name, error) from None
    except BadWeight as error:
        row = int(np.flatnonzero(kept)[error.example])
        raise table.bad_cell(name, BadCell(row, error.expected)) from None
    except ValueError as error:
        raise ValueError(f"{table.path}, column {name!r}: {error}") from None


def _numbers_aside(table: Table, name: str, task: str | None) -> np.ndarray | None:
    """The cells of a column aside that says all it has to say as numbers: finite ones of at most 15
    digits, without gaps, that are whole as they are written, or some of which are not (for a
    regression, any)."""
    if table.text is None or name not in table.aside or table.reading.decimal == ",":
        return None
    cells = table.frame[name]
    if cells.dtype.kind not in "if":
        return None
    numbers = cells.to_numpy()
    if not np.isfinite(numbers).all() or np.abs(numbers).max() >= LARGEST_EXACT:
        return None
    is_whole = numbers.dtype.kind == "f" and bool((numbers == np.floor(numbers)).all())
    if is_whole and task != "regression":
        return None
    return numbers


def _target_of_numbers(
    numbers: np.ndarray, task: str | None, classes: Sequence[str], prefer_numbers: bool
) -> Target | None:
    """What `_one_target` finds in their texts; None where that takes the texts."""
    if numbers.dtype.kind == "f":
        is_other = task not in (None, "regression")
        return None if is_other else Target(numbers.astype(np.float64), (), "regression")
    if task == "regression" or (task is None and prefer_numbers):
        return Target(numbers.astype(np.float64), (), "regression")
    if task not in (None, "classification") or classes:
        return None
    values, labels = np.unique(numbers, return_inverse=True)
    if task is None and are_many(len(values), len(numbers)):
        return Target(numbers.astype(np.float64), (), "regression")
    return Target(labels.astype(np.int32), tuple(map(str, values.tolist())), "classification")


def _with_target(
    table: Table, names: Sequence[str], texts: Sequence[Any], classes: Sequence[str]
) -> np.ndarray:
    """Which rows have a cell in each of the columns; raises ValueError for the first that has not,
    unless such rows are to be dropped."""
    kept = np.ones(len(table.frame), bool)
    for name, cells in zip(names, texts, strict=True):
        gaps = np.array((cells == "") | cells.isna(), bool)
        if table.reading.missing_target != "class":
            gaps |= np.asarray(cells.str.lower().isin(MISSING), bool) & ~np.isin(
                np.asarray(cells, object), list(classes)
            )
        if gaps.any() and table.reading.missing_target != "drop":
            row = int(np.argmax(gaps))
            cell = str(cells.iloc[row]) if isinstance(cells.iloc[row], str) else ""
            hint = "; leave such rows out with --data.missing-target drop"
            hint += f", or take {cell!r} as a class with --data.missing-target class" * bool(cell)
            raise ValueError(
                f"{table.where(row, name)}: expected a target, got "
                f"{repr(cell) if cell else 'none'}{hint}"
            )
        kept &= ~gaps
    return kept


def _several_targets(
    table: Table, names: Sequence[str], values: np.ndarray, task: str | None, prefer_numbers: bool
) -> Target:
    are_truths = bool(np.isin(values, (0, 1)).all())
    if task == "labels" and not are_truths:
        raise ValueError(
            f"{table.path}: expected the targets {', '.join(names)} to be 0 or 1, true or false, "
            "for the task labels"
        )
    if task == "classification":
        raise ValueError(
            f"{table.path}: expected one target for a classification, got {', '.join(names)}; for "
            "truth values, of which each example has any number, say --data.task labels"
        )
    are_labels = are_truths and not prefer_numbers
    return Target(values, (), task or ("labels" if are_labels else "regression"))


def _one_target(
    table: Table,
    name: str,
    cells: Any,
    task: str | None,
    classes: Sequence[str],
    prefer_numbers: bool,
) -> Target:
    import pandas as pd

    decimal = table.decimal([name])
    if task == "labels":
        raise ValueError(f"{table.path}: expected several targets for the task labels, got one")
    codes, unique = pd.factorize(cells)
    unique = [str(value) for value in unique]
    are_whole = all(map(INTEGER.fullmatch, unique))
    if task is None:
        fractions = _are_fractions(unique, decimal)
        are_exact = are_whole and all(abs(int(text)) < LARGEST_EXACT for text in unique)
        are_measured = are_exact and (are_many(len(unique), len(codes)) or prefer_numbers)
        task = "regression" if fractions or are_measured else "classification"
    if task == "regression":
        values = _all_numbers(table, name, cells, decimal)
        if np.abs(values).max() >= LARGEST_EXACT and are_whole:
            raise ValueError(
                f"{table.path}, column {name!r}: expected numbers of at most 15 digits for a "
                "regression, got longer ones; as classes they are taken with "
                "--data.task classification"
            )
        return Target(values, (), task)
    if table.piece or (classes and set(unique) <= set(classes)):
        values = unique  # of a piece, since the words that make 01 one of them may follow
    else:
        values = [str(int(text)) for text in unique] if are_whole else unique
    longest = max(values, key=len)
    if len(longest) > _LONGEST_CLASS:
        row = int(cells.index[int(np.argmax(codes == values.index(longest)))])
        raise ValueError(
            f"{table.where(row, name)}: expected the name of a class, of at most {_LONGEST_CLASS} "
            f"characters, got {len(longest)}"
        )
    ordered = sorted(set(values), key=int if are_whole else None)
    place = {value: label for label, value in enumerate(ordered)}
    labels = np.array([place[value] for value in values], np.int32)[codes]
    return Target(labels, tuple(ordered), task)


def _are_fractions(texts: Sequence[str], decimal: str) -> bool:
    """One number with a fraction makes it a regression: a word among such is a mistake."""
    import pandas as pd

    numbers = as_numbers(pd.Series(texts, dtype="str"), decimal)
    pairs = zip(~np.isnan(numbers), texts, strict=True)
    return any(fits and not INTEGER.fullmatch(text) for fits, text in pairs)


def _all_numbers(table: Table, name: str, cells: Any, decimal: str) -> np.ndarray:
    numbers = as_numbers(cells, decimal)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(cells.index[int(np.argmax(bad))])
        hint = "; words are classes: --data.task classification" * bool(bad.all())
        raise table.bad_cell(name, BadCell(row, "a finite number", hint))
    return numbers
