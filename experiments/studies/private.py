"""What privacy costs: accuracy on the test set against ε, one training for each amount of noise.

python -m experiments.private --output pictures
python -m experiments.private fashion_private --noise 1 2 4 --epochs 10 --output pictures

Beside them, as the price's other end, the same network trained without clipping and noise by the
optimiser of the configuration named by --reference.

With --canaries 1000, so many training examples get wrong labels, and half of them, drawn at random,
are left out. Which ones, can be guessed by how far the losses of those labels fell in training; how
often that is right is a lower bound on ε (Steinke, Nasr and Jagielski, 2023).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.support import style
from experiments.support.command_line import Configured, parse_options, run_script, take_config
from experiments.support.comparisons import report
from experiments.support.config import Config, load_config, require_compatible
from experiments.support.held_out import evaluate_on
from experiments.support.modes import gradient_options
from experiments.support.runs import initial_state
from jaxnn.core.validation import require_integer
from jaxnn.data import Splits
from jaxnn.learning.privacy import audit, epsilon_spent, require_accounting
from jaxnn.training import TrainState, make_predict, train

USES = (
    *("network", "loss", "optimizer", "learning_rate", "schedule", "weight_decay", "clip_norm"),
    *("epochs", "batch_size", "gradient", "privacy", "precision", "seed", "data"),
)
"""Of a configuration."""


@dataclass(frozen=True)
class Options:
    """Train with several amounts of noise, and draw accuracy against ε."""

    output: Path
    """The folder for the figure and its numbers."""
    config: Configured
    noise: tuple[float, ...] = (8.0, 4.0, 2.0, 1.2, 0.8)
    """Noise multipliers."""
    canaries: int = 0
    """Examples with wrong labels, to audit the budget by."""
    reference: str = "fashion_mlp"
    """The configuration whose optimiser, rate, schedule and batch size the reference has."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    named = bool(arguments) and not arguments[0].startswith("-")
    name, config, arguments = take_config(arguments if named else ["fashion_private", *arguments])
    options = parse_options(
        Options, "private [CONFIG]", arguments, USES, config=config, output=Path("pictures")
    )
    config = options.config
    if config.privacy_of_gradients is None:
        raise ValueError(f"private: expected a configuration with private gradients, got {name}")
    require_accounting()
    splits = config.load()
    require_compatible(config, splits)
    require_integer("private", "canaries", options.canaries, 0, len(splits.train.target))
    canaries = _canaries(config, splits, options.canaries) if options.canaries else None
    other = load_config(options.reference)
    same = ("optimizer", "learning_rate", "schedule", "weight_decay", "epochs", "batch_size")
    plain = {name: getattr(other, name) for name in same}
    without_privacy = dataclasses.replace(config, gradient="manual", **plain)

    def compute() -> dict[str, Any]:
        points = [_point(config, splits, noise, canaries) for noise in options.noise]
        reference = _accuracy(without_privacy, splits, _trained(without_privacy, splits))
        print(f"without privacy: {100 * reference:.2f} %")
        return {
            "config": name,
            "delta": config.privacy.delta,
            "points": points,
            "reference": reference,
        }

    report("private", options.output, compute, draw, overwrite=options.overwrite)


def draw(results: dict) -> Figure:
    """Accuracy against ε."""
    figure, axes = style.figure()
    points = sorted(results["points"], key=lambda point: point["epsilon"])
    epsilons = [point["epsilon"] for point in points]
    axes.plot(epsilons, [100 * p["accuracy"] for p in points], marker="o", label="private")
    for point in points:
        axes.annotate(
            f"σ = {point['noise_multiplier']:g}",
            (point["epsilon"], 100 * point["accuracy"]),
            textcoords="offset points",
            xytext=(6, -11),
            fontsize=8,
        )
    axes.axhline(100 * results["reference"], color=style.GREY, ls="--", label="not private")
    axes.margins(x=0.1, y=0.15)
    axes.set(
        xscale="log",
        xlabel=f"privacy budget ε, for δ = {results['delta']:g}",
        ylabel="accuracy (%)",
        title=f"{results['config']}: the test set",
    )
    axes.set_xticks(epsilons, [f"{epsilon:.2g}" for epsilon in epsilons])
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return figure


