"""Decoded data sets on disk, so that the second load does not decode again."""

import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnn.data.npz import read_npz
from jaxnn.data.optional import require_library

Arrays = dict[str, np.ndarray]

_CONTENTS = "contents"
"""The array of an entry that has the names of the others."""


def cached(
    path: Path, decode: Callable[[], Arrays], *facts: object, largest: int | None = None
) -> Arrays:
    """What ``decode()`` returns for the file ``path``, from the cache if it is there.

    An entry belongs to the file's path, size and time of modification and to ``facts`` (the
    decoder's version, its options). It is a plain .npz in the folder $JAXNN_CACHE, or else the
    platform's cache folder; a damaged entry is decoded anew, and a folder that cannot be written
    is warned of once. Arrays of more than ``largest`` bytes are not kept.
    """
    entry = _entry(path, facts)
    try:
        arrays = read_npz(entry)
        names = arrays.pop(_CONTENTS).tolist()
        if names == sorted(arrays):
            return arrays
    except (OSError, ValueError, KeyError):  # not there, or damaged
        pass
    arrays = decode()
    if largest is not None and max(array.nbytes for array in arrays.values()) > largest:
        return arrays
    try:
        _write(entry, arrays)
    except OSError as error:
        _warn_unwritable(entry.parent, error.strerror)
    return arrays


def cache_folder() -> Path:
    """$JAXNN_CACHE, or else the platform's cache folder."""
    chosen = os.environ.get("JAXNN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(require_library("pooch", "the cache folder of data sets").os_cache("jaxnn"))


def identity_of(path: Path, facts: tuple) -> str:
    """The name of an entry: by the file's path, size and time of modification, and facts."""
    status = path.stat()
    identity = repr((str(path.resolve()), status.st_size, status.st_mtime_ns, facts))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return f"{path.name}-{digest}"


def _entry(path: Path, facts: tuple) -> Path:
    return cache_folder() / f"{identity_of(path, facts)}.npz"


def _write(entry: Path, arrays: Arrays) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=entry.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays, **{_CONTENTS: sorted(arrays)})  # pyright: ignore[reportArgumentType]
        os.replace(temporary, entry)
    except BaseException:
        os.unlink(temporary)
        raise


@functools.cache
def _warn_unwritable(folder: Path, reason: str | None) -> None:
    warnings.warn(f"decoded data sets are not cached in {folder}: {reason}", stacklevel=2)
