"""How far a network's probabilities can be relied on, before and after the Laplace approximation.

python -m experiments.uncertainty --output pictures

A network is trained, and a normal distribution put around its weights (Kronecker, diagonal, or of
the last layer alone), with the prior precision of the largest evidence, which takes no further
data, or of the smallest log-loss on validation examples. Its probabilities are held
against how often they come true (the expected calibration error, Guo et al., 2017), and against
images that are none of the classes: noise with the same pixels, and the same images turned.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments.studies.small_cnn import LOSS, Problem, cnn, learn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from jaxnn import statistics
from jaxnn.core.validation import require_positive_integer
from jaxnn.data import Splits
from jaxnn.data.optional import require_library

GRID = tuple(10.0 ** (k / 2) for k in range(-6, 9))
"""Prior precisions that are tried on validation examples."""
BINS, BLOCK, PROBED = 10, 250, 500


PROBLEMS = {
    "digits": Problem(
        DataConfig(
            "digits",
            flatten=False,
            standardize="all",
            test_fraction=0.4,
            validation_fraction=0.2,
        ),
        lambda: cnn(8, 16, 32),
        40,
    ),
    "Fashion-MNIST": Problem(
        DataConfig("fashion_mnist", flatten=False, standardize="all", validation_fraction=0.1),
        lambda: cnn(8, 16, 32),
        3,
    ),
}
POSTERIORS: dict[str, dict[str, Any]] = {
    "Kronecker": {"curvature": "kronecker"},
    "diagonal": {"curvature": "diagonal"},
    "last layer": {"curvature": "full", "last_layer": True},
}


@dataclass(frozen=True)
class Options:
    """Calibration and foreign images, for a network and for its Laplace approximations."""

    output: Path
    """The folder for the figure and its numbers."""
    problem: str = "digits"
    """Which data: digits or Fashion-MNIST."""
    examples: int = 10_000
    """At most so many training examples, and so many of the test."""
    epochs: int | None = None
    """In place of the problem's own."""
    seed: int = 0
    """Draws weights and noise."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    options = parse_options(Options, "uncertainty", arguments)
    require_problems("uncertainty", (options.problem,), PROBLEMS, options.epochs)
    require_positive_integer("uncertainty", "examples", options.examples)
    problem = PROBLEMS[options.problem]

    def compute() -> dict[str, Any]:
        splits = problem.data.load()
        return {"problem": options.problem, **compare(problem, splits, options)}

    report("uncertainty", options.output, compute, draw, overwrite=options.overwrite)


def compare(problem: Problem, splits: Splits, options: Options) -> dict[str, Any]:
    """Calibration, log-likelihood and what is told apart, for each way to predict."""
    x, target = (jnp.asarray(a)[: options.examples] for a in (splits.train.x, splits.train.target))
    asked, labels = (np.asarray(a)[: options.examples] for a in (splits.test.x, splits.test.target))
    network = problem.network()
    epochs = options.epochs or problem.epochs
    params, state = learn(network, optax.adam(2e-3), x, target, epochs, options.seed)
    foreign = {"noise": noise_like(asked, options.seed), "turned": np.rot90(asked, axes=(1, 2))}

    validation = splits.validation
    held = jnp.asarray(validation.x)[:PROBED], jnp.asarray(validation.target)[:PROBED]

    def of_network(x: np.ndarray) -> jax.Array:
        return jax.nn.softmax(network.predict(params, state, x))

    ways: dict[str, Callable] = {"network": of_network}
    precisions = {}
    for name, chosen in POSTERIORS.items():
        fit = statistics.laplace(network, LOSS, **chosen)
        posterior = fit(params, state, statistics.blocks(x, target, BLOCK))
        priors = {"evidence": posterior.maximized(), "validation": posterior.validated(*held, GRID)}
        for prior, chosen_posterior in priors.items():
            precisions[f"{name}, {prior}"] = float(chosen_posterior.prior_precision)
            ways[f"{name}, {prior}"] = chosen_posterior.probabilities
    results = {}
    for name, way in ways.items():
        program = jax.jit(way)
        known = _in_blocks(program, asked)
        results[name] = judge(known, labels) | {
            kind: told_apart(known, _in_blocks(program, images)) for kind, images in foreign.items()
        }
        print(
            f"{name}: accuracy {100 * results[name]['accuracy']:.2f} %, calibration error "
            f"{100 * results[name]['calibration_error']:.2f} %, log-loss "
            f"{results[name]['log_loss']:.4f}, told apart from noise "
            f"{results[name]['noise']:.3f}, from turned images {results[name]['turned']:.3f}"
        )
    return {"ways": results, "prior_precision": precisions}


def noise_like(images: np.ndarray, seed: int) -> np.ndarray:
    """Images with the same pixels, each image's in an order of their own."""
    flat = images.reshape(len(images), -1)
    return np.random.default_rng(seed).permuted(flat, axis=1).reshape(images.shape)


