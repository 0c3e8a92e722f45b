"""How every figure of the experiments looks, and how it is saved.

Figures are made without pyplot, so that no window system is needed and nothing is kept open:

    figure, axes = style.figure(columns=2)
    axes[0].plot(epochs, losses, label="sigmoid")
    style.save(figure, Path("losses.png"))

The colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart.
"""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib import font_manager
from matplotlib.figure import Figure

from jaxnn.core.files import require_free, write_file
from jaxnn.core.validation import printable

matplotlib.use("Agg")

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#8C8C8C"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""The order in which curves are coloured."""
SEQUENTIAL, DIVERGING = "cividis", "PuOr"
"""Colour maps: of amounts, and of values on both sides of zero (with symmetric limits)."""

WANTED = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Arabic")
WANTED = (*WANTED, "Noto Sans Hebrew", "Arial Unicode MS", "PingFang SC", "Microsoft YaHei")


def _fonts() -> list[str]:
    """Those of this machine that have the letters which the first one lacks."""
    fonts = font_manager.fontManager
    if not {*WANTED} & {font.name for font in fonts.ttflist}:
        # Matplotlib keeps its list from one start to the next: look for what was installed since.
        known = {font.fname for font in fonts.ttflist}
        for path in sorted({*font_manager.findSystemFonts()} - known):
            with contextlib.suppress(RuntimeError, OSError):  # not one that it can draw
                fonts.addfont(path)
    return sorted({*WANTED} & {font.name for font in fonts.ttflist})


FONTS = _fonts()

WIDTH = 8.0
"""The width of a figure in inches, a page's width; text is set for this size."""

matplotlib.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "figure.dpi": 150,
        "font.size": 9,
        "grid.alpha": 0.3,
        "image.cmap": SEQUENTIAL,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "savefig.facecolor": "white",
        "font.family": ["DejaVu Sans", *FONTS],
    }
)


def figure(rows: int = 1, columns: int = 1, *, height: float = 2.8, **options: Any) -> tuple:
    """A figure of page width and its axes: one `Axes`, or an array of them.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        height: The height of one row in inches.
        options: For `matplotlib.figure.Figure.subplots`, such as ``sharey=True``.
    """
    made = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    return made, made.subplots(rows, columns, **options)


def minus(number: str) -> str:
    """A printed number with minus signs in place of hyphens."""
    return number.replace("-", "−")


def shown(name: str, longest: int = 24) -> str:
    """A name of somebody's data in a picture, of a bounded length, its dollars no formula's."""
    name = " ".join(printable(name).split("\n"))
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return name.replace("$", r"\$")


def draw(path: Path, make: Callable[[], Figure | None], *, overwrite: bool = False) -> Path | None:
    """Make a picture and write it; None where there is none.

    What goes wrong with a picture is a warning: the numbers are there without it.

    Raises:
        FileExistsError: ``path`` exists, and ``overwrite`` is not set.
    """
    require_free(path, overwrite=overwrite)
    try:
        made = make()
        return None if made is None else save(made, path, overwrite=overwrite)
    except Exception as error:
        warnings.warn(
            f"{path} could not be drawn: {str(error) or type(error).__name__}", stacklevel=2
        )
        return None


def save(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write the figure to ``path``, all at once.

    Raises:
        FileExistsError: ``path`` exists, and ``overwrite`` is not set.
        OSError: the folder cannot be written.
    """
    with warnings.catch_warnings():
        # A letter that no font has is drawn as a box.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        return write_file(path, figure.savefig, overwrite=overwrite)
