"""A table in text, of which most are numbers, in little memory and by several threads."""

import itertools
from collections.abc import Collection, Iterator
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.tables.columns import is_text
from jaxnn.data.tables.delimited import Delimited, unreadable
from jaxnn.data.tables.numerals import LARGEST_EXACT
from jaxnn.data.tables.reading import is_compressed
from jaxnn.data.tables.spans import has_negative_zeros, spans_of
from jaxnn.data.threads import in_threads

_PROBED = 1 << 8
_ROWS = 1 << 14
"""How many are read at once."""


class Matrix(NamedTuple):
    """Columns of numbers in one array."""

    names: list[str]
    numbers: np.ndarray
    """float64 [rows, columns]."""


def read_numbers(
    text: Delimited, file: Any, as_text: Collection[str], aside: Collection[str]
) -> tuple[Any, Matrix] | None:
    """The table as pandas has it, and its numbers; no more than a few rows are there as text at a
    time.

    Args:
        text: The table.
        file: Its bytes, from their start on.
        as_text: Columns that are kept as they are written.
        aside: Columns that are numbers or, where these do not say all, read once more as written.

    Returns:
        None where a column but those is no numbers that float64 holds.
    """
    import pandas as pd

    options = text.options(as_text)
    others = [name for name in text.names if name in as_text or name in aside]
    names = [name for name in text.names if name not in others]
    start = pd.read_csv(file, nrows=_PROBED, **options).drop(columns=others)
    if not names or not {dtype.kind for dtype in start.dtypes} <= {"i", "f"}:
        return None
    found = _by_spans(text, options, others, len(names))
    if found is None:
        file.seek(0)
        found = _in_order(file, options, others)
    if found is None:
        return None
    table, pieces = found
    frame = pd.DataFrame(table, columns=names, copy=False)
    if others:
        frame[others] = pd.concat(pieces, ignore_index=True)
        # 007 is a 7 in a piece of numbers, and beside those with words the same class.
        texts = [name for name in others if is_text(frame[name])]
        mixed = [n for n in texts if not all(is_text(piece[n]) for piece in pieces)]
        if mixed:
            frame[mixed] = text.as_written(mixed)
    return frame, Matrix(names, table)


def _pieces(
    file: Any, options: dict[str, Any], others: list[str]
) -> Iterator[tuple[Any, np.ndarray | None, np.ndarray]]:
    """The other columns, the numbers, None where they are none, and which of these columns are
    whole."""
    import pandas as pd

    reader: Any = pd.read_csv(file, chunksize=_ROWS, **options)
    with reader:
        for piece in reader:
            numbers = piece.drop(columns=others)
            whole = numbers.select_dtypes("int64")
            fits = {dtype.kind for dtype in numbers.dtypes} <= {"i", "f"} and not (
                whole.size and whole.abs().to_numpy().max() > LARGEST_EXACT
            )
            are_whole = np.array([dtype.kind == "i" for dtype in numbers.dtypes])
            yield piece[others], numbers.to_numpy(np.float64) if fits else None, are_whole


def _in_order(
    file: Any, options: dict[str, Any], others: list[str]
) -> tuple[np.ndarray, list[Any]] | None:
    """The numbers and the other columns, from the first row to the last."""
    pieces, matrices = [], []
    for piece, numbers, _ in _pieces(file, options, others):
        if numbers is None:
            return None
        pieces.append(piece)
        matrices.append(np.ascontiguousarray(numbers))
    if not matrices:
        return None
    table = np.empty((sum(map(len, matrices)), matrices[0].shape[1]))
    end = len(table)
    while matrices:  # none is there twice
        own = matrices.pop()
        table[end - len(own) : end] = own
        end -= len(own)
    return table, pieces


def _by_spans(
    text: Delimited, options: dict[str, Any], others: list[str], columns: int
) -> tuple[np.ndarray, list[Any]] | None:
    """The same by as many threads as there are processors; None where the table is to be read from
    its start to its end, also to say what is wrong with it."""
    if is_compressed(text.path) or text.encoding not in ("utf-8", "utf-8-sig"):
        return None
    spans = spans_of(text.path, text.separator, len(text.names))
    if not spans:
        return None
    ends = itertools.accumulate((span.lines for span in spans), initial=-text.header_rows)
    starts = [max(end, 0) for end in ends]
    table = np.empty((starts[-1], columns))
    below = options | {"header": None, "encoding": "utf-8"}
    zeros, fractions = np.zeros(columns, bool), np.zeros(columns, bool)
    stop = Event()

    def read(place: int) -> tuple[int, list[Any]] | None:
        row, pieces = starts[place], []
        with spans[place].open() as file:
            for piece, numbers, are_whole in _pieces(file, below if place else options, others):
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
    except unreadable():
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
    # The sign of -0 is kept among fractions alone, and so is told by where pieces begin, which is
    # not to depend on the processors.
    kinds = ({piece[name].dtype.kind for piece in read_all} for name in others)
    are_mixed = (zeros & fractions).any() or any(of >= {"i", "f"} for of in kinds)
    if are_mixed and has_negative_zeros(text.path):
        return None
    return table[:end], read_all
