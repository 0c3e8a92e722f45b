"""What a theme of the gallery returns, and how a theme is run by itself."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from experiments.support.calling import command
from jaxnn.core.files import write_file

INSTALL = "pip install 'jaxnn[experiments]'"


class Table(NamedTuple):
    """A small table; a cell is a string, a number or an array."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[text(value) for value in row] for row in self.rows]

    def __str__(self) -> str:
        """The title, then one line for each row, columns aligned."""
        lines = [self.title]
        rows = [[cell.split("\n") for cell in row] for row in [[*self.columns], *self.cells()]]
        widths = [max(len(line) for row in rows for line in row[c]) for c in range(len(rows[0]))]
        for row in rows:
            for line in range(max(map(len, row))):
                parts = (cell[line] if line < len(cell) else "" for cell in row)
                padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
                lines.append("  ".join(["", *padded]).rstrip())
        return "\n".join(lines)


def text(value: Any) -> str:
    """A cell as text: a string as it is, a number to six digits, an array to eight decimals."""
    if isinstance(value, str):
        return value
    if np.ndim(value) > 0:
        return np.array2string(np.asarray(value), precision=8, separator=", ")
    value = np.asarray(value).item()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Picture(NamedTuple):
    """A figure made with `experiments.support.style`, saved as ``THEME-name.png``."""

    name: str
    caption: str
    """What is drawn, in one sentence: the text under the figure and for those who cannot see it."""
    figure: Any


class Result(NamedTuple):
    """All that a theme has to show."""

    explanation: str
    """Two or three sentences: what was done and what can be seen."""
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    left_out: Sequence[str] = ()
    """What could not be shown here and how to get it, such as a data set that is not on disk."""


def load(theme: str) -> ModuleType:
    """The module of a theme."""
    return importlib.import_module(f"experiments.gallery.{theme}")


def title_and_derivation(module: ModuleType) -> tuple[str, str]:
    """The first line of a theme's docstring without its full stop, and the rest of it."""
    title, _, derivation = (module.__doc__ or module.__name__).strip().partition("\n")
    return title.rstrip("."), derivation.strip("\n")


def existing_files(output: Path, themes: Sequence[str]) -> list[Path]:
    """The files in ``output`` that running these themes could replace."""
    return sorted(path for theme in themes for path in output.glob(f"{theme}-*.png"))


def save_pictures(theme: str, result: Result, output: Path, *, overwrite: bool) -> list[Path]:
    """Save every figure of a theme; the paths, in order."""
    return [
        write_file(
            output / f"{theme}-{picture.name}.png", picture.figure.savefig, overwrite=overwrite
        )
        for picture in result.pictures
    ]


def require_output(output: Path, existing: Sequence[Path], overwrite: bool) -> None:
    """Leave with a message unless ``output`` can be written and holds nothing to be replaced."""
    if existing and not overwrite:
        sys.exit(
            f"{output} already holds {existing[0].name}: choose another folder by --output, "
            "or pass --overwrite"
        )
    probe = output / ".writable"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        sys.exit(f"--output: expected a folder that can be written, got {output} ({error})")


def alone(theme: str) -> None:
    """The command line of one theme: print its tables and save its figures."""
    try:
        import tyro
    except ModuleNotFoundError as error:
        sys.exit(f"{theme} needs the package {error.name}: {INSTALL}")

    def main(output: Path = Path("runs/gallery"), overwrite: bool = False) -> None:
        """Run one theme of the gallery.

        Args:
            output: The folder for the figures.
            overwrite: Replace figures that an earlier run left there.
        """
        require_output(output, existing_files(output, [theme]), overwrite)
        result = load(theme).run()
        print(result.explanation, *result.tables, *result.left_out, sep="\n\n")
        for path in save_pictures(theme, result, output, overwrite=overwrite):
            print(f"saved {path}")

    tyro.cli(main, prog=command(f"gallery.{theme}"))
