"""A table, or a piece of one, in memory: its cells, and where they are in the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.core.validation import brief, unknown_name
from jaxnn.data.optional import require_library
from jaxnn.data.tables.binaries import binary_frames, read_binary
from jaxnn.data.tables.columns import BadCell, as_texts, is_text
from jaxnn.data.tables.delimited import Delimited, find_delimited
from jaxnn.data.tables.errors import without_rows
from jaxnn.data.tables.numerals import find_decimal
from jaxnn.data.tables.numeric import Matrix, read_numbers
from jaxnn.data.tables.pieces import Piece, ReadAgain
from jaxnn.data.tables.reading import Reading, is_in_text


class Table:
    """What `read_table` and `table_pieces` return.

    Attributes:
        path: The file.
        reading: How it is read.
        text: What is known of a file in text; None for others.
        frame: The cells as pandas has them.
        matrix: Where that is an array of numbers, these.
        aside: Columns, of targets or weights, that are numbers or, where these do not say all, are
            read once more as they are written.
        piece: Where it is in the table of which it is a piece.
    """

    def __init__(
        self,
        path: Path,
        reading: Reading,
        text: Delimited | None,
        frame: Any,
        *,
        matrix: Matrix | None = None,
        aside: Sequence[str] = (),
        piece: Piece | None = None,
    ):
        self.path, self.reading, self.text, self.frame = path, reading, text, frame
        self.matrix, self.aside, self.piece = matrix, {*aside}, piece

    @property
    def names(self) -> list[str]:
        """Of the columns, in the order of the file."""
        return list(self.frame.columns) if self.text is None else self.text.columns

    def require_column(self, name: str) -> None:
        """Raise ValueError unless there is a column of this name."""
        if name not in self.frame.columns:
            near = self.names if len(self.names) <= 30 else [*self.names[:30], "…"]
            has_header = self.text is None or self.text.header_rows or self.reading.header
            hint = "; its first row holds numbers and is data, if not with --data.header yes"
            raise ValueError(
                f"{self.path}: {unknown_name('column', name, near)}{'' if has_header else hint}"
            )

    def cells(self, name: str) -> Any:
        """A column as pandas has it, or of texts."""
        cells = self.frame[name]
        return cells.astype("str") if cells.dtype == object else cells

    def written(self, name: str) -> Any:
        """A column of texts, as a table in text has them."""
        if self.piece or name in self.aside:
            self.keep_written([name])
        return as_texts(self.frame[name]).str.strip()

    def keep_written(self, names: Sequence[str]) -> None:
        """Read these columns of a table in text once more, where pandas has made values of their
        cells. Of a piece all of them are to be texts from the first row on: another may have 7 in
        the place of 007."""
        if self.text is None:
            return
        if self.piece:
            if not {*names} <= self.piece.as_text:
                raise ReadAgain(names)
            return
        again = [name for name in names if not is_text(self.frame[name])]
        if again:
            self.frame[again] = self.text.as_written(again)

    def texts(self, name: str, kept: np.ndarray | None = None) -> list[str]:
        """The cells of a column, "" where one is empty; of the rows that are kept."""
        cells = self.written(name) if kept is None else self.written(name)[kept]
        return ["" if cell != cell else str(cell) for cell in cells]

    def codes(self, name: str) -> np.ndarray:
        """[rows], equal where the cells of a column are."""
        import pandas as pd

        return np.asarray(pd.factorize(self.written(name))[0])

    def paths(self, name: str, kept: np.ndarray | None = None) -> list[Path]:
        """The files that the cells of a column name, from the folder of the table on."""
        folder = self.path.parent
        found = [folder / Path(cell).expanduser() for cell in self.texts(name, kept)]
        rows = np.arange(len(self.frame)) if kept is None else np.flatnonzero(kept)
        missing = [row for row, path in zip(rows, found, strict=True) if not path.is_file()]
        if missing:
            hint = ", which is none" + f" (and {len(missing) - 1} more)" * (len(missing) > 1)
            expected = f"the path of a file, from {folder} on"
            error = self.bad_cell(name, BadCell(int(missing[0]), expected, hint))
            raise FileNotFoundError(str(error))
        return found

    def decimal(self, names: Sequence[str]) -> str:
        """ "." or ",", as it is said or by the cells of these columns; raises ValueError where it
        could be both."""
        if self.reading.decimal or self.text is None:
            return self.reading.decimal or "."
        texts = [self.cells(name) for name in names if is_text(self.frame[name])]
        found = find_decimal([cells.dropna() for cells in texts], self.text.separator)
        if self.piece:
            found = self.piece.decimal(names, found)
        if found == "?":
            raise ValueError(
                f"{self.path}: expected numbers that can be read in one way, got some where a "
                "comma could be decimal or group thousands: say --data.decimal with , or ."
            )
        return found or "."

    def where(self, row: int, name: str) -> str:
        """File, line and column of a cell."""
        at = row + (self.piece.before if self.piece else 0)
        if self.text is None:
            return f"{self.path}, row {at + 1}, column {name!r}"
        return f"{self.path}, line {self.text.row(at)[0]}, column {name!r}"

    def bad_cell(self, name: str, error: BadCell) -> ValueError:
        """The same error, which says where the cell is and what is written there."""
        if self.text is None:
            cell = str(self.frame[name].iloc[error.row])
        else:
            at = error.row + (self.piece.before if self.piece else 0)
            cell = self.text.row(at)[1][self.text.names.index(name)]
        got = repr(brief(cell)[1:-1]) if cell else "an empty cell"
        return ValueError(
            f"{self.where(error.row, name)}: expected {error.expected}, got {got}{error.hint}"
        )

    def require_said(self) -> None:
        """Raise ValueError where a column is missing whose kind is said, or where there are no
        rows."""
        for name in (text.rpartition("=")[0] for text in self.reading.kinds):
            self.require_column(name)
        if len(self.frame) == 0:
            raise without_rows(self.path)


def read_table(
    path: Path,
    reading: Reading,
    as_text: Sequence[str] = (),
    wanted: Sequence[str] = (),
    aside: Sequence[str] = (),
) -> Table:
    """The whole table.

    Args:
        path: The file.
        reading: How.
        as_text: Columns whose cells are kept as they are written.
        wanted: Columns that are to be found, by which a header of numbers is recognised.
        aside: See `Table`.

    Raises:
        ValueError: naming the file, and the line of the first row that cannot be read.
    """
    text, matrix = open_table(path, reading, {*wanted, *as_text, *aside}), None
    aside = [name for name in aside if name not in as_text]
    if text is None:
        frame = read_binary(path)
    else:
        with text.reading() as file:
            found = read_numbers(text, file, as_text, aside)
            if found is None:
                file.seek(0)
                found = text.read(file, as_text), None
        frame, matrix = found
        if text.lacks_cells(frame):
            text.require_rows()
        frame = frame.drop(columns=text.unnamed) if text.unnamed else frame
    table = Table(path, reading, text, frame, matrix=matrix, aside=aside)
    table.require_said()
    return table


def table_pieces(
    path: Path,
    reading: Reading,
    as_text: Sequence[str],
    wanted: Sequence[str],
    aside: Sequence[str],
    rows: int,
    settled: Sequence[str] = (),
) -> Iterator[Table]:
    """The same as tables of so many rows, one after the other.

    The arguments are those of `read_table`, and the columns of which
    `jaxnn.data.tables.features.column_of` has said what they are. A piece may raise `ReadAgain`.
    """
    text = open_table(path, reading, {*wanted, *as_text, *aside})
    frames = binary_frames(path, rows) if text is None else text.frames(rows, as_text)
    of_columns = frozenset(as_text), frozenset(aside), frozenset(settled)
    aside = [name for name in aside if name not in as_text]
    before, decimals = 0, {}
    for frame in frames:
        piece = Piece(before, *of_columns, decimals)
        own = frame.reset_index(drop=True)
        table = Table(path, reading, text, own, aside=aside, piece=piece)
        if not before:
            table.require_said()
        yield table
        before += len(frame)
    if not before:
        raise without_rows(path)


def open_table(path: Path, reading: Reading, wanted: set[str]) -> Delimited | None:
    """What is known of a file in text before it is read, None for others; raises ValueError for a
    way of reading that there is not."""
    require_library("pandas", f"reading the table {path}")
    reading.require_valid()
    return find_delimited(path, reading, wanted) if is_in_text(path) else None
