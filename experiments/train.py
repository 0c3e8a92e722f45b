"""Train a network that a configuration describes.

python -m experiments.train                                  # configs/digits_mlp.toml
python -m experiments.train wine_mlp --epochs 50 --learning-rate 0.01
python -m experiments.train --resume runs/digits_mlp --epochs 100
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments import figures, style
from experiments.command_line import Configured, parse_options, run_script, take_config
from experiments.config import Config, require_compatible
from experiments.held_out import describe, evaluate_on, save_mistakes
from experiments.runs import Run, initial_state, new_run, open_run
from jaxnn import summarize
from jaxnn.data import Splits
from jaxnn.training import Disagreement, Diverged, TrainState, train
from jaxnn.training.checkpoints import Checkpoints

MAY_CHANGE = ("epochs", "gradient", "crosscheck_every", "crosscheck_tolerance", "patience")
"""What a resumed run may be given anew: nothing that its numbers so far depend on."""


@dataclass(frozen=True)
class Options:
    """Train a network that a configuration describes."""

    config: Configured
    output: Path | None = None
    """The run folder to make; runs/CONFIG unless given. It must not exist, or be empty."""
    resume: Path | None = None
    """A run folder to continue, from its newest checkpoint."""
    save_seconds: float = 30.0
    """Save a checkpoint when the last one is at least this old; the last epoch's always is."""


def main(arguments: list[str]) -> None:
    """Train, and leave a run folder behind."""
    if "--resume" in arguments[:-1]:
        resumed = open_run(Path(arguments[arguments.index("--resume") + 1]))
        before = resumed.read_config()
        options = parse_options(Options, "train", arguments, config=before)
        _require_unchanged(before, options.config)
        name = resumed.folder.name
    else:
        resumed = None
        name, config, arguments = take_config(arguments)
        options = parse_options(Options, "train", arguments, config=config)
    config = options.config

    splits = config.data.load()
    require_compatible(config, splits)
    train_state = initial_state(config, splits)
    run = resumed or new_run(name, options.output)
    print(
        f"{name}: {config.data.name}, {len(splits.train.x)} training, "
        f"{len(splits.validation.x)} validation and {len(splits.test.x)} test examples\n"
    )
    print(f"{summarize(config.layers, splits.train.x[: config.batch_size])}\n")

    with Checkpoints(run.checkpoints) as checkpoints:
        if resumed:
            epoch, train_state = checkpoints.restore(like=train_state)
            run.forget_after(epoch)
            print(f"resumed after epoch {epoch}")
        run.write_config(config)
        train_state = _train(config, splits, train_state, run, checkpoints, options)
    _finish(config, splits, train_state, run)


def _train(
    config: Config,
    splits: Splits,
    train_state: TrainState,
    run: Run,
    checkpoints: Checkpoints,
    options: Options,
) -> TrainState:
    """The epochs, with progress shown, metrics written and checkpoints saved."""
    task = config.task(splits)
    validation = None
    if len(splits.validation.x):
        validation = splits.validation.x, task.prepare(splits.validation.target), task
    history = run.epochs()
    losses = [record["validation_loss"] for record in history if "validation_loss" in record]
    epochs = train(
        config.layers,
        config.loss_function,
        config.make_optimizer(len(splits.train.x)),
        train_state,
        splits.train.x,
        task.prepare(splits.train.target),
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation=validation,
        gradient=config.gradient,
        crosscheck_every=config.crosscheck_every,
        crosscheck_tolerance=config.crosscheck_tolerance,
        patience=config.patience,
        past_validation_losses=losses,
    )
    number, saved, worst = len(history), time.monotonic(), []
    resume = f"continue with: python -m experiments.train --resume {run.folder}"
    try:
        with tqdm(initial=number, total=config.epochs, unit="epoch", disable=None) as progress:
            for epoch in epochs:
                number, train_state = epoch.number, epoch.train_state
                scores = {f"validation_{name}": v for name, v in epoch.validation.items()}
                loss = float(np.mean(epoch.losses))
                record = {"epoch": number, "loss": loss, **scores, "seconds": epoch.seconds}
                run.append(record)
                worst += [] if epoch.disagreement is None else [epoch.disagreement]
                progress.update()
                progress.set_postfix_str(
                    f"loss {loss:.4f}, {describe(epoch.validation)}{', ' if scores else ''}"
                    f"{epoch.examples_per_second:,.0f} examples/s"
                )
                if time.monotonic() - saved > options.save_seconds:
                    checkpoints.save(number, train_state)
                    saved = time.monotonic()
    except (Diverged, Disagreement) as error:
        if number:
            checkpoints.save(number, train_state)
            error.add_note(f"the state after epoch {number} is kept in {run.checkpoints}")
        raise
    except KeyboardInterrupt:
        if number:
            checkpoints.save(number, train_state)
            print(f"\ninterrupted after epoch {number}; {resume}")
        raise
    checkpoints.save(number, train_state)
    if worst:
        print(
            f"hand-derived and autodiff gradients were compared in {len(worst)} epochs and always "
            f"agreed; the largest relative error was {max(worst):.1e}"
        )
    return train_state


def _finish(config: Config, splits: Splits, train_state: TrainState, run: Run) -> None:
    """The test set, and the pictures."""
    metrics, prediction = evaluate_on(config, splits, train_state, splits.test)
    run.append({"test": metrics})
    print(f"test: {describe(metrics)}")
    metric = "accuracy" if "accuracy" in metrics else "r2"
    curves = figures.learning_curves(run.epochs(), metric)
    pictures = [style.save(curves, run.folder / "learning_curves.png", overwrite=True)]
    pictures += save_mistakes(config, splits, prediction, splits.test, run.folder, overwrite=True)
    print(f"{run.folder}: {', '.join(path.name for path in pictures)}, metrics.jsonl, checkpoints")


def _require_unchanged(before: Config, after: Config) -> None:
    for field in dataclasses.fields(Config):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new and field.name not in MAY_CHANGE:
            raise ValueError(
                f"resume: expected {field.name} to stay {old!r}, got {new!r}; a resumed run can "
                f"only be given other {', '.join(MAY_CHANGE)}"
            )


if __name__ == "__main__":
    run_script(main)
