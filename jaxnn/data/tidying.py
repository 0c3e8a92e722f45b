"""What keeps the cache within its bound, and free of what killed processes have left.

An entry is a file, or a folder that is mapped for as long as a process lives; such a folder, and
what is being written, is locked by its process, and a lock goes with the process that holds it.
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where no folder is thrown away
    fcntl = None

VARIABLE = "JAXNN_CACHE_BYTES"
MOST_BYTES = 1 << 34
"""How much is kept unless $JAXNN_CACHE_BYTES says otherwise."""
_ENTRY = re.compile(r".*-[0-9a-f]{32}(\.npz)?")
_MAPPED = "train_*.npy"
"""What a folder has that is an entry."""
_PREFIX, _SUFFIX = ".jaxnn-", ".tmp"
_YOUNG = 60.0
"""Seconds within which what is hidden may be about to be locked."""
_held: dict[tuple[int, int], int] = {}


def most_bytes() -> int:
    """The bound; raises ValueError where the variable is no number of bytes."""
    text = os.environ.get(VARIABLE, "")
    try:
        found = float(text or MOST_BYTES)
        if found >= 0:
            return int(min(found, 2.0**62))
    except ValueError:
        pass
    raise ValueError(f"${VARIABLE}: expected a number of bytes, such as 20e9, got {text!r}")


def use(folder: Path) -> bool:
    """Keep a folder from being thrown away while this process lives; whether it is there."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    status = os.fstat(opened)
    place = status.st_dev, status.st_ino
    if fcntl is not None:
        with contextlib.suppress(OSError):  # of a file system without locks, where nobody does
            fcntl.flock(opened, fcntl.LOCK_SH)  # waits for one who throws it away
    if not folder.exists() or (folder.stat().st_dev, folder.stat().st_ino) != place:
        os.close(opened)
        return False
    if place in _held:
        os.close(opened)
    else:
        _held[place] = opened
    touch(folder)
    return True


def touch(entry: Path) -> None:
    """Note that an entry is used now."""
    with contextlib.suppress(OSError):
        os.utime(entry)


@contextlib.contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """A hidden folder in ``parent`` that is gone at the end, or if this process is killed when the
    next one is made there."""
    sweep(parent)
    path = Path(tempfile.mkdtemp(dir=parent, prefix=_PREFIX, suffix=_SUFFIX))
    try:
        with _alone(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def unfinished_file(parent: Path) -> Iterator[Path]:
    """The same of a file, which may be moved to another place."""
    descriptor, name = tempfile.mkstemp(dir=parent, prefix=_PREFIX, suffix=_SUFFIX)
    os.close(descriptor)
    try:
        with _alone(Path(name)):
            yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the one lock on a path; whether nobody else has one."""
    if fcntl is None:
        yield False
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is held, or the file system has no locks
            yield False
        else:
            yield True
    finally:
        os.close(opened)


def sweep(parent: Path) -> None:
    """Delete what `unfinished` had made there for processes that are no more."""
    for path in parent.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _YOUNG:
                _delete(path)


def _delete(path: Path) -> bool:
    """Delete a file or folder that nobody holds; whether it is gone."""
    with _alone(path) as is_free:
        if not is_free and (fcntl is not None or path.is_dir()):
            return False
        if path.is_dir():
            hidden = path
            if not path.name.startswith(_PREFIX):  # at once for who looks for it
                hidden = path.with_name(f"{_PREFIX}{path.name[-32:]}-{os.getpid()}{_SUFFIX}")
                path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            path.unlink()
    return True


def tidy(cache: Path, newest: Path) -> None:
    """Delete entries but the ``newest``, those used longest ago first, until the rest fits the
    bound."""
    sweep(cache)
    found = []
    for path in cache.iterdir():
        if not _ENTRY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            if path.is_symlink():
                if not path.exists():
                    path.unlink()
                continue
            if path.is_dir() and not any(path.glob(_MAPPED)):
                continue  # of someone else, such as the sounds of `jaxnn.data.speech`
            found.append((path.stat().st_mtime, path, _size(path)))
    left = sum(size for _, _, size in found)
    bound = most_bytes()
    for _, path, size in sorted(found):
        if left <= bound:
            return
        with contextlib.suppress(OSError):
            if path != newest and _delete(path):
                left -= size


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
