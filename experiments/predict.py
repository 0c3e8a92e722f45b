"""Predict with a trained network for examples in a file; prints a table, or writes a .csv.

python -m experiments.predict runs/wine_mlp my_wines.csv
python -m experiments.predict runs/digits_mlp images.npz --output predictions.csv
python -m experiments.predict runs/pets photographs            # a folder of images, or one of them
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.support.command_line import parse_options, run_script, take_folder
from experiments.support.config import Config, ReadingConfig, task_on
from experiments.support.runs import open_trained
from jaxnn.core.files import write_file
from jaxnn.core.task import Task
from jaxnn.core.validation import printable
from jaxnn.data import Preparation
from jaxnn.data.files import inputs_like
from jaxnn.data.images import find_images
from jaxnn.training import make_predict


@dataclass(frozen=True)
class Options:
    """Predict for examples in a file."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .csv with the features' columns, or an .npz with an array x; of a network for images an
    image, a folder of them, or a table of their paths."""
    inputs: tuple[str, ...] | None = None
    """The array of x in an .npz, the columns of a table, or that of paths of images, where they are
    called otherwise than in the training data."""
    output: Path | None = None
    """A .csv file to write; must not exist."""
    weights: Literal["best", "last"] = "best"
    """Those of the best epoch in validation, if there was any, or of the last epoch."""
    allow_changes: bool = False
    """Warn, in place of refusing, where the configuration of the run has changed."""
    data: ReadingConfig = field(default_factory=ReadingConfig)
    """How the file is read, if it is a table."""


def main(arguments: list[str]) -> None:
    """One row for each example: the class and every class's probability, or the number."""
    folder, arguments = take_folder(arguments, "predict")
    options = parse_options(Options, "predict RUN", arguments)
    trained, _ = open_trained(folder, allow_changes=options.allow_changes, weights=options.weights)
    config, preparation, train_state = trained.config, trained.preparation, trained.train_state
    inputs = options.inputs or trained.inputs
    reading, path = config.data.reading(options.data), options.file.expanduser()
    x = inputs_like(preparation, path, inputs, reading)
    x = jax.tree.map(jnp.asarray, preparation.inputs(str(options.file), x))
    prediction = make_predict(config.layers)(train_state.params, train_state.state, x)
    head, rows = _table(config, preparation, prediction)
    if preparation.images is not None:
        files = find_images(path, inputs[0] if inputs else None, reading).names
        head, rows = ["file", *head], [[file, *row] for file, row in zip(files, rows, strict=True)]

    def write(stream: TextIO, shown: Callable[[str], str] = str):
        csv.writer(stream).writerows([shown(cell) for cell in row] for row in (head, *rows))

    if options.output is None:
        write(sys.stdout, printable)
        return

    def write_path(path: Path):
        with path.open("w", newline="", encoding="utf-8") as stream:
            write(stream)

    print(f"{len(rows)} predictions in {write_file(options.output, write_path)}")


def _table(
    config: Config, preparation: Preparation, prediction: Any
) -> tuple[list[str], list[list[str]]]:
    names = preparation.class_names
    task = task_on(config.loss_function, preparation)
    outputs = preparation.target_names or _outputs(config, prediction.shape[1])
    if task.decide is None:
        numbers = preparation.target_standardization.invert(np.asarray(task.numbers(prediction)))
        head = list(outputs)
        return head, [[_digits(value) for value in row] for row in numbers]
    if not names:  # labels, of which each example has any number
        kind, columns = _columns(task, prediction)
        decided = np.asarray(task.decide(prediction))
        pairs = (
            [str(d), f"{v:.4f}"] for d, v in zip(decided.ravel(), columns.ravel(), strict=True)
        )
        cells = np.array([cell for pair in pairs for cell in pair], object)
        head = [title for name in outputs for title in (name, f"{kind} of {name}")]
        return head, cells.reshape(len(decided), -1).tolist()
    kind, columns = _columns(task, prediction)
    heads = names if columns.shape[1] == len(names) else names[1:]
    rows = [
        [names[label], *(f"{value:.4f}" for value in row)]
        for label, row in zip(np.asarray(task.decide(prediction)), columns, strict=True)
    ]
    return ["class", *(f"{kind} of {name}" for name in heads)], rows


def _digits(value: float) -> str:
    """What float32 could tell apart, were the scale its own: 9 digits, without trailing zeros."""
    return f"{value:.9g}"


def _outputs(config: Config, count: int) -> list[str]:
    name = config.data.target[0] if config.data.target else "target"
    return [f"{name} {i}" if count > 1 else name for i in range(count)]


def _columns(task: Task, prediction: Any) -> tuple[str, np.ndarray]:
    """What the network's outputs say about the classes: probabilities, or else scores."""
    if task.probabilities is None:
        return "score", np.asarray(prediction)
    return "probability", np.asarray(task.probabilities(prediction))


if __name__ == "__main__":
    run_script(main)
