"""Reading .npz archives that strangers made: no code is run and no claim is believed."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import brief, unknown_name
from jaxnn.data.npy import read_array

# Deflate cannot compress further than this (258 bytes in two bits), so a member that claims more
# is lying about its size.
_LARGEST_RATIO = 1032

_END_OF_DIRECTORY = b"PK\5\6"
_LONGEST_COMMENT = 1 << 16
_MANY = 0xFFFF  # or more members, of which the end of the directory says no more


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
            raise ValueError(
                f"{path}: expected a whole .npz archive, got {brief(str(error))}"
            ) from error


def _read_members(
    path: Path,
    archive: zipfile.ZipFile,
    required: Sequence[str] | None,
    optional: Sequence[str],
    limit: int,
) -> dict[str, np.ndarray]:
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
    _require_all(path, archive, len(members))
    for member in members.values():  # a name that is not that of the member itself is refused here
        archive.open(member).close()
    for name in required or ():
        if name not in members:
            raise ValueError(f"{path}: {unknown_name('array', name, members)}")
    wanted = members if required is None else [*required, *optional]
    return {
        name: _read_member(path, archive, members[name], limit)
        for name in wanted
        if name in members
    }


def _require_all(path: Path, archive: zipfile.ZipFile, names: int) -> None:
    """Raise ValueError where members share a name, or a damaged directory hides some."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_COMMENT - 22))
        end = file.read().rpartition(_END_OF_DIRECTORY)[2]
    told, found = int.from_bytes(end[6:8], "little"), len(archive.infolist())
    if names < found or told not in (found, _MANY):
        raise ValueError(
            f"{path}: expected a whole .npz archive, got {names} names of {found} arrays, of which "
            f"there should be {told}"
        )


def _read_member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int
) -> np.ndarray:
    where = f"{path}, array {brief(member.filename.removesuffix('.npy'))}"
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
            return read_array(stream, member.file_size)
    except ValueError as error:
        raise ValueError(f"{where}: expected a plain array, got {error}") from error
