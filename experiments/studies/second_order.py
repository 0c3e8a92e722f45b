"""K-FAC beside Adam and SGD with momentum: training loss per epoch and per second.

"K-FAC and Adam" is one partitioned optimiser: K-FAC for all layers that it covers but the last, and
Adam for that one.

python -m experiments.second_order --output pictures

Each method starts from the same weights and takes the same batches. Of its learning rates (and
K-FAC's dampings) the one with the smallest training loss at the end is drawn. Compilation is not in
the times; what K-FAC needs beside the gradient, its factors and their inverses, is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxnn as nn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from jaxnn.learning.preconditioning import kfac, kfac_labels
from jaxnn.training import create_state, make_epoch, make_predict, make_step


class Problem(NamedTuple):
    """Data, a network for them, and how long it is trained."""

    data: DataConfig
    network: Callable[[], nn.Layer]
    batch_size: int
    epochs: int


def _mlp() -> nn.Layer:
    return nn.serial(nn.dense(256), nn.relu(), nn.dense(128), nn.relu(), nn.dense(10))


def _cnn() -> nn.Layer:
    first = (nn.conv(16, (3, 3)), nn.relu(), nn.max_pool(2))
    second = (nn.conv(32, (3, 3)), nn.relu(), nn.max_pool(2))
    return nn.serial(*first, *second, nn.flatten(), nn.dense(64), nn.relu(), nn.dense(10))


PROBLEMS = {
    "digits, CNN": Problem(DataConfig("digits", flatten=False), _cnn, 128, 20),
    "Fashion-MNIST, MLP": Problem(DataConfig("fashion_mnist", standardize="all"), _mlp, 512, 6),
}


def _kfac(rate: float, damping: float, *problem: Any) -> optax.GradientTransformation:
    # The momentum lies behind the constraint, which bounds what a single batch may do.
    preconditioner = kfac(
        *problem, damping=damping, norm_constraint=1e-2, factors_every=4, inverse_every=20
    )
    return optax.chain(preconditioner, optax.sgd(rate, momentum=0.9))


def _with_adam(rate: float, network: nn.Layer, *data: Any) -> optax.GradientTransformation:
    problem = (network, *data)
    parts: dict[Any, Any] = {"kfac": _kfac(0.03, 0.01, *problem), "other": optax.adam(rate)}
    labels = kfac_labels(*problem, others=[network.part_names[-1]])
    return optax.partition(parts, labels)


METHODS: dict[str, dict[str, Callable]] = {
    "SGD": {
        f"rate {rate:g}": lambda *problem, rate=rate: optax.sgd(rate, momentum=0.9)
        for rate in (0.01, 0.03, 0.1)
    },
    "Adam": {
        f"rate {rate:g}": lambda *problem, rate=rate: optax.adam(rate)
        for rate in (5e-4, 2e-3, 5e-3)
    },
    "K-FAC": {
        f"rate {rate:g}, damping {damping:g}": lambda *problem, r=rate, d=damping: _kfac(
            r, d, *problem
        )
        for rate, damping in ((0.03, 0.01), (0.1, 0.01), (0.1, 0.1))
    },
    "K-FAC and Adam": {
        f"rate 0.03, damping 0.01, of Adam {rate:g}": partial(_with_adam, rate)
        for rate in (5e-4, 2e-3, 5e-3)
    },
}


@dataclass(frozen=True)
class Options:
    """Train by each method, and draw training loss per epoch and per second."""

    output: Path
    """The folder for the figure and its numbers."""
    problems: tuple[str, ...] = tuple(PROBLEMS)
    """Which problems."""
    epochs: int | None = None
    """In place of each problem's own."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    options = parse_options(Options, "second_order", arguments)
    require_problems("second_order", options.problems, PROBLEMS, options.epochs)

    def compute() -> dict[str, Any]:
        return {name: compare(name, options.epochs) for name in options.problems}

    report("second_order", options.output, compute, draw, overwrite=options.overwrite)


def compare(name: str, epochs: int | None = None) -> dict[str, Any]:
    """For each method the run of its best setting: losses, seconds, test accuracy."""
    problem = PROBLEMS[name]
    splits = problem.data.load()
    results = {}
    for method, settings in METHODS.items():
        runs: list[dict[str, Any]] = [
            _learn(problem, splits, epochs or problem.epochs, make) | {"setting": setting}
            for setting, make in settings.items()
        ]
        # NaN, of a run that diverged, comes last.
        best = min(runs, key=lambda run: (np.isnan(run["losses"][-1]), run["losses"][-1]))
        results[method] = best
        seconds = best["seconds"][-1] / len(best["seconds"])
        print(
            f"{name}, {method}, {best['setting']}: training loss {best['losses'][-1]:.4f}, "
            f"test {100 * best['accuracy']:.2f} %, {seconds:.2f} s an epoch",
            flush=True,
        )
    return results


def _learn(problem: Problem, splits: Any, epochs: int, make: Callable) -> dict[str, Any]:
    network, loss = problem.network(), nn.softmax_cross_entropy()
    x, target = jnp.asarray(splits.train.x), jnp.asarray(splits.train.target)
    optimizer = make(network, loss, x[:1], target[:1])
    train_state = create_state(network, optimizer, jax.random.key(0), x[:1])
    step = make_step(nn.backprop(network, loss), optimizer)
    epoch = make_epoch(step, problem.batch_size, donate=False)
    jax.block_until_ready(epoch(train_state, x, target))  # compiles
    losses, seconds = [], [0.0]
    for _ in range(epochs):
        start = time.perf_counter()
        train_state, values = jax.block_until_ready(epoch(train_state, x, target))
        seconds.append(seconds[-1] + time.perf_counter() - start)
        losses.append(float(jnp.mean(values)))
    prediction = make_predict(network)(train_state.params, train_state.state, splits.test.x)
    accuracy = np.mean(np.argmax(prediction, 1) == splits.test.target)
    return {"losses": losses, "seconds": seconds[1:], "accuracy": float(accuracy)}


def draw(results: dict[str, Any]) -> Figure:
    """A row for each problem: training loss over epochs, and over seconds."""
    figure, axes = style.figure(len(results), 2, height=2.5, squeeze=False, sharey="row")
    for row, (name, by_method) in zip(axes, results.items(), strict=True):
        for method, run in by_method.items():
            label = f"{method}, {run['setting']}"
            epochs = np.arange(1, len(run["losses"]) + 1)
            row[0].plot(epochs, run["losses"], marker=".", label=label)
            row[1].plot(run["seconds"], run["losses"], marker=".")
        row[0].set(title=name, ylabel="mean training loss", yscale="log", xlabel="epoch")
        row[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].legend(fontsize=7)
        row[1].set(xlabel="seconds of training", title="compilation left out")
    return figure


if __name__ == "__main__":
    run_script(main)
