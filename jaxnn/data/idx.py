"""The IDX format of MNIST: a header that gives dtype and shape, then the numbers, big-endian.

byte 0, 1   zero
byte 2      dtype code
byte 3      number of axes d
4 d bytes   the length of each axis, unsigned 32-bit
the rest    the numbers in row-major order
"""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxnn.data.npy import read_at_most

VERSION = 1  # changes when the same file would be decoded to something else

DTYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(
    path: str | Path,
    *,
    rank: int | None = None,
    dtype: str | None = None,
    limit: int = 1 << 32,
) -> np.ndarray:
    """The array in an IDX file, gzip-compressed or not, in the machine's byte order.

    Memory grows with what the file really holds, never with what its header claims.

    Args:
        path: The file.
        rank: The number of axes that it must have, if given.
        dtype: The numpy dtype that it must have, if given, such as "uint8".
        limit: The largest content in bytes that is read.

    Raises:
        ValueError: the file is not IDX, has another rank or dtype, is truncated, has trailing
            bytes or claims more than ``limit``.
        OSError: it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if not compressed:
            return _decode(path, file, rank, dtype, limit)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _decode(path, stream, rank, dtype, limit)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got {error}") from error


def _decode(
    path: Path, stream: io.BufferedIOBase, rank: int | None, dtype: str | None, limit: int
) -> np.ndarray:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in DTYPES or not 1 <= start[3] <= 32:
        _refuse(path, "the magic number of an IDX file with 1 to 32 axes", start or "an empty file")
    file_dtype, file_rank = DTYPES[start[2]], start[3]
    if rank is not None and file_rank != rank:
        _refuse(path, f"{rank} axes", f"{file_rank}; is this the file of another array?")
    if dtype is not None and file_dtype.newbyteorder("=") != np.dtype(dtype):
        _refuse(path, dtype, file_dtype.newbyteorder("=").name)

    lengths = stream.read(4 * file_rank)
    if len(lengths) < 4 * file_rank:
        _refuse(path, f"{4 * file_rank} bytes of axis lengths", f"{len(lengths)}: truncated")
    shape = tuple(np.frombuffer(lengths, ">u4").tolist())
    claimed = math.prod(shape) * file_dtype.itemsize
    if claimed > limit:
        _refuse(path, f"at most {limit} bytes", f"a claim of {claimed} for shape {shape}")
    content = read_at_most(stream, claimed + 1)
    if len(content) != claimed:
        given = f"{len(content)}: truncated" if len(content) < claimed else "trailing bytes"
        _refuse(path, f"{claimed} bytes for shape {shape}", given)
    numbers = np.frombuffer(content, file_dtype).reshape(shape)
    return numbers.astype(file_dtype.newbyteorder("="), copy=False)


def _refuse(path: Path, expected: str, given: object) -> NoReturn:
    raise ValueError(f"{path}: expected {expected}, got {given}")
