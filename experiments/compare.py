"""Compare training runs: a table of their metrics and settings, and their curves.

python -m experiments.compare runs/digits_mlp runs/digits_mlp-2 --output comparison
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.config import flat, to_table
from experiments.support.runs import open_run
from jaxnn.core.files import require_free, write_file

RISING = ("accuracy", "r2")
"""The metrics whose best value is the largest."""


@dataclass(frozen=True)
class Options:
    """Compare training runs: a table of their metrics and settings, and their curves."""

    output: Path
    """The folder for comparison.csv and comparison.png; made if it does not exist."""
    overwrite: bool = False
    """Replace them where they exist."""


class Compared(NamedTuple):
    """One run."""

    name: str
    settings: dict[str, Any]
    """The configuration, with names such as data.seed."""
    epochs: list[dict[str, Any]]
    test: dict[str, float]


def main(arguments: list[str]) -> None:
    """Print the table; write it and the picture."""
    count = next((i for i, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    folders = [Path(folder) for folder in arguments[:count]]
    options = parse_options(Options, "compare RUN RUN …", arguments[count:])
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(
            f"compare: expected two or more different run folders before the options, "
            f"got {' '.join(map(str, folders)) or 'none'}"
        )
    table, picture = (options.output / f"comparison.{end}" for end in ("csv", "png"))
    require_free(table, picture, overwrite=options.overwrite)
    runs = [read(folder) for folder in folders]
    rows = tabulate(runs)
    print("\n".join(aligned(rows)))
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    text = written.getvalue()
    write_file(table, lambda p: p.write_text(text, encoding="utf-8"), overwrite=options.overwrite)
    style.save(draw(runs), picture, overwrite=options.overwrite)
    print(f"\n{table}\n{picture}")


def read(folder: Path) -> Compared:
    """A run's configuration and metrics.

    Raises:
        FileNotFoundError: It is no run folder.
        ValueError: It has no epoch, or its metrics cannot be read.
    """
    run = open_run(folder)
    epochs = run.epochs()
    if not epochs:
        raise ValueError(f"compare: expected {folder} to have metrics of an epoch, found none")
    settings = dict(flat(to_table(run.read_config())))
    return Compared(str(folder), settings, epochs, run.test())


def tabulate(runs: list[Compared]) -> list[list[str]]:
    """A head and a row for each run: epochs, metrics, and the settings that differ.

    A metric of the epochs has the columns ``last`` and ``best``, which is the smallest value, or
    the largest of an accuracy or R², and the epoch that had it.
    """
    names = _union(_curves(run) for run in runs)
    tests = _union(run.test for run in runs)
    settings = [
        name
        for name in _union(run.settings for run in runs)
        if any(run.settings.get(name) != runs[0].settings.get(name) for run in runs)
    ]
    columns = [column for name in names for column in (f"last {name}", f"best {name}", "in epoch")]
    rows = [["run", "trained epochs", *columns, *(f"test {name}" for name in tests), *settings]]
    for run in runs:
        cells = [run.name, str(len(run.epochs))]
        for name in names:
            cells += _last_and_best(name, [epoch.get(name, math.nan) for epoch in run.epochs])
        cells += [_number(run.test.get(name, math.nan)) for name in tests]
        cells += [_setting(run.settings.get(name)) for name in settings]
        rows.append(cells)
    return rows


def _curves(run: Compared) -> list[str]:
    """The metrics that an epoch has as one number, the time aside."""
    last = run.epochs[-1].items()
    return [name for name, v in last if isinstance(v, float) and name != "seconds"]


def _union(parts: Any) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _last_and_best(name: str, values: list[float]) -> list[str]:
    if all(math.isnan(value) for value in values):
        return ["", "", ""]
    best = int((np.nanargmax if name.endswith(RISING) else np.nanargmin)(values))
    return [_number(values[-1]), _number(values[best]), str(best + 1)]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _setting(value: Any) -> str:
    return "" if value is None else " ".join(value) if isinstance(value, tuple) else str(value)


def aligned(rows: list[list[str]]) -> list[str]:
    """The table turned, for people: a line for each column, a column for each run."""
    turned = [list(line) for line in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*turned, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in turned
    ]


def draw(runs: list[Compared]) -> Figure:
    """A plot for each metric of the epochs, with a curve for each run."""
    names = _union(_curves(run) for run in runs)
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    figure, axes = style.figure(rows, columns, squeeze=False)
    handles = []
    for name, place in zip(names, axes.flat, strict=False):
        lacking = [run.name for run in runs if name not in _curves(run)]
        if lacking:
            text = "not measured by " + ", ".join(style.shown(run, 30) for run in lacking)
            where = {"transform": place.transAxes, "ha": "center", "va": "top"}
            place.text(0.5, 0.98, text, fontsize=7, **where)
        for run in runs:
            numbers = [epoch["epoch"] for epoch in run.epochs]
            values = [epoch.get(name, math.nan) for epoch in run.epochs]
            marker = "o" if len(numbers) == 1 else None
            (line,) = place.plot(numbers, values, marker=marker, label=run.name)
            handles += [line] if name == names[0] else []
        is_loss = name.endswith("loss")
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set(
            xlabel="epoch", title=name.replace("_", " "), yscale="log" if is_loss else "linear"
        )
    for place in axes.flat[len(names) :]:
        place.axis("off")
        place.legend(handles=handles, loc="center")
    if len(names) == axes.size:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    run_script(main)
