"""Writing result files: all at once, and never over another result unless told."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def require_free(*paths: Path, overwrite: bool = False) -> None:
    """Raise FileExistsError if one of the paths exists, and ``overwrite`` is not set."""
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"expected {path} not to exist: choose another name or overwrite it"
            )


def write_file(path: Path, write: Callable[[Path], object], *, overwrite: bool = False) -> Path:
    """Call ``write`` with a temporary path, then give that file its name: nobody sees half a file.

    Raises:
        FileExistsError: ``path`` exists, and ``overwrite`` is not set.
        OSError: the folder cannot be made or written; names ``path``.
    """
    require_free(path, overwrite=overwrite)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def sync(path: Path) -> None:
    """Wait until the file's content is on the disk, where the machine's end cannot undo it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Put the name of ``path`` on an OSError: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
