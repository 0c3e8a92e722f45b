"""Evaluate a trained network.

python -m experiments.evaluate runs/digits_mlp
python -m experiments.evaluate runs/digits_mlp --split train --output pictures
python -m experiments.evaluate runs/wine_mlp --file my_wines.csv --target cultivar
python -m experiments.evaluate runs/mnist --file mnist.npz --inputs x_test --target y_test
"""

import dataclasses
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from experiments.support.command_line import parse_options, run_script, take_folder
from experiments.support.config import ReadingConfig
from experiments.support.held_out import describe_all, evaluate_on, save_mistakes
from experiments.support.runs import Trained, load_data, open_trained
from jaxnn.core.validation import printable
from jaxnn.data import Dataset, Splits
from jaxnn.data.files import examples_like


@dataclass(frozen=True)
class Options:
    """Evaluate a trained network on a split of its data, or on a file with targets."""

    split: Literal["train", "validation", "test"] = "test"
    """The split."""
    file: Path | None = None
    """A file with the features and the target, instead of a split; of images a folder with a folder
    for each class, or a table of their paths."""
    target: tuple[str, ...] | None = None
    """The column or array of the target in the file, where it is called otherwise than in the
    training data."""
    inputs: tuple[str, ...] | None = None
    """The array of x in an .npz, or the columns, where they are called otherwise."""
    metrics: tuple[str, ...] | None = None
    """What to evaluate in place of the run's metrics: f1, precision, recall, roc_auc, log_loss,
    brier, top_5, rmse …; f1_each has one for each class."""
    output: Path | None = None
    """A folder for confusion matrix and mistakes; none are drawn unless given."""
    weights: Literal["best", "last"] = "best"
    """Those of the best epoch in validation, if there was any, or of the last epoch."""
    allow_changes: bool = False
    """Warn, in place of refusing, where the configuration or the data of the run have changed."""
    data: ReadingConfig = field(default_factory=ReadingConfig)
    """How the file is read, if it is a table."""


def main(arguments: list[str]) -> None:
    """Print the metrics."""
    folder, arguments = take_folder(arguments, "evaluate")
    options = parse_options(Options, "evaluate RUN", arguments)
    trained, splits = open_trained(
        folder, allow_changes=options.allow_changes, weights=options.weights
    )
    data = trained.config.data
    if options.file is not None:
        inputs = options.inputs or trained.inputs
        target = options.target or data.target
        examples = examples_like(
            trained.preparation,
            options.file.expanduser(),
            target,
            inputs,
            data.reading(options.data),
            data.weights,
        )
        dataset, name = trained.preparation.apply(str(options.file), examples), str(options.file)
    else:
        dataset = _split(trained, splits, options.split, options.allow_changes)
        name = f"{data.short_name} {options.split}"
    if len(dataset.target) == 0:
        raise ValueError(f"expected split to have examples, {options.split} of {folder} has none")
    config, preparation, epoch = trained.config, trained.preparation, trained.epoch
    if options.metrics is not None:
        config = dataclasses.replace(config, metrics=options.metrics, best="last")
    metrics, prediction = evaluate_on(config, preparation, trained.train_state, dataset)
    where = printable(f"{folder} after epoch {epoch} on {name}")
    print(f"{where}, {len(dataset.target)} examples: {describe_all(metrics)}")
    if options.output is not None:
        for path in save_mistakes(config, preparation, prediction, dataset, options.output, name):
            print(path)


def _split(trained: Trained, splits: Splits | None, name: str, allow_changes: bool) -> Dataset:
    """A split of the run's data: as the run kept it, once the data, if they are there still, are
    found to be the same."""
    if splits is not None:
        return getattr(splits, name)
    kept = trained.run.read_kept(name, trained.preparation)
    try:
        splits = load_data(trained, allow_changes=allow_changes)
    except FileNotFoundError as error:
        if kept is None:
            raise FileNotFoundError(
                f"{error}; the run has no {name} examples of its own: put the file back, or name "
                "another with --file"
            ) from None
    except ValueError as error:
        if kept is None or not allow_changes:
            raise
        warnings.warn(str(error), stacklevel=2)
    if kept is None:
        assert splits is not None
        return getattr(splits, name)
    return kept


if __name__ == "__main__":
    run_script(main)
