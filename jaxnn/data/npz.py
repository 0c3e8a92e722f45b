"""Reading .npz archives that strangers made: no code is run and no claim is believed."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import unknown_name

# Deflate cannot compress further than this (258 bytes in two bits), so a member that claims more
# is lying about its size.
_LARGEST_RATIO = 1032


def read_npz(
    path: str | Path,
    required: Sequence[str] | None = None,
    optional: Sequence[str] = (),
    *,
    limit: int = 1 << 32,
) -> dict[str, np.ndarray]:
    """Arrays of an .npz archive by name.

    Args:
        path: The archive.
        required: The arrays it must hold; None for all that it holds.
        optional: Arrays that are read if they are there.
        limit: The largest array in bytes that is read.

    Raises:
        ValueError: the file is not a whole archive; an array is missing, would need pickle, is
            larger than ``limit``, or claims a size that its member does not have.
        OSError: it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_members(path, archive, required, optional, limit)
        # OSError: a damaged directory can send the reader to a negative offset.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            raise ValueError(f"{path}: expected a whole .npz archive, got: {error}") from error


def _read_members(
    path: Path,
    archive: zipfile.ZipFile,
    required: Sequence[str] | None,
    optional: Sequence[str],
    limit: int,
) -> dict[str, np.ndarray]:
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
    for name in required or ():
        if name not in members:
            raise ValueError(f"{path}: {unknown_name('array', name, members)}")
    wanted = members if required is None else [*required, *optional]
    return {
        name: _read_member(path, archive, members[name], limit)
        for name in wanted
        if name in members
    }


def _read_member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int
) -> np.ndarray:
    where = f"{path}, array {member.filename.removesuffix('.npy')!r}"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where}: expected a stored or deflated member")
    size = path.stat().st_size
    if member.compress_size > size or member.file_size > _LARGEST_RATIO * member.compress_size:
        raise ValueError(
            f"{where}: expected at most the {size} bytes of the file, compressed, "
            f"got a claim of {member.compress_size} for {member.file_size} bytes"
        )
    if member.file_size > limit:
        raise ValueError(f"{where}: expected at most {limit} bytes, got {member.file_size}")
    try:
        with archive.open(member) as stream:
            shape, dtype, header_size = _read_header(stream)
            if dtype.hasobject:
                raise ValueError("objects, which only pickle could read")
            claimed = header_size + math.prod(shape) * dtype.itemsize
            if claimed != member.file_size or any(length < 0 for length in shape):
                raise ValueError(
                    f"shape {shape} of {dtype}, {claimed} bytes, in {member.file_size} bytes"
                )
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: expected a plain array, got {error}") from error


def _read_header(stream) -> tuple[tuple[int, ...], np.dtype, int]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"format version {version}")
    shape, _, dtype = readers[version](stream)
    return shape, dtype, stream.tell()
