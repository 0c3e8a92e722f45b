"""Learning rules beside backprop: accuracy, and the angle between each update and the gradient.

python -m experiments.feedback --output pictures
python -m experiments.feedback --problems "digits, MLP" --epochs 5 --output pictures

Every rule of feedback trains the same network from the same initial weights with the same optimiser
and the same order of examples; only the weights that deltas travel back over are others. Beside
them are rules that send no delta from layer to layer (`jaxnn.learning.local`), of the same hidden
layers: forward-forward has ReLUs, rms_norm between them and no output layer. Their angles are to
the gradient of what each of them is meant to lower.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxnn as nn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from jaxnn.core.adapters import Pointwise
from jaxnn.learning import local
from jaxnn.learning.feedback import alignment_angles
from jaxnn.training import (
    create_state,
    make_epoch,
    make_optimizer,
    make_predict,
    make_schedule,
    make_step,
    steps_per_epoch,
)

PROBED = 1000
"""Of how many training examples the angles are."""


class Problem(NamedTuple):
    """Data and a network for them, as blocks that direct feedback alignment sends the error to."""

    data: DataConfig
    blocks: Callable[[], tuple[nn.Layer, ...]]
    batch_size: int
    epochs: int
    learning_rate: float = 1e-3
    is_flat: bool = True
    """Whether rules of stages are among those compared: forward-forward puts the label before flat
    features, and equilibrium propagation has no max-pool."""


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
    "digits, CNN": Problem(DataConfig("digits", flatten=False), cnn, 32, 40, is_flat=False),
    "Fashion-MNIST, MLP": Problem(DataConfig("fashion_mnist", standardize="all"), mlp, 128, 4),
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

LOSS = nn.softmax_cross_entropy()


def _flat(blocks: tuple[nn.Layer, ...]) -> nn.serial:
    return nn.serial(*(layer for block in blocks for layer in block.parts or (block,)))


def _of_goodness(blocks: tuple[nn.Layer, ...]) -> nn.serial:
    hidden: list[nn.Layer] = []
    for layer in _flat(blocks[:-1]).parts:
        if isinstance(layer, Pointwise):
            hidden += [nn.relu(), nn.rms_norm(use_scale=False)]
        else:
            hidden.append(layer)
    return nn.serial(*hidden[:-1])


LOCAL_RULES: dict[str, Callable[..., local.Rule]] = {
    "predictive coding": lambda *blocks: local.predictive_coding(_flat(blocks), LOSS),
    "equilibrium propagation": lambda *blocks: local.equilibrium_propagation(
        _flat(blocks), LOSS, free_steps=20, nudged_steps=6
    ),
    "PEPITA": lambda *blocks: local.pepita(_flat(blocks), LOSS),
    "forward-forward": lambda *blocks: local.forward_forward(
        _of_goodness(blocks), blocks[-1].features, label_scale=3.0
    ),
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
    for rule, make in (RULES | (LOCAL_RULES if problem.is_flat else {})).items():
        results[rule] = run(_parts_of(make(*problem.blocks())))
        hidden = list(results[rule]["angles"].items())[:-1]
        angles = ", ".join(f"{layer} {values[-1]:.0f}°" for layer, values in hidden)
        accuracy = 100 * results[rule]["accuracy"][-1]
        print(f"{name}, {rule}: {accuracy:.2f} %, angles {angles}", flush=True)
    return results


class Learner(NamedTuple):
    """What there is to train by a rule."""

    network: nn.Layer
    gradient: Callable
    angles: Callable
    predict: Callable
    given: Callable = lambda x, target: x
    """The input of the network."""


def _parts_of(rule: nn.Layer | local.Rule) -> Learner:
    if isinstance(rule, local.Rule):
        given = rule.labelled if isinstance(rule, local.forward_forward) else lambda x, target: x
        angles, predict = local.objective_angles(rule), jax.jit(rule.predict)
        return Learner(rule.network, rule, angles, predict, given)
    gradient, angles = nn.backprop(rule, LOSS), alignment_angles(rule, LOSS)
    return Learner(rule, gradient, angles, make_predict(rule))


def _learn(problem: Problem, splits: Any, epochs: int, learner: Learner) -> dict[str, Any]:
    (x, target), (x_test, right) = (
        (jnp.asarray(part.x), np.asarray(part.target)) for part in (splits.train, splits.test)
    )
    target = jnp.asarray(target, jnp.int32)
    steps = epochs * steps_per_epoch(len(x), problem.batch_size)
    optimizer = make_optimizer("adam", make_schedule("cosine", problem.learning_rate, steps))
    one = learner.given(x[:1], target[:1])
    train_state = create_state(learner.network, optimizer, jax.random.key(0), one)
    epoch = make_epoch(make_step(learner.gradient, optimizer), problem.batch_size)
    angles_of = jax.jit(learner.angles)
    accuracy, angles = [], {}
    for _ in range(epochs):
        train_state, _ = epoch(train_state, x, target)
        params, state, _, key, _ = train_state
        parts = (x_test[start : start + PROBED] for start in range(0, len(x_test), PROBED))
        found = [np.argmax(learner.predict(params, state, part), 1) for part in parts]
        accuracy.append(float(np.mean(np.concatenate(found) == right)))
        for layer, angle in angles_of(params, state, x[:PROBED], target[:PROBED], key).items():
            angles.setdefault(layer, []).append(float(angle))
    return {"accuracy": accuracy, "angles": angles}


def draw(results: dict[str, Any]) -> Figure:
    """A row for each problem: accuracy, and the mean angle of the hidden layers."""
    figure, axes = style.figure(len(results), 2, height=3.2, squeeze=False)
    for row, (name, by_rule) in zip(axes, results.items(), strict=True):
        for rule, found in by_rule.items():
            epochs = np.arange(1, len(found["accuracy"]) + 1)
            line = "--" if rule == "backprop" else ":" if rule in LOCAL_RULES else "-"
            final = 100 * found["accuracy"][-1]
            accuracy = 100 * np.array(found["accuracy"])
            row[0].plot(epochs, accuracy, line, label=f"{rule}, {final:.1f} %")
            hidden = np.mean(list(found["angles"].values())[:-1], 0)
            row[1].plot(epochs, hidden, line)
        best = 100 * max(by_rule["backprop"]["accuracy"])
        row[0].set(title=name, ylabel="test accuracy (%)", ylim=(best - 18, best + 1))
        row[0].legend(fontsize=6, loc="lower right")
        row[1].axhline(90, color=style.GREY, lw=0.8)
        row[1].set(ylabel="angle to the gradient (°)", ylim=(-3, 125))
        row[1].set_title("hidden layers, mean")
        for place in row:
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place in axes[-1]:
        place.set_xlabel("epoch")
    return figure


if __name__ == "__main__":
    run_script(main)
