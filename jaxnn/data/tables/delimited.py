"""A table in text: its names, its rows with their lines, and what pandas reads of it."""

import contextlib
import csv
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxnn.data.tables.errors import not_whole, require_distinct, without_rows
from jaxnn.data.tables.reading import Reading
from jaxnn.data.tables.sniffing import find_encoding, find_separator, has_header, opened

_LONGEST_CELL = 2**31 - 1


class Delimited(NamedTuple):
    """A file, and what has been found out of it."""

    path: Path
    encoding: str
    separator: str
    header_rows: int
    """1 or 0."""
    names: list[str]
    """Of all columns; their numbers where there is no header."""
    unnamed: list[str]
    """The first of them, where a header has no name for it: it numbers the rows."""

    @property
    def columns(self) -> list[str]:
        """The names of the others."""
        return [name for name in self.names if name not in self.unnamed]

    def options(self, as_text: Collection[str]) -> dict[str, Any]:
        """Those of `pandas.read_csv`, by which the cells of some columns stay as they are
        written."""
        return {
            "sep": self.separator,
            "encoding": self.encoding,
            "header": 0 if self.header_rows else None,
            "names": self.names,
            "index_col": False,
            "keep_default_na": False,
            "na_values": [""],
            "skipinitialspace": True,
            "low_memory": False,
            "dtype": {name: "str" for name in as_text if name in self.names},
        }

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """The bytes of the file, while what pandas raises becomes an error with the line."""
        import pandas as pd

        try:
            with warnings.catch_warnings(), opened(self.path) as file:
                warnings.simplefilter("error", pd.errors.ParserWarning)
                yield file
        except pd.errors.EmptyDataError:
            raise without_rows(self.path) from None
        except unreadable() as error:
            self.require_rows()
            raise not_whole(self.path, error) from error

    def read(self, file: Any, as_text: Collection[str], names: list[str] | None = None) -> Any:
        """What pandas reads of the bytes: all columns, or these."""
        import pandas as pd

        return pd.read_csv(file, usecols=names, **self.options(as_text))

    def as_written(self, names: list[str]) -> Any:
        """These columns once more, as texts."""
        with opened(self.path) as file:
            return self.read(file, names, names)[names]

    def frames(self, rows: int, as_text: Collection[str]) -> Iterator[Any]:
        """The table as pandas reads it, so many rows at a time."""
        import pandas as pd

        checked = False
        with self.reading() as file:
            reader: Any = pd.read_csv(file, chunksize=rows, **self.options(as_text))
            while (frame := next(reader, None)) is not None:
                if not checked and self.lacks_cells(frame):
                    self.require_rows()
                    checked = True
                yield frame.drop(columns=self.unnamed)

    def lacks_cells(self, frame: Any) -> bool:
        """Where cells are missing at the end of a row, pandas has none of the last column."""
        return len(self.names) > 1 and bool(frame[self.names[-1]].isna().any())

    def require_rows(self) -> None:
        """Raise ValueError for the first row whose cells are not as many as the columns."""
        for line, row in self.rows():
            if len(row) != len(self.names):
                raise ValueError(
                    f"{self.path}, line {line}: expected {len(self.names)} cells as in the "
                    f"header, got {len(row)}"
                )

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells without the blanks around them) of every row that is not empty."""
        return _rows(self.path, self.encoding, self.separator)

    def row(self, place: int) -> tuple[int, list[str]]:
        """That at a place below the header."""
        for at, found in enumerate(self.rows(), -self.header_rows):
            if at == place:
                return found
        return 0, []


def find_delimited(path: Path, reading: Reading, wanted: set[str]) -> Delimited:
    """What a file in text shows of itself where ``reading`` does not say it; a header of numbers is
    recognised by the wanted columns."""
    encoding = reading.encoding or find_encoding(path)
    separator = find_separator(path, reading.separator, encoding)
    first = next(_rows(path, encoding, separator), (0, []))[1]
    if not first:
        raise ValueError(f"{path}: expected a header row, got an empty file")
    if not has_header(path, reading, first, wanted):
        names = [str(place) for place in range(len(first))]
        return Delimited(path, encoding, separator, 0, names, [])
    names = [cell or f"column {place}" for place, cell in enumerate(first)]
    require_distinct(path, names)
    unnamed = names[:1] if first[0] == "" and len(first) > 1 else []
    return Delimited(path, encoding, separator, 1, names, unnamed)


def unreadable() -> tuple[type[Exception], ...]:
    """What is raised for a file that is no table."""
    from pandas.errors import EmptyDataError, ParserError, ParserWarning

    return UnicodeDecodeError, EOFError, OSError, ParserError, ParserWarning, EmptyDataError


def _rows(path: Path, encoding: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    with opened(path, encoding) as file:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        reader = csv.reader(file, strict=True, delimiter=separator, skipinitialspace=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, [cell.strip() for cell in row]
        except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
            raise ValueError(f"{path}, after line {reader.line_num}: {error}") from error
