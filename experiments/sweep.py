"""Train a network with many seeds, learning rates and other numbers, all at once.

python -m experiments.sweep digits_mlp --seeds 8 --learning-rate 0.001 0.003 --output pictures
python -m experiments.sweep wine_mlp --learning-rate 0.01 --weight-decay 0 1e-4 1e-3 --output wine
"""

import csv
import dataclasses
import io
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.benchmarks.measuring import align
from experiments.support import style
from experiments.support.command_line import parse_options, run_script, take_config
from experiments.support.config import SETTINGS, Config, require_compatible
from experiments.support.devices import all_devices
from experiments.support.intervals import CONFIDENCE, interval
from jaxnn.core.files import require_free, write_file
from jaxnn.core.validation import require_number, require_positive_integer
from jaxnn.data import Splits
from jaxnn.training import Trials, make_sweep
from jaxnn.training.evaluation import measures

USES = (
    *("network", "loss", "optimizer", "learning_rate", "schedule", "weight_decay", "clip_norm"),
    *("epochs", "batch_size", "gradient", "precision", "seed", "data"),
)
"""Of a configuration."""


@dataclass(frozen=True)
class Swept(Config):
    """The configuration, some of whose numbers may be several.

    Every combination of them is trained with every seed, in one compiled program.
    """

    learning_rate: tuple[float, ...] = ()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The largest learning rates."""
    weight_decay: tuple[float, ...] = ()  # pyright: ignore[reportIncompatibleVariableOverride]
    """λ of the L2 penalty; decoupled for adamw, lamb and lion."""
    clip_norm: tuple[float, ...] = ()  # pyright: ignore[reportIncompatibleVariableOverride]
    """Scale gradients of a larger global norm down to it."""


@dataclass(frozen=True)
class Options:
    """Train a network with many seeds, learning rates and other numbers, all at once."""

    config: Annotated[Swept, tyro.conf.arg(name="")]
    output: Path = dataclasses.field(kw_only=True)
    """The folder for the table (sweep.csv) and the picture (sweep.png)."""
    seeds: int = 8
    """How many seeds, from the configuration's own."""
    devices: int | None = None
    """Among how many devices the trainings are divided; all unless given, and of a processor as
    many virtual ones as it has cores."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Train all, print a table, write the numbers and their picture."""
    name, config, arguments = take_config(arguments)
    several: dict[str, Any] = {key: _several(getattr(config, key)) for key in SETTINGS}
    fields: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
    options = parse_options(
        Options, "sweep [CONFIG]", arguments, USES, config=Swept(**fields | several), output=Path()
    )
    require_positive_integer("sweep", "seeds", options.seeds)
    numbers, picture = (options.output / f"sweep.{end}" for end in ("csv", "png"))
    require_free(numbers, picture, overwrite=options.overwrite)
    chosen = {key: getattr(options.config, key) for key in SETTINGS}
    config = dataclasses.replace(config, **_shared(options.config), **_first(chosen))
    settings = combinations(chosen)
    _require_sweepable(config)
    devices = all_devices("sweep", options.devices)  # before JAX starts
    splits = config.load()
    config = config.resolved(splits)
    require_compatible(config, splits)
    config.make_optimizer(len(splits.train.target))  # refuses what is wrong with its options
    seeds = range(config.seed, config.seed + options.seeds)
    count = options.seeds * len(settings)
    print(
        f"{name}: {options.seeds} seeds × {len(settings)} settings = {count} networks on "
        f"{len(devices)} devices, {config.epochs} epochs each"
    )
    start = time.perf_counter()
    trials = train(config, splits, seeds, settings, devices)
    print(f"{time.perf_counter() - start:.1f} s, compilation included\n")
    test = tested(config, splits, trials)
    swept = [key for key in SETTINGS if len(chosen[key]) > 1]
    print(table(settings, swept, trials, test))
    rows = list(tidy(seeds, settings, trials, test))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("seed", *settings[0], "epoch", "metric", "value"))
    writer.writerows(rows)
    write_file(
        numbers,
        lambda p: p.write_text(text.getvalue(), encoding="utf-8"),
        overwrite=options.overwrite,
    )
    style.save(draw(settings, swept, trials), picture, overwrite=options.overwrite)
    print(f"\n{numbers}: {len(rows)} rows\n{picture}")