def judge(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, log-loss, and how often what is said with some confidence is right.

    The calibration error is Σ_k n_k / n |accuracy_k − confidence_k| over bins of the confidence,
    the largest probability, of equal width.
    """
    confidence, said = probabilities.max(1), probabilities.argmax(1)
    right = said == labels
    bins = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    some = np.maximum(counts, 1)
    accuracies = np.bincount(bins, right, minlength=BINS) / some
    confidences = np.bincount(bins, confidence, minlength=BINS) / some
    own = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    return {
        "accuracy": float(right.mean()),
        "log_loss": float(-np.mean(np.log(own))),
        "calibration_error": float(np.sum(counts * np.abs(accuracies - confidences)) / len(labels)),
        "counts": counts.tolist(),
        "accuracies": accuracies.tolist(),
        "confidences": confidences.tolist(),
    }


def told_apart(known: np.ndarray, foreign: np.ndarray) -> float:
    """The area under the ROC curve of the largest probability: how often that of an image of the
    data is larger than that of a foreign one."""
    scores = np.concatenate([known.max(1), foreign.max(1)])
    truth = np.repeat([1, 0], [len(known), len(foreign)])
    metrics = require_library("sklearn.metrics", "the area under the ROC curve")
    return float(metrics.roc_auc_score(truth, scores))


def _in_blocks(program: Callable, images: np.ndarray) -> np.ndarray:
    parts = (program(images[i : i + BLOCK]) for i in range(0, len(images), BLOCK))
    return np.concatenate([np.asarray(part) for part in parts])


def draw(results: dict[str, Any]) -> Figure:
    """A reliability diagram beside how well foreign images are told apart."""
    figure, (left, right) = style.figure(columns=2, height=3.4)
    left.plot([0, 1], [0, 1], color=style.GREY, linestyle=":")
    for name, way in results["ways"].items():
        filled = np.asarray(way["counts"]) > 0
        confidences, accuracies = (
            np.asarray(way[k])[filled] for k in ("confidences", "accuracies")
        )
        label = f"{name}: error {100 * way['calibration_error']:.1f} %"
        left.plot(confidences, accuracies, marker=".", label=label)
    left.set(xlabel="confidence", ylabel="accuracy", title=f"{results['problem']}: what comes true")
    left.legend(fontsize=6)
    kinds, width = ("noise", "turned"), 0.8 / len(results["ways"])
    for index, (name, way) in enumerate(results["ways"].items()):
        places = np.arange(len(kinds)) + width * (index - (len(results["ways"]) - 1) / 2)
        right.bar(places, [way[kind] for kind in kinds], width, label=name)
    right.set_xticks(range(len(kinds)), ["noise", "turned images"])
    right.set(ylabel="area under the ROC curve", ylim=(0.5, 1), title="foreign images told apart")
    return figure


if __name__ == "__main__":
    run_script(main)
