"""Reading tables: columns of numbers, truth values, categories and dates, and targets."""

import codecs
import contextlib
import copy
import csv
import gzip
import itertools
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import brief, listed, unknown_name
from jaxnn.data.columns import (
    KINDS,
    MISSING,
    BadCell,
    Column,
    as_numbers,
    as_texts,
    find_decimal,
    is_text,
    read_column,
    warn_rounded,
)
from jaxnn.data.dataset import BadWeight, as_weights
from jaxnn.data.optional import require_library
from jaxnn.data.spans import has_negative_zeros, spans_of
from jaxnn.data.threads import in_threads

VERSION = 4  # changes when the same file would be decoded to something else

TEXTS = {".csv": "", ".tsv": "\t", ".tab": "\t", ".txt": ""}
"""Suffixes of tables in text, and the separator that they say."""
BINARIES = {
    ".parquet": "read_parquet",
    ".pq": "read_parquet",
    ".feather": "read_feather",
    ".arrow": "read_feather",
    ".xlsx": "read_excel",
}
"""Suffixes of other tables, and pandas' functions for them."""
SEPARATORS = (",", ";", "\t", "|")
TASKS = ("classification", "regression", "labels")
MISSING_TARGETS = ("refuse", "drop", "class")

INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_CLASS = 1000
_MOST_CLASSES = 20
"""Whole numbers with more different values are classes only if there are ten examples of each."""
_LONGEST_CELL = 2**31 - 1
_LARGEST_EXACT = 2**53
_CHUNK = 1 << 20
_TOGETHER = 8
_PROBED = 1 << 8
_ROWS = 1 << 14
"""How many are read at once of a table of numbers."""
_UNREADABLE = (UnicodeDecodeError, EOFError, OSError)


class Reading(NamedTuple):
    """How a table is read; what is empty is found out."""

    separator: str = ""
    decimal: str = ""
    """"." or ","."""
    encoding: str = ""
    header: str = ""
    """"yes" or "no": whether the first row holds the names of the columns."""
    kinds: tuple[str, ...] = ()
    """COLUMN=KIND, of a column that is otherwise than it looks: see `jaxnn.data.columns.KINDS`; a
    date may have a format, "when=date:%d/%m/%Y"."""
    missing_target: str = ""
    """What becomes of rows without a target: "refuse", "drop", or "class" where NA is one."""

    def require_valid(self) -> None:
        """Raise ValueError for an option that there is not."""
        for name, valid in (
            ("decimal", (".", ",")),
            ("header", ("yes", "no")),
            ("missing_target", MISSING_TARGETS),
        ):
            value = getattr(self, name)
            if value and value not in valid:
                raise ValueError(f"table: {unknown_name(name, value, valid)}")
        if self.encoding:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ValueError(f"table: unknown encoding {self.encoding!r}") from None
        if len(self.separator.replace("\\t", "\t")) > 1:
            raise ValueError(
                f"table: expected separator to be one character, got {self.separator!r}"
            )
        self.kind_of("")

    def kind_of(self, name: str) -> str:
        """What a column is said to be; "" where nothing is said."""
        said = {}
        for text in self.kinds:
            column, equals, kind = text.rpartition("=")
            if not equals or kind.partition(":")[0] not in KINDS:
                raise ValueError(
                    f"table: expected kinds as COLUMN=KIND with a kind of {', '.join(KINDS)}, got "
                    f"{text!r}"
                )
            said[column] = kind
        return said.get(name, "")

    def saying_categories(self, names: Sequence[str]) -> "Reading":
        """The same where these columns are categories; raises ValueError where one is said to be
        something else."""
        for name in names:
            if (kind := self.kind_of(name)) not in ("", "category"):
                raise ValueError(
                    f"table: expected column {name!r}, which is to be embedded, to be a category, "
                    f"got kinds {name}={kind}"
                )
        others = (f"{name}=category" for name in names if not self.kind_of(name))
        return self._replace(kinds=(*self.kinds, *others))


FOUND = Reading()
"""Everything is found out."""


class Target(NamedTuple):
    """The targets of a table."""

    values: np.ndarray
    """Labels [examples], or numbers [examples, outputs]."""
    class_names: tuple[str, ...]
    task: str


def is_table(path: Path) -> bool:
    """Whether the suffix is that of a table."""
    return suffix_of(path) in {**TEXTS, **BINARIES}


def are_many(classes: int, examples: int) -> bool:
    """Whether whole numbers are too many different ones to be classes."""
    return classes > _MOST_CLASSES and examples < 10 * classes