def combinations(chosen: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination of the numbers; what has none keeps its default and is left out.

    Raises:
        ValueError: a number is out of its range, or given twice.
    """
    for key, values in chosen.items():
        for value in values:
            require_number("sweep", key, value, minimum=0, open_minimum=key != "weight_decay")
        if len(set(values)) < len(values):
            raise ValueError(f"sweep: expected every {key} once, got {values}")
    named = {key: values for key, values in chosen.items() if values}
    if "learning_rate" not in named:
        raise ValueError("sweep: expected at least one learning_rate, got none")
    return [dict(zip(named, values, strict=True)) for values in itertools.product(*named.values())]


def train(
    config: Config,
    splits: Splits,
    seeds: Sequence[int],
    settings: Sequence[Mapping[str, float]],
    devices: Sequence[Any],
) -> Trials:
    """Every seed with every setting, measured on the validation set after every epoch."""
    task, network = config.task(splits), config.fused_layers
    loss, target = config.supervised(splits.train, task)
    examples = len(splits.train.target)
    x_held_out = jax.tree.map(jnp.asarray, splits.validation.x)
    held_out = x_held_out, task.prepare(splits.validation.target)

    def measure(params: Any, state: Any) -> dict[str, jax.Array]:
        prediction = network.predict(params, state, held_out[0])
        plain, weights = config.loss_function, splits.validation.weights
        return measures(plain, task, prediction, held_out[1], weights)

    run = make_sweep(
        network,
        loss,
        lambda chosen: config.make_optimizer(examples, chosen),
        splits.train.x,
        target,
        epochs=config.epochs,
        batch_size=config.batch_size,
        devices=devices,
        **({"measure": measure} if len(held_out[1]) else {}),
    )
    numbers = {key: [setting[key] for setting in settings] for key in settings[0]}
    return jax.tree.map(np.asarray, run(seeds, numbers))


def tested(config: Config, splits: Splits, trials: Trials) -> dict[str, np.ndarray]:
    """[seeds, settings], the metrics of every network on the test set."""
    task, target, weights = config.task(splits), splits.test.target, splits.test.weights
    x = jax.tree.map(jnp.asarray, splits.test.x)

    def of_one(trained: tuple[Any, Any]) -> dict[str, jax.Array]:
        prediction = config.layers.predict(*trained, x)
        return measures(config.loss_function, task, prediction, task.prepare(target), weights)

    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (trials.params, trials.state))
    found = jax.jit(lambda trained: jax.lax.map(of_one, trained))(flat)
    return {key: np.reshape(values, trials.losses.shape[:2]) for key, values in found.items()}


def table(
    settings: Sequence[Mapping[str, float]],
    swept: Sequence[str],
    trials: Trials,
    test: Mapping[str, np.ndarray],
) -> str:
    """A line for each setting: mean ± half the confidence interval over the seeds."""
    rows = [(*swept, "loss", *(f"test {key}" for key in test), "diverged", "")]
    for index, setting in enumerate(settings):
        last = trials.losses[:, index, -1]
        cells = [interval(a) for a in (last, *(values[:, index] for values in test.values()))]
        rows.append(
            (
                *(f"{setting[key]:g}" for key in swept),
                *(f"{mean:.4f} ± {half:.4f}" for mean, half in cells),
                f"{int(np.sum(~np.isfinite(last)))} of {len(last)}",
                "",
            )
        )
    return f"mean over the seeds ± {CONFIDENCE:.0%} confidence\n{align(rows)}"


def tidy(
    seeds: Sequence[int],
    settings: Sequence[Mapping[str, float]],
    trials: Trials,
    test: Mapping[str, np.ndarray],
) -> Iterator[tuple]:
    """(seed, settings, epoch, metric, value), one observation a row."""
    per_epoch = {"loss": trials.losses}
    per_epoch |= {f"validation_{key}": values for key, values in trials.measures.items()}
    epochs = trials.losses.shape[-1]
    for (i, seed), (j, setting) in itertools.product(enumerate(seeds), enumerate(settings)):
        run = (seed, *setting.values())
        for metric, values in per_epoch.items():
            for epoch, value in enumerate(values[i, j], 1):
                yield (*run, epoch, metric, float(value))
        for key, values in test.items():
            yield (*run, epochs, f"test_{key}", float(values[i, j]))


def draw(settings: Sequence[Mapping[str, float]], swept: Sequence[str], trials: Trials) -> Figure:
    """Means over the seeds by epoch, with their confidence intervals as bands."""
    curves = {"training loss": trials.losses}
    curves |= {f"validation {key}": values for key, values in trials.measures.items()}
    chosen = {name: curves[name] for name in (*list(curves)[:1], *list(curves)[-1:])}
    figure, axes = style.figure(columns=len(chosen), squeeze=False)
    for axis, (name, values) in zip(axes.flat, chosen.items(), strict=True):
        epochs = np.arange(1, values.shape[-1] + 1)
        last = max(len(settings) - 1, 1)
        for index, setting in enumerate(settings):
            pairs = np.array([interval(values[:, index, e]) for e in range(len(epochs))])
            mean, half = pairs[:, 0], np.nan_to_num(pairs[:, 1])
            label = ", ".join(f"{key.replace('_', ' ')} {setting[key]:g}" for key in swept)
            # Not to its end, which is yellow on white.
            colour = matplotlib.colormaps[style.SEQUENTIAL](0.85 * index / last)
            # An interval about a mean may lie beyond what a share can be.
            ends = np.clip((mean - half, mean + half), 0, 1 if "accuracy" in name else None)
            axis.plot(epochs, mean, label=label, color=colour)
            axis.fill_between(epochs, *ends, color=colour, alpha=0.2, lw=0)
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if "loss" in name:
            axis.set_yscale("log")
    if swept:
        axes.flat[-1].legend(fontsize=7)
    return figure


def _several(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _shared(swept: Swept) -> dict[str, Any]:
    """What the configurations of all trainings have in common."""
    names = [f.name for f in dataclasses.fields(Config) if f.name not in SETTINGS]
    return {name: getattr(swept, name) for name in names}


def _first(chosen: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {key: values[0] for key, values in chosen.items() if values}


def _require_sweepable(config: Config) -> None:
    for name, values in (
        ("gradient", ("manual", "crosscheck")),  # by backprop, which nothing is compared with here
        ("micro_batches", (1,)),
        ("in_backward", (False,)),
        ("patience", (None,)),
        ("class_weights", ("",)),  # those of the loss are taken
        ("metrics", ((),)),
    ):
        if (given := getattr(config, name)) not in values:
            expected = " or ".join(map(str, values))
            raise ValueError(f"sweep: expected {name} to be {expected}, got {given}")


if __name__ == "__main__":
    run_script(main)
