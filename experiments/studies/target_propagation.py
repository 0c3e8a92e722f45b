"""Difference target propagation: layers learn from targets that learned inverses bring back.

python -m experiments.target_propagation --output pictures
python -m experiments.target_propagation --problems "Fashion-MNIST" --epochs 5 --output pictures

In place of a derivative, each layer has a target for its output, ĥᵢ, and learns to come closer to
it; the target of the layer before is found with an inverse gᵢ that learns beside the network (Lee
et al., 2015). Every rule trains the same network from the same initial weights with the same
optimiser and the same order of examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxnn as nn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from jaxnn.core.gradients import shares
from jaxnn.core.validation import (
    require_key,
    require_number,
)
from jaxnn.learning.feedback import angles_between
from jaxnn.statistics.trees import scaled
from jaxnn.training import (
    TrainState,
    create_state,
    make_epoch,
    make_optimizer,
    make_predict,
    make_schedule,
    make_step,
    metrics_of,
    steps_per_epoch,
    task_of,
)

PROBED = 1000
"""Of how many training examples the angles are."""


class Problem(NamedTuple):
    """Data, and the hidden layers of a network for them."""

    data: DataConfig
    widths: tuple[int, ...]
    batch_size: int
    epochs: int
    learning_rate: float = 1e-3


PROBLEMS = {
    "digits": Problem(DataConfig("digits"), (128, 128, 128), 32, 60),
    "Fashion-MNIST": Problem(
        DataConfig("fashion_mnist", standardize="all"), (256, 256, 256), 128, 12
    ),
}


class Rule(NamedTuple):
    """Which blocks send their targets back through inverses, and how."""

    inverted: slice
    """Of the blocks."""
    corrected: bool = True
    """Whether by the difference of two reconstructions."""


RULES = {
    "backprop": Rule(slice(0, 0)),
    "difference targets": Rule(slice(1, -1)),
    "difference targets, from the output": Rule(slice(1, None)),
    "targets without the difference": Rule(slice(1, -1), corrected=False),
}


@dataclass(frozen=True)
class Options:
    """Train by backprop and by targets, and draw accuracy and angles."""

    output: Path
    """The folder for the figure and its numbers."""
    problems: tuple[str, ...] = ("digits",)
    """Which problems: digits, Fashion-MNIST."""
    epochs: int | None = None
    """In place of each problem's own."""
    step_size: float = 1.0
    """η̂, how far along the gradient the first target lies."""
    noise: float = 0.3
    """σ, the deviation of the noise that the inverses learn around the activations."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def target_propagation(
    blocks: Sequence[nn.Layer],
    inverses: Sequence[nn.Layer | None],
    loss: nn.Loss,
    *,
    step_size: float,
    noise: float,
    corrected: bool = True,
) -> Callable:
    """A gradient function, whose params and state are pairs: of the blocks, of the inverses.

    With h₀ = x and hᵢ = fᵢ(hᵢ₋₁), the target of the output is hₘ − η̂ ∂L/∂hₘ. From ĥᵢ follows
    ĥᵢ₋₁ = hᵢ₋₁ + gᵢ(ĥᵢ) − gᵢ(hᵢ), which is hᵢ₋₁ itself where ĥᵢ = hᵢ, however bad the inverse is;
    not ``corrected``, ĥᵢ₋₁ = gᵢ(ĥᵢ). Each block descends ½ ‖hᵢ − ĥᵢ‖² / η̂ with its target held
    still: its own backward pass, given δᵢ = (hᵢ − ĥᵢ) / η̂ in place of the cotangent. The nonlinear
    gᵢ makes δᵢ₋₁ nonlinear in δᵢ, which is why this is no `Layer`. Each inverse descends
    ½ ‖gᵢ(fᵢ(h̃)) − h̃‖² at h̃ = hᵢ₋₁ + σ ε, ε ~ N(0, 1), with fᵢ held still.

    Args:
        blocks: f₁ … fₘ, each from an array to an array, without random numbers.
        inverses: For each block its gᵢ, or None for one that sends its own derivative back,
            δᵢ₋₁ = δᵢ ∂fᵢ/∂hᵢ₋₁. Nobody needs that of the first. Lee et al. have None for the last
            one too; None for all of them is backprop.
        loss: Of the output.
        step_size: η̂.
        noise: σ.
        corrected: Whether by the difference of two reconstructions.
    """
    require_number("target_propagation", "step_size", step_size, minimum=0, open_minimum=True)
    require_number("target_propagation", "noise", noise, minimum=0)
    learned = {i: g for i, g in enumerate(inverses) if g is not None}

    def gradient(params: Any, state: Any, x: Array, target: Any, key: Any = None, weights=None):
        forward_params, inverse_params = params
        forward_state, inverse_state = state
        h, new_state, residuals = [x], [], []
        for block, p, s in zip(blocks, forward_params, forward_state, strict=True):
            y, s, kept = block.forward(p, s, h[-1], None)
            h.append(y)
            new_state.append(s)
            residuals.append(kept)

        def learn_inverse(i: int) -> Any:
            noise_key = jax.random.fold_in(require_key("target_propagation", key), i)
            wanted = h[i] + noise * jax.random.normal(noise_key, h[i].shape, h[i].dtype)
            y = blocks[i].predict(forward_params[i], forward_state[i], wanted)
            descend = nn.backprop(learned[i], nn.half_squared_error())
            return descend(inverse_params[i], inverse_state[i], y, wanted, None, weights)[1]

        values = loss.value(h[-1], target)
        share = shares(weights, values)
        delta = loss.gradient(h[-1], target)
        gradients, inverse_gradients = [], []
        for i in reversed(range(len(blocks))):
            dx, captures = blocks[i].backward(forward_params[i], residuals[i], delta)
            gradients.append(nn.contract(scaled(captures, share)))
            if i not in learned:
                delta = dx
                inverse_gradients.append(())
                continue
            g = partial(learned[i].predict, inverse_params[i], inverse_state[i])
            start = g(h[i + 1]) if corrected else h[i]
            delta = (start - g(h[i + 1] - step_size * delta)) / step_size
            inverse_gradients.append(learn_inverse(i))
        updates = tuple(reversed(gradients)), tuple(reversed(inverse_gradients))
        return (jnp.sum(values * share), (tuple(new_state), inverse_state)), updates

    return gradient


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    options = parse_options(Options, "target_propagation", arguments)
    require_problems("target_propagation", options.problems, PROBLEMS, options.epochs)

    def compute() -> dict[str, Any]:
        return {name: compare(name, options) for name in options.problems}

    report("target_propagation", options.output, compute, draw, overwrite=options.overwrite)


def compare(name: str, options: Options) -> dict[str, Any]:
    """For each rule {"accuracy": after every epoch, "angles": {layer: after every epoch}}."""
    problem = PROBLEMS[name]
    splits = problem.data.load()
    results = {}
    for rule in RULES:
        results[rule] = _learn(problem, splits, RULES[rule], options)
        angles = ", ".join(f"{a} {v[-1]:.0f}°" for a, v in results[rule]["angles"].items())
        accuracy = 100 * results[rule]["accuracy"][-1]
        print(f"{name}, {rule}: {accuracy:.2f} %, angles {angles}", flush=True)
    return results


def _learn(problem: Problem, splits: Any, rule: Rule, options: Options) -> dict[str, Any]:
    loss = nn.softmax_cross_entropy()
    classes = len(splits.train.class_names)
    task = task_of(loss, classes)
    (x, target), (x_test, target_test) = (
        (jnp.asarray(part.x), jnp.asarray(task.prepare(part.target)))
        for part in (splits.train, splits.test)
    )
    epochs = options.epochs or problem.epochs
    steps = epochs * steps_per_epoch(len(x), problem.batch_size)
    optimizer = make_optimizer("adam", make_schedule("cosine", problem.learning_rate, steps))

    hidden = (nn.serial(nn.dense(width), nn.tanh()) for width in problem.widths)
    network = nn.serial(*hidden, nn.dense(classes))
    widths = (x.shape[-1], *problem.widths)
    inverses: list[nn.Layer | None] = [None] * len(widths)
    inverses[rule.inverted] = [nn.serial(nn.dense(w), nn.tanh()) for w in widths[rule.inverted]]
    gradient = target_propagation(
        network.parts,
        inverses,
        loss,
        step_size=options.step_size,
        noise=options.noise,
        corrected=rule.corrected,
    )
    params, state, _, key, count = create_state(network, optimizer, jax.random.key(0), x[:1])
    drawn = init_inverses(network.parts, inverses, params, state, key, x[:1])
    params, state = zip((params, state), drawn, strict=True)
    train_state = TrainState(params, state, optimizer.init(params), key, count)

    @jax.jit
    def angles_of(train_state: TrainState) -> dict[str, Array]:
        params, state, _, key, _ = train_state
        probed = x[:PROBED], target[:PROBED], key
        _, (update, _) = gradient(params, state, *probed)
        _, true_gradient = nn.autodiff(network, loss)(params[0], state[0], *probed)
        return angles_between(network, update, true_gradient)

    run_epoch = make_epoch(make_step(gradient, optimizer), problem.batch_size)
    predict = make_predict(network)
    accuracy, angles = [], {}
    for _ in range(epochs):
        train_state, _ = run_epoch(train_state, x, target)
        prediction = predict(train_state.params[0], train_state.state[0], x_test)
        accuracy.append(metrics_of(loss, task, prediction, target_test)["accuracy"])
        for layer, angle in angles_of(train_state).items():
            angles.setdefault(layer, []).append(float(angle))
    return {"accuracy": accuracy, "angles": angles}


def init_inverses(
    blocks: Sequence[nn.Layer],
    inverses: Sequence[nn.Layer | None],
    params: Any,
    state: Any,
    key: Array,
    x: Any,
) -> tuple:
    """The params and the state of every inverse, () where there is none."""
    drawn = []
    for i, (block, g) in enumerate(zip(blocks, inverses, strict=True)):
        x = jax.eval_shape(block.predict, params[i], state[i], x)
        drawn.append(((), ()) if g is None else g.init(jax.random.fold_in(key, i), x))
    return tuple(zip(*drawn, strict=True))


def draw(results: dict[str, Any]) -> Figure:
    """A row for each problem: accuracy, and for each hidden layer the angle to the gradient."""
    hidden = max(len(PROBLEMS[name].widths) for name in results)
    figure, axes = style.figure(len(results), 1 + hidden, height=2.6, squeeze=False)
    for row, (name, by_rule) in zip(axes, results.items(), strict=True):
        for rule, found in by_rule.items():
            accuracy = 100 * np.array(found["accuracy"])
            epochs = np.arange(1, len(accuracy) + 1)
            row[0].plot(epochs, accuracy, label=rule)
            for place, angles in zip(row[1:], found["angles"].values(), strict=False):
                place.plot(epochs, angles)
        best = 100 * max(by_rule["backprop"]["accuracy"])
        row[0].set(title=name, ylabel="test accuracy (%)", ylim=(best - 18, best + 1))
        for number, place in enumerate(row[1:], 1):
            place.axhline(90, color=style.GREY, lw=0.8)
            place.set(title=f"hidden layer {number}", ylim=(-5, 185), yticks=range(0, 181, 45))
        row[1].set_ylabel("angle to the gradient (°)")
    for place in axes[-1]:
        place.set_xlabel("epoch")
        place.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    run_script(main)
