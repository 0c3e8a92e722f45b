"""Writing result files: all at once, and never over another result unless told."""

import os
from collections.abc import Callable
from pathlib import Path


def write_file(path: Path, write: Callable[[Path], object], *, overwrite: bool = False) -> Path:
    """Call ``write`` with a temporary path, then give that file its name: nobody sees half a file.

    Raises:
        FileExistsError: ``path`` exists, and ``overwrite`` is not set.
        OSError: the folder cannot be made or written.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"expected {path} not to exist: choose another name or overwrite it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
