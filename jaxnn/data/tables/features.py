"""Columns of a table as numbers: what each of them holds, and the rows as one array."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.data.tables.binaries import read_binary
from jaxnn.data.tables.columns import BadCell, Column, is_text, read_column, warn_rounded
from jaxnn.data.tables.pieces import ReadAgain
from jaxnn.data.tables.reading import Reading
from jaxnn.data.tables.table import Table, open_table

_TOGETHER = 8


def read_columns(
    table: Table, names: Sequence[str], known: Sequence[Column] = ()
) -> tuple[list[Column], np.ndarray]:
    """The columns and their numbers, [rows, columns]: NaN where a cell is empty.

    Args:
        table: The table.
        names: Of the columns; those that are to be dropped are left out.
        known: The columns of the training data, if these are other examples of them.
    """
    for name in names:
        table.require_column(name)
    if not known and not table.reading.kinds and table.reading.decimal != ",":
        numbers = _plain(table, names)
        if numbers is not None:
            return [Column(name, "number") for name in names], numbers
    decimal = _decimal(table, names, known)
    found, numbers, rows = [], [], np.empty((len(table.frame), len(names)))

    def write() -> None:
        # Some columns at a time, as many as a line of the cache holds, and as few as can be are
        # there twice.
        if numbers:
            rows[:, len(found) - len(numbers) : len(found)] = np.stack(numbers, 1)
            numbers.clear()

    for place, name in enumerate(names):
        said, of = table.reading.kind_of(name), known[place] if known else None
        try:
            _require_alike(table, name, of)
            column, cells = read_column(name, table.cells(name), decimal, of, said)
        except ValueError as error:
            if table.piece and name not in table.piece.settled:
                raise ReadAgain(unsettled=(name,)) from None
            if isinstance(error, BadCell):
                raise table.bad_cell(name, error) from None
            raise ValueError(f"{table.path}: {error}") from None
        if column.kind != "drop":
            is_comma = decimal == "," and table.text is not None and column.kind == "number"
            found.append(column._replace(format=",") if is_comma else column)
            numbers.append(cells)
            if len(numbers) == _TOGETHER:
                write()
    write()
    return found, np.ascontiguousarray(rows[:, : len(found)])


def read_categories(table: Table, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The different texts of a column, and the place of each cell among them, NaN for a gap."""
    try:
        table.keep_written([name])
        column, cells = read_column(name, table.cells(name), ".", None, "category")
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from None
    return column.values, cells


def column_of(
    path: Path, reading: Reading, as_text: Sequence[str], wanted: Sequence[str], name: str
) -> Column:
    """What a column is by all of its cells, of which no others are read; the arguments are those of
    `read_table`. Raises ValueError as `read_columns` does of the whole table."""
    text = open_table(path, reading, {*wanted, *as_text})
    if text is None:
        frame = read_binary(path)[[name]]
    else:
        with text.reading() as file:
            frame = text.read(file, as_text, [name])
    return read_columns(Table(path, reading, text, frame), [name])[0][0]


def _plain(table: Table, names: Sequence[str]) -> np.ndarray | None:
    """The numbers of columns that hold nothing else, all at once."""
    if table.matrix is not None and table.matrix.names == list(names):
        numbers = table.matrix.numbers
        return None if _is_infinite(numbers) else numbers
    frame = table.frame[list(names)] if list(names) != table.names else table.frame
    if not all(dtype.kind in "iuf" for dtype in set(frame.dtypes)):
        return None
    for name in names:
        if frame[name].dtype.kind in "iu":
            warn_rounded(name, frame[name].dropna())
    # Row by row: splits take rows.
    numbers = np.ascontiguousarray(frame.to_numpy(np.float64, na_value=np.nan))
    return None if _is_infinite(numbers) else numbers


def _decimal(table: Table, names: Sequence[str], known: Sequence[Column]) -> str:
    """What is decimal; where it is the comma, the cells of these columns are texts from now on."""
    commas = any(column.kind == "number" and column.format == "," for column in known)
    of_training = "," if commas and table.text is not None else ""
    decimal = table.reading.decimal or of_training or table.decimal(names)
    if decimal == ",":  # 1.234 is no fraction, which pandas takes it for
        floats = [name for name in names if table.frame[name].dtype.kind == "f"]
        table.keep_written(names if floats and table.piece else floats)
    return decimal


def _require_alike(table: Table, name: str, known: Column | None) -> None:
    """Raise ValueError where pandas has made numbers of the cells of a piece, and truth values of
    those before it, or the other way round: as a whole they are words."""
    cells = table.frame[name]
    if known is not None and table.piece and table.text is not None and cells.notna().any():
        made = {"b": "boolean"}.get(cells.dtype.kind, "number" * (not is_text(cells)))
        if {made, known.kind} == {"boolean", "number"}:
            raise ValueError(f"column {name!r}: expected {known.kind}s, got {made}s")


def _is_infinite(numbers: np.ndarray) -> bool:
    """Whether some are, without another array of as many; NaN is passed over."""
    ends = [f.reduce(numbers, None, initial=0.0) for f in (np.fmin, np.fmax)]
    return bool(np.isinf(ends).any())
