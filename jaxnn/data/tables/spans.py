"""Stretches of a text file that begin and end with a line, so that each can be read by itself."""

import itertools
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jaxnn.data.threads import in_threads, processors

SMALLEST = 1 << 24
"""Bytes of a span, below which it is not worth a thread."""
_BLOCK = 1 << 20
_NEGATIVE_ZERO = re.compile(rb"-0+([^0-9.]|\Z)")


class Span(NamedTuple):
    """Bytes of a file."""

    path: Path
    start: int
    end: int
    lines: int

    def open(self) -> "SpanFile":
        """A file that ends where this does."""
        return SpanFile(self)


class SpanFile:
    """The bytes of a span, as `pandas.read_csv` reads a file."""

    def __init__(self, span: Span):
        self._file, self._left = span.path.open("rb"), span.end - span.start
        self._file.seek(span.start)

    def __enter__(self) -> "SpanFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> "SpanFile":
        return self

    def __next__(self) -> bytes:
        raise StopIteration  # only read() is made use of

    def read(self, count: int = -1) -> bytes:
        """At most so many of the bytes that are left."""
        data = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        return data


def spans_of(path: Path, separator: str, cells: int) -> list[Span]:
    """The file as a span for each processor; none where one line need not be one row.

    That is so where it has quotes, where a line ends otherwise than with a line feed, or where the
    first line of a span is not of so many cells, by which a parser would judge those that follow.
    """
    size = path.stat().st_size
    count = min(processors(), size // SMALLEST)
    if count < 2:
        return []
    with path.open("rb") as file:
        borders = [
            0,
            *(_line_after(file, size * place // count) for place in range(1, count)),
            size,
        ]
        if borders != sorted({*borders}):
            return []
        for border in borders[1:-1]:
            file.seek(border)
            if file.readline(_BLOCK).count(separator.encode()) != cells - 1:
                return []
    spans = in_threads(lambda pair: _counted(path, *pair), itertools.pairwise(borders))
    return [] if None in spans else [span for span in spans if span is not None]


def has_negative_zeros(path: Path) -> bool:
    """Whether a cell may be a whole -0."""
    before = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if _NEGATIVE_ZERO.search(before + block):
                return True
            before = block[-1:]
    return False


def _line_after(file: BinaryIO, place: int) -> int:
    """Where the next line begins; −1 where this one is too long to be read to its end."""
    file.seek(place)
    return place + len(line) if (line := file.readline(_BLOCK)).endswith(b"\n") else -1


def _counted(path: Path, start: int, end: int) -> Span | None:
    lines, before = 0, b""
    with Span(path, start, end, 0).open() as file:
        while block := file.read(_BLOCK):
            if b'"' in block:
                return None
            if b"\r" in before + block:
                whole = block.count(b"\r\n") + (before == b"\r" and block.startswith(b"\n"))
                if block[:-1].count(b"\r") + (before == b"\r") != whole:
                    return None
            lines += block.count(b"\n")
            before = block[-1:]
    return Span(path, start, end, lines + (before not in (b"", b"\n")))
