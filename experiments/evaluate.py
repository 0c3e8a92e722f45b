"""Evaluate a trained network.

python -m experiments.evaluate runs/digits_mlp
python -m experiments.evaluate runs/digits_mlp --split train --output pictures
python -m experiments.evaluate runs/wine_mlp --file my_wines.csv --target cultivar
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.support.command_line import parse_options, run_script, take_folder
from experiments.support.held_out import describe, evaluate_on, read_dataset, save_mistakes
from experiments.support.runs import open_run, restore
from jaxnn.core.validation import printable


@dataclass(frozen=True)
class Options:
    """Evaluate a trained network on a split of its data, or on a file with targets."""

    split: Literal["train", "validation", "test"] = "test"
    """The split."""
    file: str | None = None
    """A .csv or .npz file with the features and the target, instead of a split."""
    target: str | None = None
    """The column or array of the target in the file."""
    output: Path | None = None
    """A folder for confusion matrix and mistakes; none are drawn unless given."""


def main(arguments: list[str]) -> None:
    """Print the metrics."""
    folder, arguments = take_folder(arguments, "evaluate")
    options = parse_options(Options, "evaluate RUN", arguments)
    config, splits, epoch, train_state = restore(open_run(folder))
    if options.file is None:
        dataset, name = getattr(splits, options.split), f"{config.data.name} {options.split}"
    else:
        dataset, name = read_dataset(options.file, options.target, splits), options.file
    if len(dataset.x) == 0:
        raise ValueError(f"expected split to have examples, {options.split} of {folder} has none")
    metrics, prediction = evaluate_on(config, splits, train_state, dataset)
    where = printable(f"{folder} after epoch {epoch} on {name}")
    print(f"{where}, {len(dataset.x)} examples: {describe(metrics)}")
    if options.output is not None:
        for path in save_mistakes(config, splits, prediction, dataset, options.output, name):
            print(path)


if __name__ == "__main__":
    run_script(main)
