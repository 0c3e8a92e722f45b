"""Learning rules beside backprop: accuracy, and the angle between each update and the gradient.

python -m experiments.feedback --output pictures
python -m experiments.feedback --problems "digits, MLP" --epochs 5 --output pictures

Every rule trains the same network from the same initial weights with the same optimiser and the
same order of examples; only the weights that deltas travel back over are others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from jaxnn.learning.feedback import alignment_angles
from jaxnn.training import create_state, make_optimizer, make_schedule, steps_per_epoch, train
from jaxnn.training.evaluation import task_of

PROBED = 1000
"""Of how many training examples the angles are."""


class Problem(NamedTuple):
    """Data and a network for them, as blocks that direct feedback alignment sends the error to."""

    data: DataConfig
    blocks: Callable[[], tuple[nn.Layer, ...]]
    batch_size: int
    epochs: int
    learning_rate: float = 1e-3


def mlp() -> tuple[nn.Layer, ...]:
    """Two hidden layers."""
    return nn.serial(nn.dense(512), nn.tanh()), nn.serial(nn.dense(256), nn.tanh()), nn.dense(10)


def cnn() -> tuple[nn.Layer, ...]:
    """Two convolutions and a hidden layer."""
    return (
        nn.serial(nn.conv(16, (3, 3)), nn.relu(), nn.max_pool(2)),
        nn.serial(nn.conv(32, (3, 3)), nn.relu(), nn.max_pool(2)),
        nn.serial(nn.flatten(), nn.dense(64), nn.relu()),
        nn.dense(10),
    )


PROBLEMS = {
    "digits, MLP": Problem(DataConfig("digits"), mlp, 32, 40),
    "digits, CNN": Problem(DataConfig("digits", flatten=False), cnn, 32, 40),
    "Fashion-MNIST, MLP": Problem(DataConfig("fashion_mnist", standardize="all"), mlp, 128, 12),
}

RULES: dict[str, Callable[..., nn.Layer]] = {
    "backprop": nn.serial,
    "feedback alignment": lambda *blocks: nn.feedback_alignment(nn.serial(*blocks)),
    "direct feedback alignment": nn.direct_feedback_alignment,
    "signs, uniform": lambda *blocks: nn.sign_concordant(nn.serial(*blocks)),
    "signs, fixed magnitude": lambda *blocks: nn.sign_concordant(nn.serial(*blocks), "fixed"),
    "signs, batch-wise": lambda *blocks: nn.sign_concordant(nn.serial(*blocks), "batch"),
    "Kolen–Pollack": lambda *blocks: nn.kolen_pollack(nn.serial(*blocks)),
}


@dataclass(frozen=True)
class Options:
    """Train by every rule, and draw accuracy and angles."""

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
    options = parse_options(Options, "feedback", arguments)
    require_problems("feedback", options.problems, PROBLEMS, options.epochs)

    def compute() -> dict[str, Any]:
        return {name: compare(name, options.epochs) for name in options.problems}

    report("feedback", options.output, compute, draw, overwrite=options.overwrite)


def compare(name: str, epochs: int | None = None) -> dict[str, Any]:
    """For each rule {"accuracy": after every epoch, "angles": {layer: after every epoch}}."""
    problem = PROBLEMS[name]
    splits = problem.data.load()
    run = partial(_learn, problem, splits, epochs or problem.epochs)
    results = {}
    for rule, make in RULES.items():
        results[rule] = run(make(*problem.blocks()))
        hidden = list(results[rule]["angles"].items())[:-1]
        angles = ", ".join(f"{layer} {values[-1]:.0f}°" for layer, values in hidden)
        accuracy = 100 * results[rule]["accuracy"][-1]
        print(f"{name}, {rule}: {accuracy:.2f} %, angles {angles}", flush=True)
    return results


def _learn(problem: Problem, splits: Any, epochs: int, network: nn.Layer) -> dict[str, Any]:
    loss = nn.softmax_cross_entropy()
    task = task_of(loss, len(splits.train.class_names))
    steps = epochs * steps_per_epoch(len(splits.train.x), problem.batch_size)
    rate = make_schedule("cosine", problem.learning_rate, steps)
    optimizer = make_optimizer("adam", rate)
    train_state = create_state(network, optimizer, jax.random.key(0), splits.train.x[:1])
    x, target = splits.train.x, task.prepare(splits.train.target)
    angles_of = jax.jit(alignment_angles(network, loss))
    accuracy, angles = [], {}
    for epoch in train(
        network,
        loss,
        optimizer,
        train_state,
        x,
        target,
        epochs=epochs,
        batch_size=problem.batch_size,
        validation=(splits.test.x, task.prepare(splits.test.target), task),
    ):
        accuracy.append(epoch.validation["accuracy"])
        params, state, _, key, _ = epoch.train_state
        found = angles_of(params, state, x[:PROBED], target[:PROBED], key)
        for layer, angle in found.items():
            angles.setdefault(layer, []).append(float(angle))
    return {"accuracy": accuracy, "angles": angles}


def draw(results: dict[str, Any]) -> Figure:
    """A row for each problem: accuracy, and the mean angle of the hidden layers."""
    figure, axes = style.figure(len(results), 2, height=2.6, squeeze=False)
    for row, (name, by_rule) in zip(axes, results.items(), strict=True):
        for rule, found in by_rule.items():
            epochs = np.arange(1, len(found["accuracy"]) + 1)
            line = "--" if rule == "backprop" else "-"
            final = 100 * found["accuracy"][-1]
            accuracy = 100 * np.array(found["accuracy"])
            row[0].plot(epochs, accuracy, line, label=f"{rule}, {final:.1f} %")
            hidden = np.mean(list(found["angles"].values())[:-1], 0)
            row[1].plot(epochs, hidden, line)
        best = 100 * max(by_rule["backprop"]["accuracy"])
        row[0].set(title=name, ylabel="test accuracy (%)", ylim=(best - 18, best + 1))
        row[0].legend(fontsize=7, loc="lower right")
        row[1].axhline(90, color=style.GREY, lw=0.8)
        row[1].set(ylabel="angle to the gradient (°)", ylim=(-3, 95))
        row[1].set_title("hidden layers, mean")
    for place in axes[-1]:
        place.set_xlabel("epoch")
    return figure


if __name__ == "__main__":
    run_script(main)
