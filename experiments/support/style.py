"""How every figure of the experiments looks, and how it is saved.

Figures are made without pyplot, so that no window system is needed and nothing is kept open:

    figure, axes = style.figure(columns=2)
    axes[0].plot(epochs, losses, label="sigmoid")
    style.save(figure, Path("losses.png"))

The colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart.
"""

from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from experiments.support.files import write_file

matplotlib.use("Agg")

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#8C8C8C"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""The order in which curves are coloured."""
SEQUENTIAL, DIVERGING = "cividis", "PuOr"
"""Colour maps: of amounts, and of values on both sides of zero (with symmetric limits)."""

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


def save(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write the figure to ``path``, all at once.

    Raises:
        FileExistsError: ``path`` exists, and ``overwrite`` is not set.
        OSError: the folder cannot be written.
    """
    return write_file(path, figure.savefig, overwrite=overwrite)
