"""Train a network that a configuration describes.

python -m experiments.train                                  # configs/digits_mlp.toml
python -m experiments.train wine_mlp --epochs 50 --learning-rate 0.01
python -m experiments.train --resume runs/digits_mlp --epochs 100

SIGTERM and Ctrl-C let the epoch end, and save it; how to go on is printed, and the exit status is
143 or 130.
"""

import dataclasses
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from experiments.support.best import Best, require_best
from experiments.support.calling import command, waiting
from experiments.support.command_line import (
    Configured,
    option_of,
    parse_options,
    run_script,
    take_config,
)
from experiments.support.config import Config, flat, require_compatible, to_table
from experiments.support.devices import DeviceOptions, all_devices
from experiments.support.folds import cross_validate, load_folds, require_foldable
from experiments.support.held_out import describe, describe_all, evaluate_on, save_mistakes
from experiments.support.hooks import TENSORBOARD, Hooks, find_hooks
from experiments.support.listing import listing
from experiments.support.modes import gradient_options, what_is_compared
from experiments.support.processes import any_process, is_first, require_agreement
from experiments.support.progress import Progress
from experiments.support.runs import (
    Run,
    initial_state,
    new_run,
    open_run,
    require_same_data,
    stem_of,
)
from experiments.support.stopping import Stopping
from jaxnn import summarize
from jaxnn.core.validation import printable, require_number
from jaxnn.data import Splits
from jaxnn.data.dataset import rows_of
from jaxnn.learning.feedback import alignment_angles
from jaxnn.learning.privacy import epsilon_spent, require_accounting
from jaxnn.rewrites.precision import skipped_steps
from jaxnn.sharding import pipelined, unstaged
from jaxnn.training import Disagreement, Diverged, Epoch, TrainState, place_on_stages, train
from jaxnn.training.checkpoints import Checkpoints

PROBED = 1000
"""Of how many examples the angles are."""
MAY_CHANGE = (
    "epochs",
    "gradient",
    "crosscheck_every",
    "crosscheck_tolerance",
    "patience",
    "best",
    "metrics",
    "stream",
)
"""What a resumed run may be given anew: nothing that its numbers so far depend on."""
MAY_TUNE = ("learning_rate", "schedule", "optimizer", "weight_decay", "clip_norm")
"""And these with --fine-tune."""


@dataclass(frozen=True)
class Options:
    """Train a network that a configuration describes."""

    config: Configured
    output: Path | None = None
    """The run folder to make, new or empty; runs/CONFIG unless given."""
    resume: Path | None = None
    """A run folder to continue, from its newest checkpoint."""
    list: Literal["configs", "layers", "losses", "metrics", "optimizers", "schedules"] | None = None
    """Print what can be named, with its options, and do nothing else."""
    folds: int | None = None
    """Cross-validate in so many folds, all at once, and print means with intervals; no network is
    kept."""
    fine_tune: bool = False
    """Let --resume change optimiser, rate, schedule, decay and clip norm; the optimiser
    starts anew, with a schedule over the epochs left."""
    angles: bool = False
    """Measure layers' angles between update and gradient every epoch."""
    save_seconds: float = 30.0
    """Save a checkpoint when the last is so old, and at the end."""
    stop_seconds: float = 10.0
    """How long Ctrl-C and SIGTERM, once given, wait for an epoch."""
    log: tuple[str, ...] = ()
    """Tell metrics to tensorboard, wandb, mlflow, aim, module:function."""
    tensorboard: bool = False
    """The same as --log tensorboard; a resumed run goes on with it."""
    on: Annotated[DeviceOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DeviceOptions
    )
    """On which devices."""


def main(arguments: list[str]) -> None:
    """Train, and leave a run folder behind."""
    with ExitStack() as locked:
        _run(arguments, locked)


