"""Decoded data sets on disk, so that the second load does not decode again."""

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.npz import read_npz
from jaxnn.data.optional import require_library
from jaxnn.data.tidying import most_bytes, sweep, tidy, touch, unfinished_file

Arrays = dict[str, np.ndarray]

_CONTENTS = "contents"
"""The array of an entry that has the names of the others."""


def cached(
    path: Path, decode: Callable[[], Arrays], *facts: object, largest: int | None = None
) -> Arrays:
    """What ``decode()`` returns for the file ``path``, from the cache if it is there.

    An entry belongs to the file's path, size and time of modification and to ``facts`` (the
    decoder's version, its options). It is a plain .npz in the folder $JAXNN_CACHE, or else the
    platform's cache folder, and goes when others, used later, fill $JAXNN_CACHE_BYTES (16 GiB); a
    damaged entry is decoded anew, and a folder that cannot be written is warned of once. Arrays of
    more than ``largest`` bytes are not kept.
    """
    most_bytes()  # refuses what is no number
    entry = _entry(path, facts)
    try:
        arrays = read_npz(entry)
        names = arrays.pop(_CONTENTS).tolist()
        if names == sorted(arrays):
            touch(entry)
            return arrays
    except (OSError, ValueError, KeyError):  # not there, or damaged
        pass
    with unchanged(path):
        arrays = decode()
    if largest is not None and max(array.nbytes for array in arrays.values()) > largest:
        return arrays
    if (background := _background.get()) is None:
        _warn_unwritable(entry.parent, _keep(entry, arrays))
    else:
        thread, kept = background
        kept.append((entry.parent, thread.submit(_keep, entry, arrays)))
    return arrays


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise ValueError at the end unless the file is still what it was; a folder may be filled."""

    def identity() -> tuple[int, ...]:
        status = path.stat()
        return () if path.is_dir() else (status.st_size, status.st_mtime_ns)

    before = identity()
    try:
        yield
    except ValueError as error:
        if identity() == before:
            raise
        raise _changed(path) from error
    if identity() != before:
        raise _changed(path)


def _changed(path: Path) -> ValueError:
    return ValueError(
        f"{path}: expected a file that stays as it is while it is read, and it has changed: start "
        "again once it is written"
    )


_background: ContextVar[Any] = ContextVar("background", default=None)


@contextlib.contextmanager
def in_background() -> Iterator[ThreadPoolExecutor]:
    """Within, entries are written by this thread, while other work goes on; at the end they are
    there."""
    kept: list[tuple[Path, Future[str]]] = []
    with ThreadPoolExecutor(1) as thread:
        token = _background.set((thread, kept))
        try:
            yield thread
        finally:
            _background.reset(token)
    for folder, reason in kept:  # here, where nothing else sets what is warned of
        _warn_unwritable(folder, reason.result())


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


def _keep(entry: Path, arrays: Arrays) -> str:
    """Write an entry; why it cannot be, if so."""
    try:
        _write(entry, arrays)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _write(entry: Path, arrays: Arrays) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    sweep(entry.parent)
    with unfinished_file(entry.parent) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays, **{_CONTENTS: sorted(arrays)})  # pyright: ignore[reportArgumentType]
        os.replace(temporary, entry)
    tidy(entry.parent, entry)


@functools.cache
def _warn_unwritable(folder: Path, reason: str) -> None:
    if reason:
        warnings.warn(f"decoded data sets are not cached in {folder}: {reason}", stacklevel=3)