def suffix_of(path: Path) -> str:
    """In lower case, that before .gz where a file is compressed."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix == ".gz" else suffix


class ReadAgain(Exception):
    """A piece shows that those before it were read otherwise than it has to be: the whole table is
    to be read again, with these columns as they are written, for this task, or once it is known
    what these columns hold as a whole (see `Table.column_of`)."""

    def __init__(
        self, as_text: Sequence[str] = (), task: str | None = None, unsettled: Sequence[str] = ()
    ):
        super().__init__(as_text, task, unsettled)
        self.as_text, self.task, self.unsettled = tuple(as_text), task, tuple(unsettled)


class Table:
    """A table in memory, as pandas reads it.

    Args:
        path: The file.
        reading: How.
        as_text: Columns whose cells are kept as they are written.
        aside: Columns, of targets or weights, that are numbers or, where these do not say all, are
            read once more as they are written.
        wanted: Columns that are to be found, by which a header of numbers is recognised.

    Raises:
        ValueError: naming the file, and the line of the first row that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        reading: Reading,
        as_text: Sequence[str] = (),
        wanted: Sequence[str] = (),
        aside: Sequence[str] = (),
    ):
        self._open(path, reading)
        if self.is_text:
            self._open_text(as_text, {*wanted, *as_text, *aside}, aside)
            self._frame = self._read_text()
        else:
            self._frame = self._read_binary()
        self._require_said()

    def _open(self, path: Path, reading: Reading) -> None:
        self._pandas = require_library("pandas", f"reading the table {path}")
        self.path, self.reading = path, reading
        reading.require_valid()
        self._matrix: tuple[list[str], np.ndarray] | None = None
        self._aside: set[str] = set()
        self._before = 0  # rows, where this is a piece
        self._is_piece = False
        self._settled: set[str] = set()
        self._decimals: dict[tuple[str, ...], str] = {}  # that pieces before this one have
        self.is_text = suffix_of(path) in TEXTS

    def _require_said(self) -> None:
        for name in (text.rpartition("=")[0] for text in self.reading.kinds):
            self.require_column(name)
        if len(self._frame) == 0:
            raise ValueError(f"{self.path}: expected rows below the header, got none")

    @classmethod
    def pieces(
        cls,
        path: Path,
        reading: Reading,
        as_text: Sequence[str],
        wanted: Sequence[str],
        aside: Sequence[str],
        rows: int,
        settled: Sequence[str] = (),
    ) -> Iterator["Table"]:
        """The table as tables of so many rows, one after the other.

        The arguments are those of `Table`, and the columns of which `column_of` has said what they
        are. A piece may raise `ReadAgain`.
        """
        whole = cls.__new__(cls)
        whole._open(path, reading)
        whole._settled = {*settled}
        if whole.is_text:
            whole._open_text(as_text, {*wanted, *as_text, *aside}, aside)
            frames = whole._text_pieces(rows)
        else:
            frames = whole._binary_pieces(rows)
        found = False
        for frame in frames:
            piece = copy.copy(whole)
            piece._frame, piece._is_piece = frame.reset_index(drop=True), True
            if not found:
                piece._require_said()
                found = True
            yield piece
            whole._before += len(frame)
        if not found:
            raise ValueError(f"{path}: expected rows below the header, got none")

    @classmethod
    def column_of(
        cls, path: Path, reading: Reading, as_text: Sequence[str], wanted: Sequence[str], name: str
    ) -> Column:
        """What a column is by all of its cells, of which no others are read; raises ValueError as
        `Table.columns` does of the whole table."""
        whole = cls.__new__(cls)
        whole._open(path, reading)
        if whole.is_text:
            whole._open_text(as_text, {*wanted, *as_text}, ())
            with whole._reading() as file:
                options = {**whole._options, "usecols": [name]}
                whole._frame = whole._pandas.read_csv(file, **options)
        else:
            whole._frame = whole._read_binary()[[name]]
        return whole.columns([name])[0][0]

    def _text_pieces(self, rows: int) -> Iterator[Any]:
        checked = False
        with self._reading() as file:
            reader = self._pandas.read_csv(file, chunksize=rows, **self._options)
            while (frame := next(reader, None)) is not None:
                if not checked and self._lacks_cells(frame):
                    self._require_rows()
                    checked = True
                yield frame.drop(columns=self._index)

    def _binary_pieces(self, rows: int) -> Iterator[Any]:
        match BINARIES[suffix_of(self.path)]:
            case "read_parquet":
                batches = self._parquet_batches(rows)
            case "read_feather":
                batches = self._arrow_batches(rows)
            case _:  # a sheet has no more than 1,048,576 rows, and is read at once
                whole = self._read_binary()
                for start in range(0, len(whole), rows):
                    yield whole.iloc[start : start + rows].reset_index(drop=True)
                return
        try:
            for batch in batches:
                yield self._named(batch.to_pandas())
        except (OSError, ArithmeticError, self._pandas.errors.OutOfBoundsDatetime) as error:
            raise ValueError(f"{self.path}: expected a whole table, got: {error}") from error

    def _parquet_batches(self, rows: int) -> Iterator[Any]:
        parquet = require_library("pyarrow.parquet", f"reading the table {self.path}")
        with parquet.ParquetFile(self.path) as file:
            yield from file.iter_batches(rows)

    def _arrow_batches(self, rows: int) -> Iterator[Any]:
        arrow = require_library("pyarrow", f"reading the table {self.path}")
        try:
            with arrow.OSFile(str(self.path)) as file, arrow.ipc.open_file(file) as reader:
                for place in range(reader.num_record_batches):
                    batch = reader.get_batch(place)
                    for start in range(0, len(batch), rows):
                        yield batch.slice(start, rows)
        except arrow.ArrowException as error:
            raise ValueError(f"{self.path}: expected a whole table, got: {error}") from error

    def categories(self, name: str) -> tuple[tuple[str, ...], np.ndarray]:
        """The different texts of a column, and the place of each cell among them, NaN for a gap."""
        try:
            self._as_written([name])
            column, cells = read_column(name, self._cells(name), ".", None, "category")
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        return column.values, cells

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self._order)

    def require_column(self, name: str) -> None:
        """Raise ValueError unless there is a column of this name."""
        if name not in self._frame.columns:
            near = self.names if len(self.names) <= 30 else [*self.names[:30], "…"]
            is_data = self.is_text and not self._header_rows and not self.reading.header
            hint = (
                "; its first row holds numbers and is data, if not with --data.header yes" * is_data
            )
            raise ValueError(f"{self.path}: {unknown_name('column', name, near)}{hint}")

    def columns(
        self, names: Sequence[str], known: Sequence[Column] = ()
    ) -> tuple[list[Column], np.ndarray]:
        """The columns and their numbers, [rows, columns]: NaN where a cell is empty.

        Args:
            names: Of the columns.
            known: The columns of the training data, if these are other examples of them.
        """
        for name in names:
            self.require_column(name)
        if not known and not self.reading.kinds and self.reading.decimal != ",":
            numbers = self._plain(names)
            if numbers is not None:
                return [Column(name, "number") for name in names], numbers
        commas = any(column.kind == "number" and column.format == "," for column in known)
        of_training = "," if commas and self.is_text else ""
        decimal = self.reading.decimal or of_training or self._decimal(names)
        if decimal == ",":  # 1.234 is no fraction, which pandas takes it for
            floats = [name for name in names if self._frame[name].dtype.kind == "f"]
            self._as_written(names if floats and self._is_piece else floats)
        found, numbers, table = [], [], np.empty((len(self._frame), len(names)))

        def write() -> None:
            # Some columns at a time, as many as a line of the cache holds, and as few as can be are
            # there twice.
            if numbers:
                table[:, len(found) - len(numbers) : len(found)] = np.stack(numbers, 1)
                numbers.clear()

        for place, name in enumerate(names):
            said, of = self.reading.kind_of(name), known[place] if known else None
            try:
                self._require_alike(name, of)
                column, cells = read_column(name, self._cells(name), decimal, of, said)
            except ValueError as error:
                if self._is_piece and name not in self._settled:
                    raise ReadAgain(unsettled=(name,)) from None
                if isinstance(error, BadCell):
                    raise self._bad_cell(name, error) from None
                raise ValueError(f"{self.path}: {error}") from None
            if column.kind != "drop":
                is_comma = decimal == "," and self.is_text and column.kind == "number"
                found.append(column._replace(format=",") if is_comma else column)
                numbers.append(cells)
                if len(numbers) == _TOGETHER:
                    write()
        write()
        return found, np.ascontiguousarray(table[:, : len(found)])

    def _require_alike(self, name: str, known: Column | None) -> None:
        """Raise ValueError where pandas has made numbers of the cells of a piece, and truth values
        of those before it, or the other way round: as a whole they are words."""
        cells = self._frame[name]
        if known is not None and self._is_piece and self.is_text and cells.notna().any():
            made = {"b": "boolean"}.get(cells.dtype.kind, "number" * (not is_text(cells)))
            if {made, known.kind} == {"boolean", "number"}:
                raise ValueError(f"column {name!r}: expected {known.kind}s, got {made}s")

    def target(
        self,
        names: Sequence[str],
        task: str | None,
        classes: Sequence[str] = (),
        *,
        prefer_numbers: bool = False,
    ) -> tuple[Target, np.ndarray]:
        """The targets in these columns, and which rows have them.

        Text and few whole numbers are classes (numbered in the order of the text or of the
        numbers), other numbers a regression, unless ``task`` says which. Several columns are the
        outputs of a regression, or, where all are truth values, labels of which each example has
        any number.

        Args:
            names: The columns.
            task: One of `TASKS`; None to tell by the cells.
            classes: Those that are known, which are taken by their very names.
            prefer_numbers: Whether, where the task is not given, whole numbers are a regression.
        """
        found = [self._as_numbers(name, task) for name in names]
        numbers = [cells for cells in found if cells is not None]
        if len(numbers) == len(names):
            everything = np.ones(len(self._frame), bool)
            if len(numbers) > 1:
                values = np.stack(numbers, 1, dtype=np.float64)
                return self._several_targets(names, values, task, prefer_numbers), everything
            one = self._target_of_numbers(numbers[0], task, classes, prefer_numbers=prefer_numbers)
            if one is not None:
                return one, everything
        texts = [self._texts(name) for name in names]
        without = np.zeros(len(self._frame), bool)
        for name, cells in zip(names, texts, strict=True):
            gaps = np.array((cells == "") | cells.isna(), bool)
            if self.reading.missing_target != "class":
                gaps |= np.asarray(cells.str.lower().isin(MISSING), bool) & ~np.isin(
                    np.asarray(cells, object), list(classes)
                )
            if gaps.any() and self.reading.missing_target != "drop":
                row = int(np.argmax(gaps))
                cell = str(cells.iloc[row]) if isinstance(cells.iloc[row], str) else ""
                hint = "; leave such rows out with --data.missing-target drop"
                hint += f", or take {cell!r} as a class with --data.missing-target class" * bool(
                    cell
                )
                raise ValueError(
                    f"{self._where(row, name)}: expected a target, got "
                    f"{repr(cell) if cell else 'none'}{hint}"
                )
            without |= gaps
        kept = ~without
        if not kept.any():
            if self._is_piece:
                return Target(np.zeros(0), (), task or ""), kept
            raise ValueError(f"{self.path}: expected rows with a target, got none")
        if len(names) == 1:
            cells = texts[0][kept]
            return self._one_target(names[0], cells, task, classes, prefer_numbers), kept
        decimal = self._decimal(names)
        numbers = []
        for name, cells in zip(names, texts, strict=True):
            words = (
                cells[kept]
                .str.lower()
                .map({"true": "1", "yes": "1", "false": "0", "no": "0"})
                .fillna(cells[kept])
            )
            numbers.append(self._all_numbers(name, words, decimal))
        return self._several_targets(names, np.stack(numbers, 1), task, prefer_numbers), kept

    def _several_targets(
        self, names: Sequence[str], values: np.ndarray, task: str | None, prefer_numbers: bool
    ) -> Target:
        are_labels = bool(np.isin(values, (0, 1)).all()) and not prefer_numbers
        if task == "labels" and not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"{self.path}: expected the targets {', '.join(names)} to be 0 or 1, true or "
                "false, for the task labels"
            )
        if task == "classification":
            raise ValueError(
                f"{self.path}: expected one target for a classification, got {', '.join(names)}; "
                "for truth values, of which each example has any number, say --data.task labels"
            )
        return Target(values, (), task or ("labels" if are_labels else "regression"))

    def texts(self, name: str, kept: np.ndarray | None = None) -> list[str]:
        """The cells of a column, "" where one is empty; of the rows that are kept."""
        cells = self._texts(name) if kept is None else self._texts(name)[kept]
        return ["" if cell != cell else str(cell) for cell in cells]

    def paths(self, name: str, kept: np.ndarray | None = None) -> list[Path]:
        """The files that the cells of a column name, from the folder of the table on."""
        folder = self.path.parent
        found = [folder / Path(cell).expanduser() for cell in self.texts(name, kept)]
        rows = np.arange(len(self._frame)) if kept is None else np.flatnonzero(kept)
        missing = [row for row, path in zip(rows, found, strict=True) if not path.is_file()]
        if missing:
            hint = ", which is none" + f" (and {len(missing) - 1} more)" * (len(missing) > 1)
            expected = f"the path of a file, from {folder} on"
            error = self._bad_cell(name, BadCell(int(missing[0]), expected, hint))
            raise FileNotFoundError(str(error))
        return found

    def weights(self, name: str, kept: np.ndarray) -> np.ndarray:
        """What the rows that are kept count, by this column: see `as_weights`."""
        known = Column(name, "number")
        try:
            numbers = read_column(name, self._cells(name), self._decimal([name]), known, "")[1]
            if self._is_piece and not numbers[kept].any():
                return numbers[kept].astype(np.float32)  # others may count
            return as_weights(numbers[kept], int(kept.sum()))
        except BadCell as error:
            raise self._bad_cell(name, error) from None
        except BadWeight as error:
            row = int(np.flatnonzero(kept)[error.example])
            raise self._bad_cell(name, BadCell(row, error.expected)) from None
        except ValueError as error:
            raise ValueError(f"{self.path}, column {name!r}: {error}") from None

    def codes(self, name: str) -> np.ndarray:
        """[rows], equal where the cells of a column are."""
        return np.asarray(self._pandas.factorize(self._texts(name))[0])

    def _one_target(
        self,
        name: str,
        cells: Any,
        task: str | None,
        classes: Sequence[str],
        prefer_numbers: bool,
    ) -> Target:
        decimal = self._decimal([name])
        if task == "labels":
            raise ValueError(f"{self.path}: expected several targets for the task labels, got one")
        codes, unique = self._pandas.factorize(cells)
        unique = [str(value) for value in unique]
        all_integers = all(map(INTEGER.fullmatch, unique))
        if task is None:
            fractions = self._has_fractions(unique, decimal)
            many = are_many(len(unique), len(codes))
            short = (
                all(abs(int(text)) < _LARGEST_EXACT for text in unique) if all_integers else False
            )
            whole = all_integers and short and (many or prefer_numbers)
            task = "regression" if fractions or whole else "classification"
        if task == "regression":
            values = self._all_numbers(name, cells, decimal)
            if np.abs(values).max() >= _LARGEST_EXACT and all_integers:
                raise ValueError(
                    f"{self.path}, column {name!r}: expected numbers of at most 15 digits for a "
                    "regression, got longer ones; as classes they are taken with "
                    "--data.task classification"
                )
            return Target(values, (), task)
        if self._is_piece or (classes and set(unique) <= set(classes)):
            values = unique  # of a piece, since the words that make 01 one of them may follow
        else:
            values = [str(int(text)) for text in unique] if all_integers else unique
        longest = max(values, key=len)
        if len(longest) > _LONGEST_CLASS:
            row = int(cells.index[int(np.argmax(codes == values.index(longest)))])
            raise ValueError(
                f"{self._where(row, name)}: expected the name of a class, of at most "
                f"{_LONGEST_CLASS} characters, got {len(longest)}"
            )
        ordered = sorted(set(values), key=int if all_integers else None)
        place = {value: label for label, value in enumerate(ordered)}
        labels = np.array([place[value] for value in values], np.int32)[codes]
        return Target(labels, tuple(ordered), task)

    def _has_fractions(self, texts: Sequence[str], decimal: str) -> bool:
        """One number with a fraction makes it a regression: a word among such is a mistake."""
        numbers = as_numbers(self._pandas.Series(texts, dtype="str"), decimal)
        pairs = zip(~np.isnan(numbers), texts, strict=True)
        return any(fits and not INTEGER.fullmatch(text) for fits, text in pairs)

    def has_fractions(self, name: str, texts: Sequence[str]) -> bool:
        """Whether some of these texts of a column are numbers that are no classes."""
        return self._has_fractions(texts, self._decimal([name]))

    def _as_numbers(self, name: str, task: str | None) -> np.ndarray | None:
        """The cells of a column aside that says all it has to say as numbers: finite ones of at
        most 15 digits, without gaps, that are whole as they are written, or some of which are not
        (for a regression, any)."""
        if not self.is_text or name not in self._aside or self.reading.decimal == ",":
            return None
        cells = self._frame[name]
        if cells.dtype.kind not in "if":
            return None
        numbers = cells.to_numpy()
        if not np.isfinite(numbers).all() or np.abs(numbers).max() >= _LARGEST_EXACT:
            return None
        is_whole = numbers.dtype.kind == "f" and bool((numbers == np.floor(numbers)).all())
        if is_whole and task != "regression":
            return None
        return numbers

    @staticmethod
    def _target_of_numbers(
        numbers: np.ndarray, task: str | None, classes: Sequence[str], *, prefer_numbers: bool
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

    def _all_numbers(self, name: str, cells: Any, decimal: str) -> np.ndarray:
        numbers = as_numbers(cells, decimal)
        bad = ~np.isfinite(numbers)
        if bad.any():
            row = int(cells.index[int(np.argmax(bad))])
            hint = "; words are classes: --data.task classification" * bool(bad.all())
            raise self._bad_cell(name, BadCell(row, "a finite number", hint))
        return numbers

    def _plain(self, names: Sequence[str]) -> np.ndarray | None:
        """The numbers of columns that hold nothing else, all at once."""
        if self._matrix is not None and self._matrix[0] == list(names):
            numbers = self._matrix[1]
            return None if _is_infinite(numbers) else numbers
        frame = self._frame[list(names)] if list(names) != self.names else self._frame
        if not all(dtype.kind in "iuf" for dtype in set(frame.dtypes)):
            return None
        for name in names:
            if frame[name].dtype.kind in "iu":
                warn_rounded(name, frame[name].dropna())
        # Row by row: splits take rows.
        numbers = np.ascontiguousarray(frame.to_numpy(np.float64, na_value=np.nan))
        return None if _is_infinite(numbers) else numbers

    def _cells(self, name: str) -> Any:
        cells = self._frame[name]
        return cells.astype("str") if cells.dtype == object else cells

    def _texts(self, name: str) -> Any:
        """The cells as a table in text has them."""
        if self._is_piece or name in self._aside:
            self._as_written([name])
        return as_texts(self._frame[name]).str.strip()

    def _as_written(self, names: Sequence[str]) -> None:
        """Read these columns of a table in text once more, where pandas has made values of their
        cells. Of a piece all of them are to be texts from the first row on: another may have 7 in
        the place of 007."""
        known = {*self._options["dtype"]} if self.is_text else {*names}
        if self._is_piece:
            if not {*names} <= known:
                raise ReadAgain(names)
            return
        again = [name for name in names if name not in known and not is_text(self._frame[name])]
        if again:
            self._frame[again] = self._read_as_written(again)

    def _read_as_written(self, names: Sequence[str]) -> Any:
        self._options["dtype"] |= dict.fromkeys(names, "str")
        with self._opens(self.path, "rb") as file:
            options = {**self._options, "usecols": names}
            return self._pandas.read_csv(file, **options)[names]

    def _decimal(self, names: Sequence[str]) -> str:
        if self.reading.decimal or not self.is_text:
            return self.reading.decimal or "."
        texts = [self._cells(name) for name in names if is_text(self._frame[name])]
        found = find_decimal([cells.dropna() for cells in texts], self._separator)
        if self._is_piece:
            group = tuple(name for name in names if name in self._beside)
            before = self._decimals.get(group)
            if before and found in ("", "?"):
                found = before
            elif (before and found != before) or (before == "" and found == ","):
                found = "?"
            self._decimals[group] = found
        if found == "?":
            raise ValueError(
                f"{self.path}: expected numbers that can be read in one way, got some where a "
                "comma could be decimal or group thousands: say --data.decimal with , or ."
            )
        return found or "."

    def _read_binary(self) -> Any:
        read = BINARIES[suffix_of(self.path)]
        library = "openpyxl" if read == "read_excel" else "pyarrow"
        require_library(library, f"reading the table {self.path}")
        try:
            frame = getattr(self._pandas, read)(self.path)
        except Exception as error:  # each of these libraries has errors of its own
            raise ValueError(f"{self.path}: expected a whole table, got: {error}") from error
        return self._named(frame)

    def _named(self, frame: Any) -> Any:
        """The frame, once its columns are found to be as a table has them."""
        names = [str(name) for name in frame.columns]
        self._require_distinct(names)
        for place, name in enumerate(names):
            cells = frame.iloc[:, place]
            first = cells.first_valid_index() if cells.dtype == object else None
            if isinstance(of := cells.get(first), list | tuple | dict | set | np.ndarray):
                raise ValueError(
                    f"{self.path}: column {name!r}: expected single values, got {type(of).__name__}"
                    f": leave it out when the file is written"
                )
        self._order = names
        frame.columns = self._pandas.Index(names, dtype=object)
        return frame.reset_index(drop=True)

    def _open_text(self, as_text: Sequence[str], wanted: set[str], aside: Sequence[str]) -> None:
        self._beside, self._aside = {*aside}, {*aside} - {*as_text}
        self._opens = gzip.open if self.path.suffix.lower() == ".gz" else open
        self._encoding = self.reading.encoding or self._find_encoding()
        self._separator = self._find_separator()
        first = next(self._rows(), (0, []))[1]
        if not first:
            raise ValueError(f"{self.path}: expected a header row, got an empty file")
        has_header = self._has_header(first, wanted)
        index = [0] if has_header and first[0] == "" and len(first) > 1 else []
        names = (
            [cell or f"column {place}" for place, cell in enumerate(first)]
            if has_header
            else [str(place) for place in range(len(first))]
        )
        self._header_rows = int(has_header)
        self._require_distinct(names)
        self._names = names
        self._index = [names[place] for place in index]
        self._order = [name for name in names if name not in self._index]
        self._options = {
            "sep": self._separator,
            "encoding": self._encoding,
            "header": 0 if has_header else None,
            "names": names,
            "index_col": False,
            "keep_default_na": False,
            "na_values": [""],
            "skipinitialspace": True,
            "low_memory": False,
            "dtype": {name: "str" for name in as_text if name in names},
        }

    def _read_text(self) -> Any:
        with self._reading() as file:
            frame = self._read_numbers(file, self._options)
            if frame is None:
                file.seek(0)
                frame = self._pandas.read_csv(file, **self._options)
        if self._lacks_cells(frame):
            self._require_rows()
        return frame.drop(columns=self._index) if self._index else frame

    def _lacks_cells(self, frame: Any) -> bool:
        """Where cells are missing at the end of a row, pandas has none of the last column."""
        return len(self._names) > 1 and bool(frame[self._names[-1]].isna().any())

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """The open file, and what pandas raises as an error with the line."""
        try:
            with warnings.catch_warnings(), self._opens(self.path, "rb") as file:
                warnings.simplefilter("error", self._pandas.errors.ParserWarning)
                yield file
        except self._pandas.errors.EmptyDataError:
            raise ValueError(f"{self.path}: expected rows below the header, got none") from None
        except (*_UNREADABLE, *self._parsing_errors()) as error:
            self._require_rows()
            raise ValueError(f"{self.path}: expected a whole table, got: {error}") from error

    def _parsing_errors(self) -> tuple[type[Exception], ...]:
        errors = self._pandas.errors
        return errors.ParserError, errors.ParserWarning, errors.EmptyDataError

    def _read_numbers(self, file: Any, options: dict[str, Any]) -> Any:
        """The table in pieces, of which no more than a few are there as text at a time; None where
        a column but those that are kept as they are written is no numbers that float64 holds."""
        aside = [n for n in self._names if n in options["dtype"] or n in self._aside]
        names = [name for name in self._names if name not in aside]
        start = self._pandas.read_csv(file, nrows=_PROBED, **options).drop(columns=aside)
        if not names or not {dtype.kind for dtype in start.dtypes} <= {"i", "f"}:
            return None
        found = self._read_spans(options, aside, len(names))
        if found is None:
            file.seek(0)
            pieces, matrices = [], []
            for piece, numbers, _ in self._number_pieces(file, options, aside):
                if numbers is None:
                    return None
                pieces.append(piece)
                matrices.append(np.ascontiguousarray(numbers))
            if not matrices:
                return None
            table = np.empty((sum(map(len, matrices)), len(names)))
            end = len(table)
            while matrices:  # none is there twice
                own = matrices.pop()
                table[end - len(own) : end] = own
                end -= len(own)
            found = table, pieces
        table, pieces = found
        self._matrix = names, table
        frame = self._pandas.DataFrame(table, columns=names, copy=False)
        if aside:
            frame[aside] = self._pandas.concat(pieces, ignore_index=True)
            # 007 is a 7 in a piece of numbers, and beside those with words the same class.
            texts = [name for name in aside if is_text(frame[name])]
            mixed = [n for n in texts if not all(is_text(piece[n]) for piece in pieces)]
            if mixed:
                frame[mixed] = self._read_as_written(mixed)
        return frame

    def _number_pieces(
        self, file: Any, options: dict[str, Any], aside: list[str]
    ) -> Iterator[tuple[Any, np.ndarray | None, np.ndarray]]:
        """The columns aside, the numbers of the others, None where these are none, and which of
        them are whole."""
        with self._pandas.read_csv(file, chunksize=_ROWS, **options) as reader:
            for piece in reader:
                numbers = piece.drop(columns=aside)
                whole = numbers.select_dtypes("int64")
                fits = {dtype.kind for dtype in numbers.dtypes} <= {"i", "f"} and not (
                    whole.size and whole.abs().to_numpy().max() > _LARGEST_EXACT
                )
                are_whole = np.array([dtype.kind == "i" for dtype in numbers.dtypes])
                yield piece[aside], numbers.to_numpy(np.float64) if fits else None, are_whole

    def _read_spans(
        self, options: dict[str, Any], aside: list[str], columns: int
    ) -> tuple[np.ndarray, list[Any]] | None:
        """The numbers and the columns aside, by as many threads as there are processors; None where
        the table is to be read from its start to its end, also to say what is wrong with it."""
        if self._opens is not open or self._encoding not in ("utf-8", "utf-8-sig"):
            return None
        spans = spans_of(self.path, self._separator, len(self._names))
        if not spans:
            return None
        ends = itertools.accumulate((span.lines for span in spans), initial=-self._header_rows)
        starts = [max(end, 0) for end in ends]
        table = np.empty((starts[-1], columns))
        below = options | {"header": None, "encoding": "utf-8"}
        zeros, fractions = np.zeros(columns, bool), np.zeros(columns, bool)
        stop = Event()

        def read(place: int) -> tuple[int, list[Any]] | None:
            row, pieces = starts[place], []
            with spans[place].open() as file:
                how = below if place else options
                for piece, numbers, are_whole in self._number_pieces(file, how, aside):
                    if numbers is None or row + len(numbers) > starts[place + 1]:
                        stop.set()
                        return None
                    if stop.is_set():
                        return None
                    table[row : row + len(numbers)] = numbers
                    zeros[are_whole & (numbers == 0).any(0)] = True
                    fractions[~are_whole] = True
                    row += len(numbers)
                    pieces.append(piece)
            return row - starts[place], pieces

        try:
            found = in_threads(read, range(len(spans)), stop)
        except (*_UNREADABLE, *self._parsing_errors()):
            return None
        read_all, end = [], 0
        for place, own in enumerate(found):
            if own is None:
                return None
            count, pieces = own
            if end != starts[place]:  # where lines are empty
                table[end : end + count] = table[starts[place] : starts[place] + count]
            end += count
            read_all += pieces
        # The sign of -0 is kept among fractions alone, and so is told by where pieces begin, which
        # is not to depend on the processors.
        kinds = ({piece[name].dtype.kind for piece in read_all} for name in aside)
        are_mixed = (zeros & fractions).any() or any(of >= {"i", "f"} for of in kinds)
        if are_mixed and has_negative_zeros(self.path):
            return None
        return table[:end], read_all

    def _require_rows(self) -> None:
        """Raise ValueError for the first row whose cells are not as many as the columns."""
        for line, row in self._rows():
            if len(row) != len(self._names):
                raise ValueError(
                    f"{self.path}, line {line}: expected {len(self._names)} cells as in the "
                    f"header, got {len(row)}"
                )

    def _require_distinct(self, names: Sequence[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise ValueError(
                    f"{self.path}: expected distinct column names, got {brief(name)} twice: "
                    "rename one"
                )
            seen.add(name)

    def _has_header(self, first: list[str], wanted: set[str]) -> bool:
        if self.reading.header:
            return self.reading.header == "yes"
        if not any(map(_NUMBER.fullmatch, first)):
            return True
        given = [cell for cell in first if cell]
        if given == [str(place) for place in range(len(given))]:
            return True  # so pandas names columns
        if len(set(first)) < len(first) or not wanted or not wanted <= set(first):
            return False
        if wanted <= {str(place) for place in range(len(first))}:
            raise ValueError(
                f"{self.path}: expected a first row that is either names or data, got "
                f"{listed(first[:10])}, where {listed(sorted(wanted))} could be a name or the "
                "number of a column: say --data.header yes or no"
            )
        return True

    def _find_encoding(self) -> str:
        with self._opens(self.path, "rb") as file:
            try:
                start = file.read(4)
            except (OSError, EOFError) as error:
                raise ValueError(f"{self.path}: expected a whole table, got: {error}") from error
            for mark, encoding in (
                (codecs.BOM_UTF8, "utf-8-sig"),
                (codecs.BOM_UTF16_LE, "utf-16"),
                (codecs.BOM_UTF16_BE, "utf-16"),
            ):
                if start.startswith(mark):
                    return encoding
            if start[1::2] == b"\0\0" or start[::2] == b"\0\0":
                return "utf-16-le" if start[1::2] == b"\0\0" else "utf-16-be"
            decoder, is_utf8, chunk = codecs.getincrementaldecoder("utf-8")(), True, start
            while chunk:
                if b"\0" in chunk:
                    raise ValueError(f"{self.path}: expected a table in text, got binary data")
                if is_utf8 and not (chunk.isascii() and not decoder.getstate()[0]):
                    try:
                        decoder.decode(chunk)
                    except UnicodeDecodeError:
                        is_utf8 = False
                try:
                    chunk = file.read(_CHUNK)
                except (OSError, EOFError, zlib.error) as error:
                    raise ValueError(
                        f"{self.path}: expected a whole table, got: {error}"
                    ) from error
            if is_utf8:
                return "utf-8"
        warnings.warn(
            f"{self.path} is not UTF-8: it is read as Windows-1252 (Latin-1), unless you say "
            "another with --data.encoding",
            stacklevel=5,
        )
        return "cp1252"

    def _find_separator(self) -> str:
        if self.reading.separator:
            return self.reading.separator.replace("\\t", "\t")
        if TEXTS[suffix_of(self.path)]:
            return TEXTS[suffix_of(self.path)]
        lines = []
        with self._opens(self.path, "rt", encoding=self._encoding, newline="") as file:
            try:
                lines = [line for _, line in zip(range(50), file, strict=False) if line.strip()]
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.path}: {error}") from None
        # What is quoted separates nothing.
        plain = [re.sub(r'"[^"]*"', "", line) for line in lines[:20]]
        counts = {mark: [line.count(mark) for line in plain] for mark in SEPARATORS}
        agreed = {mark: min(c) for mark, c in counts.items() if c and min(c) == max(c)}
        # Where rows are of several lengths, the header decides.
        counted = agreed if any(agreed.values()) else {m: c[0] for m, c in counts.items() if c}
        return max(counted, key=lambda mark: counted[mark], default=",")

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells without the blanks around them) of every row that is not empty."""
        with self._opens(self.path, "rt", encoding=self._encoding, newline="") as file:
            csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
            reader = csv.reader(file, strict=True, delimiter=self._separator, skipinitialspace=True)
            try:
                for row in reader:
                    if row:
                        yield reader.line_num, [cell.strip() for cell in row]
            except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
                raise ValueError(f"{self.path}, after line {reader.line_num}: {error}") from error

    def _where(self, row: int, name: str) -> str:
        """File, line and column of a cell."""
        if not self.is_text:
            return f"{self.path}, row {row + 1 + self._before}, column {name!r}"
        return f"{self.path}, line {self._row(row)[0]}, column {name!r}"

    def _row(self, row: int) -> tuple[int, list[str]]:
        for place, found in enumerate(self._rows()):
            if place == row + self._header_rows + self._before:
                return found
        return 0, []

    def _bad_cell(self, name: str, error: BadCell) -> ValueError:
        if self.is_text:
            cell = self._row(error.row)[1][self._names.index(name)]
        else:
            cell = str(self._frame[name].iloc[error.row])
        got = repr(brief(cell)[1:-1]) if cell else "an empty cell"
        return ValueError(
            f"{self._where(error.row, name)}: expected {error.expected}, got {got}{error.hint}"
        )


def _is_infinite(numbers: np.ndarray) -> bool:
    """Whether some are, without another array of as many; NaN is passed over."""
    ends = [f.reduce(numbers, None, initial=0.0) for f in (np.fmin, np.fmax)]
    return bool(np.isinf(ends).any())
