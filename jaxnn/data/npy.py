"""The .npy format, read from strangers: its header is matched, never evaluated, and not believed.

6 bytes     \\x93NUMPY
2 bytes     version: 1.0, or 2.0 for a header of more than 64 KB
2, 4 bytes  the length of the header, little-endian
header      {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } and blanks
the rest    the numbers, in row-major or column-major (Fortran) order
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import LARGEST_RANK, brief

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4}  # by version
_LONGEST_HEADER = 10_000
_AXIS = re.compile("[0-9]{1,18}")
_CHUNK = 1 << 20
_LAST_CHARACTER = 0x10FFFF

_ENTRIES = {
    "descr": r"'(?P<descr>[<>|=][biufcSUO][0-9]{0,9})'",
    "fortran_order": r"(?P<fortran_order>True|False)",
    "shape": r"\((?P<shape>[0-9L, ]*)\)",
}
_ENTRY = "|".join(rf"'{name}'\s*:\s*{value}" for name, value in _ENTRIES.items())
_HEADER = re.compile(rf"\{{\s*(?:(?:{_ENTRY})\s*(?:,\s*|(?=\}}))){{3}}\}}\s*")


class Header(NamedTuple):
    """What the numbers of an array are said to be."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Any
    """C for row-major, F for column-major."""
    offset: int
    """Where the numbers begin."""

    @property
    def size(self) -> int:
        """The bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: Any) -> Header:
    """The header of the array that begins where the stream stands; its claims are not checked.

    Raises:
        ValueError: it is none, or not of a plain array of numbers, booleans or text.
    """
    start = stream.read(len(_MAGIC) + 2)
    magic, version = start[: len(_MAGIC)], start[len(_MAGIC) :]
    if magic != _MAGIC or version not in _LENGTH_BYTES:
        raise ValueError(f"{start!r} in place of the magic string of .npy, version 1.0 or 2.0")
    width = _LENGTH_BYTES[version]
    length = int.from_bytes(stream.read(width), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    text = stream.read(length)
    match = _HEADER.fullmatch(text.decode("latin1")) if len(text) == length else None
    if match is None or None in match.groups():
        raise ValueError(f"the header {brief(text)}")
    axes = [axis.strip().removesuffix("L") for axis in match["shape"].removesuffix(",").split(",")]
    axes = axes if axes != [""] else []
    if len(axes) > LARGEST_RANK or not all(map(_AXIS.fullmatch, axes)):
        raise ValueError(f"shape {brief(match['shape'])}")
    shape = tuple(map(int, axes))
    if match["descr"][1] == "O":
        raise ValueError("objects, which only pickle could read")
    try:
        dtype = np.dtype(match["descr"])
    except (TypeError, ValueError):
        raise ValueError(f"dtype {match['descr']}") from None
    if dtype.itemsize == 0:
        raise ValueError(f"shape {shape} of {match['descr']}, which has no bytes")
    order = "F" if match["fortran_order"] == "True" else "C"
    return Header(shape, dtype, order, len(start) + width + length)


def read_array(stream: Any, size: int) -> np.ndarray:
    """The array that is all of a stream, of which ``size`` is said to be the length in bytes.

    Memory grows with what the stream really holds.

    Raises:
        ValueError: it is no plain array, or not of that length; its text is no Unicode.
    """
    header = _require_size(read_header(stream), size)
    content = read_at_most(stream, header.size + 1)
    if len(content) != header.size:
        raise ValueError(f"{len(content)} bytes where {header.size} were said to be")
    array = np.ndarray(header.shape, header.dtype, content, order=header.order)
    _require_content(array, content)
    return array


def map_array(path: Path) -> Any:
    """The array in a .npy file, mapped: its numbers are read where they are used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plain array of the file's length.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none")
    try:
        with path.open("rb") as file:
            header = _require_size(read_header(file), path.stat().st_size)
        if header.size == 0:  # cannot be mapped
            return np.zeros(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, header.order)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected a whole .npy array, got {error}") from error


def read_strings(where: str, name: str, array: np.ndarray) -> tuple[str, ...]:
    """The strings in an array of shape [names].

    Raises:
        ValueError: it is not of strings, or not of that rank, or they are no Unicode.
    """
    if array.dtype.kind != "U" or array.ndim != 1:
        raise ValueError(
            f"{where}: expected {name} to be strings of shape [names], "
            f"got {array.dtype} of shape {array.shape}"
        )
    try:
        _require_content(array, array.tobytes())
    except ValueError as error:
        raise ValueError(f"{where}: expected {name} to be strings, got {error}") from None
    return tuple(map(str, array))


def read_at_most(stream: Any, size: int) -> bytearray:
    """The next bytes of a stream, ``size`` or as many as there are.

    In chunks: a single ``read(size)`` takes the memory before it looks at the file.
    """
    content = bytearray()
    while len(content) < size:
        chunk = stream.read(min(_CHUNK, size - len(content)))
        if not chunk:
            break
        content += chunk
    return content


def _require_size(header: Header, size: int) -> Header:
    if header.offset + header.size != size:
        raise ValueError(
            f"shape {brief(header.shape)} of {header.dtype}, {header.offset + header.size} bytes "
            f"with the header, in {size} bytes"
        )
    return header


def _require_content(array: np.ndarray, content: bytes | bytearray) -> None:
    """Raise ValueError where bytes are no value of their dtype, which NumPy takes on trust."""
    if array.dtype.kind == "U":
        codes = np.frombuffer(content, array.dtype.str[0].replace("|", "=") + "u4")
        if ((codes > _LAST_CHARACTER) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise ValueError("text that is no Unicode")
    elif array.dtype.kind == "b" and (np.frombuffer(content, np.uint8) > 1).any():
        raise ValueError("booleans that are neither 0 nor 1")
