"""Predict with a trained network for examples in a file; prints a table, or writes a .csv.

python -m experiments.predict runs/wine_mlp my_wines.csv
python -m experiments.predict runs/digits_mlp images.npz --output predictions.csv
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.support.command_line import parse_options, run_script, take_folder
from experiments.support.files import write_file
from experiments.support.runs import open_run, restore
from jaxnn import (
    Loss,
    binary_cross_entropy,
    categorical_cross_entropy,
    focal,
    kl_divergence,
    negative_log_likelihood,
    projected_cross_entropy,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    softmax_focal,
)
from jaxnn.core.validation import printable
from jaxnn.data import read_features
from jaxnn.losses.elementwise import Binary
from jaxnn.training import make_predict


@dataclass(frozen=True)
class Options:
    """Predict for examples in a file."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .csv with the features' columns, or an .npz with an array x."""
    inputs: str | None = None
    """The array of x in an .npz, where it is not called x."""
    output: Path | None = None
    """A .csv file to write; must not exist."""


def main(arguments: list[str]) -> None:
    """One row for each example: the class and every class's probability, or the number."""
    folder, arguments = take_folder(arguments, "predict")
    options = parse_options(Options, "predict RUN", arguments)
    config, splits, _, train_state = restore(open_run(folder))
    x = read_features(
        options.file,
        splits.train.feature_names,
        inputs=options.inputs,
        flatten=config.data.flatten,
    )
    expected = splits.train.x.shape[1:]
    if x.shape[1:] != expected:
        raise ValueError(
            f"expected examples of shape {expected} in {options.file}, got {x.shape[1:]}"
        )
    x = jnp.asarray(splits.standardization.apply(x))
    prediction = make_predict(config.layers)(train_state.params, train_state.state, x)
    head, rows = _table(config, splits, prediction)

    def write(stream: TextIO, shown: Callable[[str], str] = str):
        csv.writer(stream).writerows([shown(cell) for cell in row] for row in (head, *rows))

    if options.output is None:
        write(sys.stdout, printable)
        return

    def write_path(path: Path):
        with path.open("w", newline="", encoding="utf-8") as stream:
            write(stream)

    print(f"{len(rows)} predictions in {write_file(options.output, write_path)}")


def _table(config, splits, prediction) -> tuple[list[str], list[list[str]]]:
    task = config.task(splits)
    if task.decide is None:
        numbers = splits.target_standardization.invert(np.asarray(task.numbers(prediction)))
        name = config.data.target or "target"
        several = numbers.shape[1] > 1
        head = [f"{name} {i}" if several else name for i in range(numbers.shape[1])]
        return head, [[f"{value:.6g}" for value in row] for row in numbers]
    names = splits.train.class_names
    kind, columns = _columns(config.loss_function, prediction)
    heads = names if columns.shape[1] == len(names) else names[1:]
    rows = [
        [names[label], *(f"{value:.4f}" for value in row)]
        for label, row in zip(np.asarray(task.decide(prediction)), columns, strict=True)
    ]
    return ["class", *(f"{kind} of {name}" for name in heads)], rows


def _columns(loss: Loss, prediction) -> tuple[str, np.ndarray]:
    """What the network's outputs say about the classes: probabilities, or else scores."""
    match loss:
        case softmax_cross_entropy() | softmax_focal() | projected_cross_entropy():
            prediction = jax.nn.softmax(prediction)
        case negative_log_likelihood() | kl_divergence():
            prediction = jnp.exp(prediction)
        case sigmoid_binary_cross_entropy() | focal():
            prediction = jax.nn.sigmoid(prediction)
        case binary_cross_entropy() | categorical_cross_entropy():
            pass
        case _:
            return "score", np.asarray(prediction)
    if isinstance(loss, Binary):
        prediction = np.concatenate([1 - prediction, prediction], axis=1)
    return "probability", np.asarray(prediction)


if __name__ == "__main__":
    run_script(main)
