"""What is wrong with the file of a table as a whole."""

from collections.abc import Sequence
from pathlib import Path

from jaxnn.core.validation import brief


def not_whole(path: Path, error: Exception) -> ValueError:
    """Of a file that cannot be read to its end."""
    return ValueError(f"{path}: expected a whole table, got: {error}")


def without_rows(path: Path) -> ValueError:
    """Of a table of a header alone."""
    return ValueError(f"{path}: expected rows below the header, got none")


def require_distinct(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError where two columns have the same name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"{path}: expected distinct column names, got {brief(name)} twice: rename one"
            )
        seen.add(name)