def _run(arguments: list[str], locked: ExitStack) -> None:
    folder = _resumed_folder(arguments)
    if folder is not None:
        resumed = locked.enter_context(open_run(folder))
        resumed.lock()
        before = resumed.read_config()
        options = parse_options(Options, "train [CONFIG]", arguments, config=before)
        _require_unchanged(before, options)
        name = folder.name
    else:
        resumed = None
        name, before, arguments = take_config(arguments, auto=True)
        options = parse_options(Options, "train [CONFIG]", arguments, config=before)
        if options.config.data.name != before.data.name:
            name = stem_of(options.config.data.name)
    if options.list is not None:
        print(listing(options.list))
        return
    located = options.config.data.located()
    options = dataclasses.replace(options, config=dataclasses.replace(options.config, data=located))
    config = options.config
    if options.folds is not None:
        if resumed:
            raise ValueError("train: expected folds without resume, which goes on with one network")
        _cross_validate(name, options, options.folds, locked)
        return

    hooks = find_hooks(options.log)
    mesh = options.on.make_mesh()  # before anything else runs on a device
    require_number("train", "stop_seconds", options.stop_seconds, minimum=0)
    waiting(f"reading {config.data.short_name}")
    try:
        splits = config.load()
    except FileNotFoundError as error:
        way_out = "; where the data are elsewhere now, say --data.name" * (resumed is not None)
        raise FileNotFoundError(f"{error}{way_out}") from error
    config = _resolve(config, splits)
    options = dataclasses.replace(options, config=config)
    require_agreement("options and data", lambda: _agreed(options, splits))
    if resumed and resumed.has_record:
        require_same_data(resumed, resumed.read_record(), splits)
    require_compatible(config, splits)
    require_best(config, splits)
    pipeline = options.on.gradient(config, splits)
    # In stages a train state is laid out when it is known; what is saved is never.
    whole_on = None if pipeline else mesh
    past: list[dict] = []
    has_checkpoint = resumed is not None and resumed.has_checkpoint
    if resumed and has_checkpoint:
        train_state, past = _restore(resumed, before, splits, options.on, whole_on)
    tuned_after = resumed.tuned_after if resumed and has_checkpoint else 0
    if options.fine_tune:
        if not has_checkpoint:
            raise ValueError("train: expected fine_tune with resume, of a run with a checkpoint")
        tuned_after = len(past)
    fresh = _fresh_state(config, splits, options.on, whole_on)
    if not has_checkpoint:
        train_state = fresh
    elif options.fine_tune:
        train_state = train_state._replace(optimizer_state=fresh.optimizer_state)
    optimizer = _optimizer(config, splits, tuned_after)
    # Refuses what is wrong with the options.
    placed = train_state
    if pipeline is not None and mesh is not None:
        placed = place_on_stages(train_state, mesh, pipeline, optimizer)
    epochs = _start(config, splits, placed, past, optimizer, pipeline)
    if config.privacy_of_gradients:
        require_accounting()
    run = resumed or locked.enter_context(new_run(name, options.output))
    print(
        printable(f"{name}: {config.data.short_name}, ") + f"{len(splits.train.target)} training, "
        f"{len(splits.validation.target)} validation and {len(splits.test.target)} test examples\n"
    )
    held_at_once = -(-config.batch_size // config.micro_batches)
    print(f"{summarize(config.layers, rows_of(splits.train.x, slice(held_at_once)))}\n")

    if options.fine_tune:
        # Before the configuration says so: a run that is killed in between goes on as it was.
        with Checkpoints(run.start) as start:
            start.discard_after(0)
            start.save(tuned_after, train_state)
    if not run.has_record:
        run.write_record(config, splits)
    run.write_config(config, tuned_after)
    run.write_epochs(past, tensorboard=options.tensorboard or TENSORBOARD in options.log)
    if resumed:
        without = ": it was stopped before its first checkpoint" * (not has_checkpoint)
        print(f"resumed after epoch {len(past)}{without}")
        if config.epochs != before.epochs and config.schedule != "constant()":
            print(
                f"schedule {config.schedule} now spans {config.epochs - tuned_after} epochs: the "
                f"numbers are not those of a run that was to have {config.epochs} from the start"
            )
    if hooks and is_first():
        told = Hooks(hooks, run.folder, dict(flat(to_table(config))), len(past))
        run.listeners.append(locked.enter_context(told).tell)
    with Checkpoints(run.checkpoints) as checkpoints, Best(run, config, splits, past) as best:
        checkpoints.discard_after(len(past))
        observe = _observer(options, splits)
        train_state = _follow(
            epochs, len(past), train_state, run, checkpoints, best, options, observe
        )
        tested = best.parameters(train_state)
    _finish(config, splits, *tested, run)


def _cross_validate(name: str, options: Options, folds: int, locked: ExitStack) -> None:
    require_foldable(options.config, folds)
    for option in ("angles", "tensorboard", "fine_tune"):
        if getattr(options, option):
            raise ValueError(f"train: expected folds without --{option.replace('_', '-')}")
    if options.on.layout != "replicated" or options.on.model_devices != 1:
        raise ValueError(
            "train: expected folds, which are divided among devices, with layout replicated, got "
            f"{options.on.layout}"
        )
    if options.on.stages != 1:
        raise ValueError(
            f"train: expected folds, which are trained side by side, without stages, got "
            f"{options.on.stages}"
        )
    devices = all_devices("train", options.on.devices)  # before anything else runs on one
    every = load_folds(options.config, folds)
    fewest = min(every, key=lambda splits: len(splits.train.target))
    config = _resolve(options.config, fewest)
    require_compatible(config, fewest)
    require_best(config, fewest)
    run = locked.enter_context(new_run(name, options.output))
    first = rows_of(fewest.train.x, slice(1))
    print(
        printable(f"{name}: {config.data.short_name}, ") + f"{folds} folds, the first of "
        f"{len(every[0].train.target)} training, {len(every[0].validation.target)} validation and "
        f"{len(every[0].test.target)} test examples\n\n{summarize(config.layers, first)}\n"
    )
    cross_validate(config, every, run, devices)


def _restore(
    run: Run, before: Config, splits: Splits, devices: DeviceOptions, mesh: Any
) -> tuple[TrainState, list[dict]]:
    """The newest train state of a run, and the metrics of the epochs until then."""
    epoch, train_state = run.restore(like=_fresh_state(before, splits, devices, mesh))
    return train_state, run.epochs(until=epoch)


def _fresh_state(config: Config, splits: Splits, devices: DeviceOptions, mesh: Any) -> TrainState:
    train_state = initial_state(config, splits)
    if mesh is not None:
        train_state = devices.place(train_state, mesh, config, splits)
    return train_state


def _optimizer(config: Config, splits: Splits, tuned_after: int) -> Any:
    """That of the epochs which it is to have."""
    if config.epochs <= tuned_after:
        raise ValueError(
            f"train: expected epochs to be more than the {tuned_after} after which it is "
            f"fine-tuned, got {config.epochs}: say --epochs"
        )
    spanned = dataclasses.replace(config, epochs=config.epochs - tuned_after)
    return spanned.make_update(len(splits.train.target))


def _resolve(config: Config, splits: Splits) -> Config:
    """The configuration in which nothing follows from the data any more; prints what did."""
    if described := splits.preparation.describe():
        print(f"{described}\n")
    found = config.resolved(splits)
    before, after = (dict(flat(to_table(c))) for c in (config, found))
    if changes := [name for name in after if before.get(name) != after[name]]:
        print("from the data follow (each can be given as an option):")
        for name in changes:
            value = after[name]
            shown = " ".join(map(repr, value)) if isinstance(value, tuple) else value
            print(f"  --{name.replace('_', '-')} {shown}")
        print()
    return found


def _agreed(options: Options, splits: Splits) -> dict[str, str]:
    """What must be the same in all processes, by name; where files lie may differ."""
    facts = {
        field.name: repr(getattr(options, field.name)) for field in dataclasses.fields(Options)
    }
    config = dataclasses.asdict(options.config)
    facts |= {f"data.{name}": repr(value) for name, value in config.pop("data").items()}
    facts |= {name: repr(value) for name, value in config.items()}
    facts["resume"] = repr(options.resume is not None)
    for name in ("config", "output", "data.name", "data.folder", "data.test"):
        del facts[name]
    facts["the digest of the data"] = splits.source.data
    facts["the digest of the split"] = splits.source.split
    return facts


def _start(
    config: Config,
    splits: Splits,
    train_state: TrainState,
    past: Sequence[dict],
    optimizer: Any,
    pipeline: pipelined | None,
) -> Iterator[Epoch]:
    """Training as the configuration has it, after the epochs in ``past``."""
    task = config.task(splits)
    validation = None
    if len(splits.validation.target):
        validation = splits.validation.x, config.supervised(splits.validation, task)[1], task
    loss, target = config.supervised(splits.train, task)
    # Autodiff has nothing from fusing, which is about backward passes.
    network = config.layers if config.gradient == "autodiff" else config.fused_layers
    gradients = gradient_options(config, network, loss)
    if pipeline is not None:
        gradients["gradient"] = pipeline
    return train(
        network,
        loss,
        optimizer,
        train_state,
        splits.train.x,
        target,
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation=validation,
        **gradients,
        metrics=config.all_metrics,
        patience=config.patience,
        past_validation_losses=[
            float(np.nan_to_num(r["validation_loss"], nan=np.inf))
            for r in past
            if "validation_loss" in r
        ],
    )


def _observer(options: Options, splits: Splits) -> Callable[[TrainState], dict[str, Any]]:
    """(train_state) -> what the metrics of an epoch have beside losses and scores."""
    config, observers = options.config, {}
    if (privacy := config.privacy_of_gradients) is not None:
        count, size = len(splits.train.target), config.batch_size
        observers["epsilon"] = lambda s: epsilon_spent(
            privacy, examples=count, batch_size=size, steps=int(s.step)
        )
    if config.policy and config.policy.scales:
        observers["skipped_steps"] = lambda s: skipped_steps(s.optimizer_state)
    if options.angles:
        x = rows_of(splits.train.x, slice(PROBED))
        target = config.task(splits).prepare(splits.train.target)
        angles = jax.jit(alignment_angles(config.layers, config.loss_function))

        def degrees(train_state: TrainState) -> dict[str, float]:
            params, state, _, key, _ = train_state
            found = angles(params, state, x, target[:PROBED], key)
            return {layer: float(angle) for layer, angle in found.items()}

        observers["angles"] = degrees
    return lambda train_state: {name: of(train_state) for name, of in observers.items()}


def _follow(
    epochs: Iterator[Epoch],
    number: int,
    train_state: TrainState,
    run: Run,
    checkpoints: Checkpoints,
    best: Best,
    options: Options,
    observe: Callable[[TrainState], dict[str, Any]],
) -> TrainState:
    """Go through the epochs after ``number``: show, write metrics, save checkpoints."""
    total, first, stopped = options.config.epochs, number + 1, False
    saved, disagreements = time.monotonic(), []
    seen, saving = (number, train_state), threading.Lock()
    resume = f"{command('train')} --resume {shlex.quote(str(run.folder))}"

    def save() -> None:
        with saving:
            run.sync()
            best.save()
            checkpoints.save(*seen)

    def give_up_on_the_epoch() -> None:
        number = seen[0]
        print(f"\nstopped in epoch {number + 1}; continue with: {resume}", flush=True)
        save()
        checkpoints.wait()
        print(f"saved after epoch {number}")

    try:
        with (
            Progress(number, total) as progress,
            Stopping(options.stop_seconds, give_up_on_the_epoch) as stopping,
        ):
            for epoch in epochs:
                epoch = epoch._replace(train_state=unstaged(epoch.train_state))
                loss = float(np.mean(epoch.losses))
                scores: dict[str, Any] = {
                    f"validation_{name}": v for name, v in epoch.validation.items()
                }
                scores |= observe(epoch.train_state)
                record = {"epoch": epoch.number, "loss": loss, **scores}
                best.see(epoch.number, record, epoch.train_state)
                run.append({**record, "seconds": epoch.seconds})
                # After the metrics: what is saved has a line for every epoch.
                seen = number, train_state = epoch.number, epoch.train_state
                disagreements += [] if epoch.disagreement is None else [epoch.disagreement]
                validation = f", validation {describe(epoch.validation)}" * bool(epoch.validation)
                validation += f", ε {scores['epsilon']:.2f}" if "epsilon" in scores else ""
                if "angles" in scores:
                    angles = (f"{layer} {angle:.0f}°" for layer, angle in scores["angles"].items())
                    validation += f", {', '.join(angles)}"
                # The time of the first epoch is mostly that of compilation.
                speed = f", {epoch.examples_per_second:,.0f} examples/s" * (number > first)
                progress.show(number, f"loss {loss:.4f}{validation}{speed}")
                if stopped := any_process(stopping.requested is not None):
                    break
                if any_process(time.monotonic() - saved > options.save_seconds):
                    save()
                    saved = time.monotonic()
    except (Diverged, Disagreement) as error:
        save()
        error.add_note(f"the state after epoch {number} is kept in {run.checkpoints}")
        raise
    save()
    if stopped:
        checkpoints.wait()
        received = signal.Signals(stopping.requested or signal.SIGTERM)  # or by another process
        print(f"\n{received.name}: stopped and saved after epoch {number}; continue with: {resume}")
        sys.exit(128 + received)
    if number < total:
        print(f"stopped early: {options.config.patience} epochs without a smaller validation loss")
    if disagreements:
        print(
            f"{what_is_compared(options.config)} always agreed where they were compared; "
            f"the largest relative error was {max(disagreements):.1e}"
        )
    return train_state


def _finish(config: Config, splits: Splits, train_state: TrainState, which: str, run: Run) -> None:
    """The test set, and the pictures."""
    metrics, prediction = evaluate_on(config, splits.preparation, train_state, splits.test)
    run.append({"test": metrics})
    print(f"test{which}: {describe_all(metrics)}")
    if not is_first():
        return
    from experiments.support import figures, style  # matplotlib, at the end

    metric = "accuracy" if "accuracy" in metrics else "r2"
    if config.best not in ("last", "loss"):
        metric = config.best
    curves = style.draw(
        run.folder / "learning_curves.png",
        lambda: figures.learning_curves(run.epochs(), metric),
        overwrite=True,
    )
    pictures = [] if curves is None else [curves]
    pictures += save_mistakes(
        config, splits.preparation, prediction, splits.test, run.folder, "test set", overwrite=True
    )
    left = [*(path.name for path in pictures), "metrics.jsonl", "checkpoints"]
    print(f"{run.folder}: {', '.join(left)}")


def _resumed_folder(arguments: list[str]) -> Path | None:
    """What --resume names; the other options wait for the configuration in that folder."""
    folder = option_of("--resume", arguments)
    return None if folder is None else Path(folder)


def _require_unchanged(before: Config, options: Options) -> None:
    if options.output is not None:
        raise ValueError("resume: expected no output, the run goes on in its own folder")
    # Where the data are may change; that they are the same is found by their digest.
    place = {"name": before.data.name, "folder": before.data.folder}
    moved = dataclasses.replace(options.config.data, **place)
    after = dataclasses.replace(options.config, data=moved)
    allowed = MAY_CHANGE + MAY_TUNE * options.fine_tune
    for field in dataclasses.fields(Config):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new and field.name not in allowed:
            tune = "; --fine-tune lets it change" * (field.name in MAY_TUNE)
            raise ValueError(
                f"resume: expected {field.name} to stay {old!r}, got {new!r}{tune}; a resumed run "
                f"can only be given other {', '.join(allowed)}"
            )
    if (before.gradient == "private") != (options.config.gradient == "private"):
        raise ValueError(
            "resume: expected private training to stay private, and other training to stay other: "
            f"got gradient {options.config.gradient!r} after {before.gradient!r}"
        )


if __name__ == "__main__":
    run_script(main)
