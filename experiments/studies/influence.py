"""Wrong labels found by self-influence, and the training images behind a prediction.

python -m experiments.influence --output pictures
python -m experiments.influence --leave-out 20 --output pictures

Labels of a share of the training examples are replaced by others, a network learns them all, and
the examples are ranked by how much each lowers its own loss, ∂lᵀ C⁻¹ ∂l. How many of the wrong ones
stand among the first says whether the ranking is worth a person's time. Then, for test images, the
training images are shown whose loss is bound most to theirs, for better and for worse.

With ``--leave-out`` scores are held against what they foretell: some training examples are left
out, one at a time, the network is trained again without each from the same initial weights and in
the same order, and how the test losses change is compared in rank with the scores (Spearman).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.studies.small_cnn import LOSS, Problem, cnn, learn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from jaxnn import statistics
from jaxnn.core.validation import require_count, require_number, require_positive_integer
from jaxnn.data import Splits
from jaxnn.training import make_predict

LOOKED_AT = 0.1
"""The share of the examples that a person would look at."""
BLOCK = 1000


PROBLEMS = {
    "digits": Problem(
        DataConfig("digits", flatten=False, standardize="all"), lambda: cnn(16, 32, 64), 15
    ),
    "Fashion-MNIST": Problem(
        DataConfig("fashion_mnist", flatten=False, standardize="all"), lambda: cnn(32, 64, 128), 3
    ),
}


@dataclass(frozen=True)
class Options:
    """Find wrong labels by self-influence, and show the training images behind predictions."""

    output: Path
    """The folder for the figure and its numbers."""
    problem: str = "digits"
    """Which data: digits or Fashion-MNIST."""
    examples: int = 10_000
    """At most so many training examples."""
    flipped: float = 0.05
    """The share of them whose labels are replaced."""
    damping: float = 1e-3
    """λ of C + λ I."""
    queries: int = 4
    """How many test images are asked about."""
    epochs: int | None = None
    """In place of the problem's own."""
    leave_out: int = 0
    """How many training examples are left out, one at a time: none, or at least 2 to rank."""
    seeds: int = 5
    """Of how many trainings the changes are averaged, where examples are left out."""
    seed: int = 0
    """Draws weights, and which labels are replaced by what."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    options = parse_options(Options, "influence", arguments)
    require_problems("influence", (options.problem,), PROBLEMS, options.epochs)
    require_positive_integer("influence", "examples", options.examples)
    require_positive_integer("influence", "queries", options.queries)
    _require_few_to_leave_out(options)
    require_positive_integer("influence", "seeds", options.seeds)
    require_number("influence", "flipped", options.flipped, minimum=0, maximum=0.5)
    require_number("influence", "damping", options.damping, minimum=0, open_minimum=True)
    problem = PROBLEMS[options.problem]
    splits = problem.data.load()
    report(
        "influence",
        options.output,
        lambda: trace(problem, splits, options),
        lambda results: draw(results, splits),
        overwrite=options.overwrite,
    )


def _require_few_to_leave_out(options: Options) -> None:
    require_count("influence", "leave_out", options.leave_out)
    if options.leave_out == 1 or options.leave_out > options.examples:
        raise ValueError(
            "influence: expected --leave-out to be 0, or from 2, which have ranks, to "
            f"{options.examples}, as many as --examples says, got {options.leave_out}"
        )


def flip(labels: np.ndarray, share: float, classes: int, seed: int) -> tuple[np.ndarray, Any]:
    """The labels with a share of them replaced by other classes, and which ones."""
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(labels), round(share * len(labels)), replace=False)
    flipped = np.array(labels)
    flipped[chosen] = (flipped[chosen] + generator.integers(1, classes, len(chosen))) % classes
    return flipped, chosen


def trace(problem: Problem, splits: Splits, options: Options) -> dict[str, Any]:
    """Who was found among the wrong ones by each curvature, and who is behind the queries."""
    x = np.asarray(splits.train.x)[: options.examples]
    right = np.asarray(splits.train.target)[: options.examples]
    target, wrong = flip(right, options.flipped, len(splits.train.class_names), options.seed)
    network, training = problem.network(), (x, target)
    optimizer, epochs = optax.adamw(2e-3, weight_decay=1e-2), options.epochs or problem.epochs
    params, state = learn(network, optimizer, x, target, epochs, options.seed)
    accuracy = _accuracy(network, params, state, splits)
    print(f"{len(x)} examples, {len(wrong)} labels replaced: test {100 * accuracy:.2f} %")

    def over_data(compute: Callable, **named: Any) -> statistics.Kronecker:
        blocks = statistics.blocks(x, target, BLOCK)
        return statistics.over_batches(compute)(params, state, blocks, **named)

    kfac = over_data(statistics.kronecker(network, LOSS, empirical=True))
    kfac = jax.jit(statistics.Kronecker.eigh)(kfac)
    ekfac = over_data(statistics.ekfac(network, LOSS, empirical=True), operator=kfac)
    operators = {
        "none": None,
        "K-FAC": kfac.inverse(options.damping),
        "EK-FAC": ekfac.inverse(options.damping),
    }
    own, found = statistics.self_influence(network, LOSS), {}
    is_wrong = np.isin(np.arange(len(x)), wrong)
    first = round(LOOKED_AT * len(x))
    for name, operator in operators.items():
        start = time.perf_counter()
        order = np.argsort(-own(params, state, training, operator=operator))
        hits = np.cumsum(is_wrong[order])
        found[name] = {
            "precision": float(hits[first - 1] / first),
            "recall": float(hits[first - 1] / max(len(wrong), 1)),
            "seconds": time.perf_counter() - start,
            "recalls": (hits / max(len(wrong), 1))[:: max(len(x) // 200, 1)].tolist(),
        }
        print(
            f"{name}: among the first {100 * LOOKED_AT:g} % are {100 * found[name]['recall']:.1f} "
            f"% of the wrong labels, precision {100 * found[name]['precision']:.1f} %"
        )
    return {
        "problem": options.problem,
        "accuracy": accuracy,
        "flipped": len(wrong),
        "examples": len(x),
        "found": found,
        "behind": _behind(network, params, state, splits, training, options, operators["EK-FAC"]),
        "left_out": leave_out(problem, splits, training, options) if options.leave_out else None,
    }


def _behind(
    network: nn.Layer,
    params: Any,
    state: Any,
    splits: Splits,
    training: tuple,
    options: Options,
    operator: Any,
) -> list[dict[str, Any]]:
    """For each query, of those of the largest losses: the most helpful and the most harmful."""
    x, labels = (np.asarray(a) for a in (splits.test.x, splits.test.target))
    prediction = make_predict(network)(params, state, x)
    worst = np.argsort(-np.asarray(LOSS.value(prediction, jnp.asarray(labels))))
    asked = worst[: options.queries]
    start = time.perf_counter()
    scores = statistics.influence_scores(network, LOSS)(
        params, state, (x[asked], labels[asked]), training, operator=operator
    )
    print(f"{scores.size} scores in {time.perf_counter() - start:.1f} s")
    return [
        {
            "query": int(query),
            "label": int(labels[query]),
            "predicted": int(np.argmax(prediction[query])),
            "helped": [int(i) for i in order[:COLUMNS]],
            "hurt": [int(i) for i in order[::-1][:COLUMNS]],
            "labels": {int(i): int(training[1][i]) for i in (*order[:COLUMNS], *order[-COLUMNS:])},
        }
        for query, order in zip(asked, np.argsort(scores, 1), strict=True)
    ]


ASKED = 50
"""Of how many test images the losses are compared where examples are left out."""


def leave_out(
    problem: Problem, splits: Splits, training: tuple, options: Options
) -> dict[str, Any]:
    """How the ranks of scores agree with those of the changes when examples are left out.

    Left out are those that lower their own loss most, by EK-FAC: of others the change would be that
    of rounding. Asked about are the test images of the largest losses. Scores and changes are means
    over the seeds.
    """
    start = time.perf_counter()
    x, target = training
    network, epochs = problem.network(), options.epochs or problem.epochs
    run = trainer(network, x, target, epochs)
    everyone = np.ones(len(x), np.float32)
    keys = [jax.random.key(options.seed + i) for i in range(options.seeds)]
    found = [run(key, everyone) for key in keys]

    def operator_of(params: Any, state: Any) -> Any:
        blocks = list(statistics.blocks(x, target, BLOCK))
        compute = statistics.kronecker(network, LOSS, empirical=True)
        kfac = statistics.over_batches(compute)(params, state, blocks)
        kfac = jax.jit(statistics.Kronecker.eigh)(kfac)
        correct = statistics.over_batches(statistics.ekfac(network, LOSS, empirical=True))
        return correct(params, state, blocks, operator=kfac).inverse(options.damping)

    operators = [operator_of(*one) for one in found]
    own = statistics.self_influence(network, LOSS)
    suspects = np.mean(
        [own(*one, training, operator=o) for one, o in zip(found, operators, strict=True)], 0
    )
    left_out = np.argsort(-suspects)[: options.leave_out]

    x_test, labels = (jnp.asarray(a) for a in (splits.test.x, splits.test.target))
    losses = jax.jit(lambda p, s: LOSS.value(network.predict(p, s, x_test), labels))
    before = np.stack([losses(*one) for one in found])
    asked = np.argsort(-before.mean(0))[:ASKED]
    score = statistics.influence_scores(network, LOSS)
    queries, chosen = (x_test[asked], labels[asked]), (x[left_out], target[left_out])
    scores = {
        name: np.mean(
            [
                score(*one, queries, chosen, operator=o if name == "EK-FAC" else None)
                for one, o in zip(found, operators, strict=True)
            ],
            0,
        )
        for name in ("EK-FAC", "none")
    }
    changes = []
    for index in left_out:
        present = everyone.copy()
        present[index] = 0
        after = [losses(*run(key, present)) for key in keys]
        changes.append(np.stack(after)[:, asked] - before[:, asked])
    change = np.stack(changes).mean(1).T  # [asked, left out]
    ranks: dict[str, Any] = {"examples": left_out.tolist()}
    for name, values in scores.items():
        each = [_rank_correlation(-a, b) for a, b in zip(values, change, strict=True)]
        whole = _rank_correlation(-values.mean(0), change.mean(0))
        print(
            f"{name}: rank correlation with leaving out {options.leave_out} examples, "
            f"{options.seeds} seeds: {np.mean(each):.3f} in the mean of {ASKED} test images, "
            f"{whole:.3f} of their mean loss, in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        ranks[name] = {"each": each, "of the mean loss": whole}
    return ranks


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of numbers that have no ties."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def trainer(network: nn.Layer, x: Any, target: Any, epochs: int, batch_size: int = 64) -> Callable:
    """(key, weights) -> (params, state): a training whose initial weights and order of examples are
    those of the key, so that an example of weight 0 is all that differs."""
    x, target = jnp.asarray(x), jnp.asarray(target, jnp.int32)
    gradient = nn.backprop(network, LOSS)
    size = min(batch_size, len(x))
    steps = epochs * (len(x) // size)
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-2)

    @jax.jit
    def run(key: jax.Array, weights: Any):
        first, second = jax.random.split(key)
        params, state = network.init(first, x[:1])

        def epoch(carried: Any, key: jax.Array):
            order = jax.random.permutation(key, len(x))
            batches = order[: len(x) // size * size].reshape(-1, size)

            def step(carried: Any, indices: Any):
                params, own = carried
                given = x[indices], target[indices], None, weights[indices]
                _, gradients = gradient(params, state, *given)
                updates, own = optimizer.update(gradients, own, params)
                return (optax.apply_updates(params, updates), own), None

            return jax.lax.scan(step, carried, batches)

        keys = jax.random.split(second, epochs)
        return jax.lax.scan(epoch, (params, optimizer.init(params)), keys)[0][0], state

    return run


COLUMNS = 4
"""How many images of each kind are drawn."""


def _accuracy(network: nn.Layer, params: Any, state: Any, splits: Splits) -> float:
    prediction = make_predict(network)(params, state, splits.test.x)
    return float(np.mean(np.argmax(prediction, 1) == splits.test.target))


def draw(results: dict[str, Any], splits: Splits) -> Figure:
    """How many of the wrong labels are found, above the images behind each query."""
    rows, names = len(results["behind"]), splits.train.class_names
    figure = Figure(figsize=(style.WIDTH, 2.6 + 1.15 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 1 + 2 * COLUMNS, height_ratios=(2.6, *[1.15] * rows))
    curves = figure.add_subplot(grid[0, :])
    for name, found in results["found"].items():
        label = f"{name}: {100 * found['recall']:.0f} % in the first {100 * LOOKED_AT:g} %"
        shares = np.linspace(0, 1, len(found["recalls"]))
        curves.plot(shares, found["recalls"], label=label)
    curves.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", label="drawn at random")
    curves.set(
        xlabel="share of the training examples looked at",
        ylabel="share of wrong labels found",
        title=f"{results['problem']}: {results['flipped']} of {results['examples']} labels wrong",
    )
    curves.legend(fontsize=7)
    for row, one in enumerate(results["behind"], 1):
        labels = {int(i): label for i, label in one["labels"].items()}
        places = [figure.add_subplot(grid[row, column]) for column in range(1 + 2 * COLUMNS)]
        _show(places[0], splits.test.x[one["query"]], f"{names[one['label']]}?")
        shown = [("helped", index) for index in one["helped"]]
        shown += [("hurt", index) for index in one["hurt"]]
        for place, (kind, index) in zip(places[1:], shown, strict=True):
            _show(place, splits.train.x[index], f"{kind}: {names[labels[index]]}")
    return figure


def _show(place: Any, image: np.ndarray, title: str) -> None:
    place.imshow(np.asarray(image).squeeze(-1), cmap="gray_r")
    place.set_title(style.shown(title, 16), fontsize=6)
    place.axis("off")


if __name__ == "__main__":
    run_script(main)
