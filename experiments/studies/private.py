"""What privacy costs: accuracy on the test set against ε, one training for each amount of noise.

python -m experiments.private --output pictures
python -m experiments.private fashion_private --noise 1 2 4 --epochs 10 --output pictures

Beside them, as the price's other end, the same network trained without clipping and noise by the
optimiser of the configuration named by --reference.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.support import style
from experiments.support.command_line import Configured, parse_options, run_script, take_config
from experiments.support.comparisons import report
from experiments.support.config import Config, load_config, require_compatible
from experiments.support.held_out import evaluate_on
from experiments.support.modes import gradient_options
from experiments.support.runs import initial_state
from jaxnn.data import Splits
from jaxnn.learning.privacy import epsilon_spent, require_accounting
from jaxnn.training import train

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
    other = load_config(options.reference)
    same = ("optimizer", "learning_rate", "schedule", "weight_decay", "epochs", "batch_size")
    plain = {name: getattr(other, name) for name in same}
    without_privacy = dataclasses.replace(config, gradient="manual", **plain)

    def compute() -> dict[str, Any]:
        points = [_point(config, splits, noise) for noise in options.noise]
        reference = _accuracy(without_privacy, splits)
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


def _point(config: Config, splits: Splits, noise: float) -> dict[str, float]:
    privacy = dataclasses.replace(config.privacy, noise_multiplier=noise)
    config = dataclasses.replace(config, privacy=privacy)
    examples, size = len(splits.train.x), config.batch_size
    accuracy = _accuracy(config, splits)
    settings = config.privacy_of_gradients
    assert settings is not None
    steps = config.epochs * -(-examples // size)
    epsilon = epsilon_spent(settings, examples=examples, batch_size=size, steps=steps)
    print(f"noise {noise:g}: ε = {epsilon:.2f}, accuracy {100 * accuracy:.2f} %", flush=True)
    return {"noise_multiplier": noise, "epsilon": epsilon, "accuracy": accuracy}


def _accuracy(config: Config, splits: Splits) -> float:
    """Of the test set, after training."""
    *_, last = train(
        config.layers,
        config.loss_function,
        config.make_optimizer(len(splits.train.x)),
        initial_state(config, splits),
        splits.train.x,
        config.task(splits).prepare(splits.train.target),
        epochs=config.epochs,
        batch_size=config.batch_size,
        **gradient_options(config, config.layers, config.loss_function),
    )
    return evaluate_on(config, splits.preparation, last.train_state, splits.test)[0]["accuracy"]


if __name__ == "__main__":
    run_script(main)
