"""What the text of a table shows: its encoding, its separator, whether it has a header."""

import codecs
import gzip
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxnn.core.validation import listed
from jaxnn.data.tables.errors import not_whole
from jaxnn.data.tables.numerals import NUMBER
from jaxnn.data.tables.reading import TEXTS, Reading, is_compressed, suffix_of

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 1 << 20


def opened(path: Path, encoding: str = "") -> Any:
    """The file, not compressed: its bytes, or its text in an encoding."""
    opens = gzip.open if is_compressed(path) else open
    return opens(path, "rt", encoding=encoding, newline="") if encoding else opens(path, "rb")


def find_encoding(path: Path) -> str:
    """That of a byte-order mark, UTF-8 where the bytes are such, or else Windows-1252, of which it
    is warned; raises ValueError for what is no text."""
    with opened(path) as file:
        try:
            found = _encoding_of(path, file)
        except (OSError, EOFError, zlib.error) as error:
            raise not_whole(path, error) from error
    if not found:
        warnings.warn(
            f"{path} is not UTF-8: it is read as Windows-1252 (Latin-1), unless you say another "
            "with --data.encoding",
            stacklevel=6,
        )
    return found or "cp1252"


def _encoding_of(path: Path, file: Any) -> str:
    """ "" where it is none of Unicode."""
    start = file.read(4)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if start[1::2] == b"\0\0" or start[::2] == b"\0\0":
        return "utf-16-le" if start[1::2] == b"\0\0" else "utf-16-be"
    decoder, is_utf8, chunk = codecs.getincrementaldecoder("utf-8")(), True, start
    while chunk:
        if b"\0" in chunk:
            raise ValueError(f"{path}: expected a table in text, got binary data")
        if is_utf8 and not (chunk.isascii() and not decoder.getstate()[0]):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                is_utf8 = False
        chunk = file.read(_CHUNK)
    return "utf-8" if is_utf8 else ""


def find_separator(path: Path, said: str, encoding: str) -> str:
    """What is said, what the suffix says, or the mark that the first lines have most of."""
    if said:
        return said.replace("\\t", "\t")
    if TEXTS[suffix_of(path)]:
        return TEXTS[suffix_of(path)]
    with opened(path, encoding) as file:
        try:
            lines = [line for _, line in zip(range(50), file, strict=False) if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {error}") from None
    # What is quoted separates nothing.
    plain = [re.sub(r'"[^"]*"', "", line) for line in lines[:20]]
    counts = {mark: [line.count(mark) for line in plain] for mark in SEPARATORS}
    agreed = {mark: min(c) for mark, c in counts.items() if c and min(c) == max(c)}
    # Where rows are of several lengths, the header decides.
    counted = agreed if any(agreed.values()) else {m: c[0] for m, c in counts.items() if c}
    return max(counted, key=lambda mark: counted[mark], default=",")


def has_header(path: Path, reading: Reading, first: Sequence[str], wanted: set[str]) -> bool:
    """Whether the first row is of names, among which those of the wanted columns would be."""
    if reading.header:
        return reading.header == "yes"
    if not any(re.fullmatch(NUMBER, cell) for cell in first):
        return True
    given = [cell for cell in first if cell]
    if given == [str(place) for place in range(len(given))]:
        return True  # so pandas names columns
    if len(set(first)) < len(first) or not wanted or not wanted <= set(first):
        return False
    if wanted <= {str(place) for place in range(len(first))}:
        raise ValueError(
            f"{path}: expected a first row that is either names or data, got "
            f"{listed(first[:10])}, where {listed(sorted(wanted))} could be a name or the number "
            "of a column: say --data.header yes or no"
        )
    return True