class Canaries(NamedTuple):
    """Examples by which a budget is audited."""

    x: Any
    target: Any
    included: np.ndarray
    """Which of them are among the training data."""
    others: np.ndarray
    """The indices of the training examples that are none."""


def _canaries(config: Config, splits: Splits, count: int) -> Canaries:
    """Training examples with labels that are not theirs; each is included by a fair coin."""
    classes = splits.preparation.class_names
    if not classes:
        raise ValueError(
            "private: expected data with classes where canaries are given, whose labels are wrong"
        )
    drawing = np.random.default_rng(config.seed)
    chosen = drawing.choice(len(splits.train.target), count, replace=False)
    shift = drawing.integers(1, len(classes), count)
    target = (np.asarray(splits.train.target)[chosen] + shift) % len(classes)
    included = drawing.random(count) < 0.5
    others = np.setdiff1d(np.arange(len(splits.train.target)), chosen)
    return Canaries(np.asarray(splits.train.x)[chosen], target, included, others)


def _with_canaries(splits: Splits, canaries: Canaries) -> Splits:
    train, there = splits.train, canaries.included
    x = np.concatenate([train.x[canaries.others], canaries.x[there]])
    target = np.concatenate([train.target[canaries.others], canaries.target[there]])
    return splits._replace(train=train._replace(x=x, target=target.astype(train.target.dtype)))


def _audited(config: Config, splits: Splits, canaries: Canaries, trained: Any) -> float:
    """The lower bound on ε that the canaries' losses give."""
    target = config.task(splits).prepare(canaries.target)

    def losses(train_state: Any) -> np.ndarray:
        prediction = make_predict(config.layers)(train_state.params, train_state.state, canaries.x)
        return np.asarray(config.loss_function.value(prediction, jnp.asarray(target)))

    fallen = losses(initial_state(config, splits)) - losses(trained)
    guesses = max(len(canaries.included) // 5, 1)  # said before any score was seen
    return audit(fallen, canaries.included, delta=config.privacy.delta, guesses=guesses).epsilon


def _point(
    config: Config, splits: Splits, noise: float, canaries: Canaries | None
) -> dict[str, float]:
    privacy = dataclasses.replace(config.privacy, noise_multiplier=noise)
    config = dataclasses.replace(config, privacy=privacy)
    if canaries is not None:
        splits = _with_canaries(splits, canaries)
    examples, size = len(splits.train.target), config.batch_size
    trained = _trained(config, splits)
    accuracy = _accuracy(config, splits, trained)
    settings = config.privacy_of_gradients
    assert settings is not None
    steps = config.epochs * -(-examples // size)
    epsilon = epsilon_spent(settings, examples=examples, batch_size=size, steps=steps)
    found = {"noise_multiplier": noise, "epsilon": epsilon, "accuracy": accuracy}
    shown = ""
    if canaries is not None:
        found["audited"] = _audited(config, splits, canaries, trained)
        shown = f", canaries show at least {found['audited']:.2f}"
    print(f"noise {noise:g}: ε = {epsilon:.2f}{shown}, accuracy {100 * accuracy:.2f} %", flush=True)
    return found


def _trained(config: Config, splits: Splits) -> TrainState:
    *_, last = train(
        config.layers,
        config.loss_function,
        config.make_optimizer(len(splits.train.target)),
        initial_state(config, splits),
        splits.train.x,
        config.task(splits).prepare(splits.train.target),
        epochs=config.epochs,
        batch_size=config.batch_size,
        **gradient_options(config, config.layers, config.loss_function),
    )
    return last.train_state


def _accuracy(config: Config, splits: Splits, trained: TrainState) -> float:
    """Of the test set."""
    return evaluate_on(config, splits.preparation, trained, splits.test)[0]["accuracy"]


if __name__ == "__main__":
    run_script(main)
