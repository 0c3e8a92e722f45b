"""Perceptrons: logic gates from given weights, from learning, and why XOR needs a hidden layer.

A perceptron is  y = step(w₁x₁ + w₂x₂ + b),  step(z) = 1 if z > 0 else 0: a line cuts the plane.

XOR cannot be cut by one line. It would need  b ≤ 0,  w₁ + b > 0,  w₂ + b > 0,  w₁ + w₂ + b ≤ 0;
the middle two add up to  w₁ + w₂ + b > −b ≥ 0,  which contradicts the last. Two layers do it,
XOR(x) = AND(OR(x), NAND(x)), as one matrix network on (x₁, x₂, 1):

    hidden = step(W₁ (x₁, x₂, 1)ᵀ),  y = step(W₂ hidden),  the third hidden unit being the 1.

Perceptron rule:  Δw = η (t − y) x, one example after the other. It is descent on the criterion
l(z, t) = max(0, −(2t − 1) z), whose gradient by z is step(z) − t.
Gradient descent:  on the cross-entropy of σ(z), whose gradient by z is σ(z) − t.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.gallery.descent import at, descend, on_batch
from experiments.gallery.result import Picture, Result, Table, alone, text
from experiments.support import style

FORMULAS = (
    r"y = \mathrm{step}(w_1 x_1 + w_2 x_2 + b), \quad \mathrm{step}(z) = 1 \text{ if "
    r"} z > 0 \text{ else } 0",
    r"\Delta w = \eta\,(t - y)\,x \quad\text{(perceptron rule)}",
    r"\frac{\partial L}{\partial z} = \sigma(z) - t \quad\text{(gradient descent)}",
)

INPUTS = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], jnp.float32)
WEIGHTS = {"AND": (1, 1, -1), "OR": (1, 1, 0), "NAND": (-1, -1, 1.1)}
TRUTH = {"AND": (0, 0, 0, 1), "OR": (0, 1, 1, 1), "NAND": (1, 1, 1, 0), "XOR": (0, 1, 1, 0)}
XOR_LAYERS = ([[1, 1, 0], [-1, -1, 1.1], [0, 0, 1]], [[1, 1, -1]])

PERCEPTRON = nn.serial(nn.dense(1), nn.heaviside())
LINEAR = nn.dense(1)
HIDDEN = nn.serial(nn.dense(4, weight_init="normal(1.0)"), nn.tanh(), nn.dense(1))
MATRIX_NETWORK = nn.serial(
    nn.dense(3, use_bias=False), nn.heaviside(), nn.dense(1, use_bias=False), nn.heaviside()
)


def gate(name: str, x: jax.Array) -> jax.Array:
    """The output [batch] of a gate with the given weights; XOR as AND(OR(x), NAND(x))."""
    if name == "XOR":
        return gate("AND", jnp.stack([gate("OR", x), gate("NAND", x)], 1))
    *w, b = WEIGHTS[name]
    unit = {"weight": jnp.array(w, x.dtype)[:, None], "bias": jnp.array([b], x.dtype)}
    return PERCEPTRON.predict((unit, ()), ((), ()), x)[:, 0]


def xor_network(x: jax.Array) -> jax.Array:
    """XOR [batch] as the matrix network: two products with a step behind each."""
    first, second = ({"weight": jnp.array(rows, x.dtype).T} for rows in XOR_LAYERS)
    extended = jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)
    return MATRIX_NETWORK.predict((first, (), second, ()), ((),) * 4, extended)[:, 0]


class perceptron_criterion(nn.Loss):
    """max(0, −(2t − 1) z), with the gradient step(z) − t of the perceptron rule."""

    def value(self, prediction: jax.Array, target: jax.Array):
        """[batch]."""
        return jax.nn.relu(-(2 * target - 1) * prediction)[:, 0]

    def gradient(self, prediction: jax.Array, target: jax.Array):
        """[batch, 1]."""
        return (prediction > 0).astype(prediction.dtype) - target


def perceptron_rule(epochs: int = 20, rate: float = 0.5) -> dict[str, np.ndarray]:
    """For each gate the wrong answers of four before each epoch and after the last, from w = 0."""
    compute = nn.backprop(LINEAR, perceptron_criterion())

    @jax.jit
    @jax.vmap
    def walk(target):
        def example(params, pair):
            _, gradient = compute(params, (), *(a[None] for a in pair))
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient), None

        def epoch(params, _):
            wrong = jnp.sum((LINEAR.predict(params, (), INPUTS) > 0) != target)
            return jax.lax.scan(example, params, (INPUTS, target))[0], wrong

        start = {"weight": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}
        return jax.lax.scan(epoch, start, length=epochs + 1)[1]

    return dict(zip(TRUTH, np.asarray(walk(targets())), strict=True))


def targets() -> jax.Array:
    """The truth tables [gates, 4, 1]."""
    return jnp.array(list(TRUTH.values()), jnp.float32)[:, :, None]


class Learned(NamedTuple):
    """What gradient descent made of one gate, from several starts."""

    losses: np.ndarray
    """[starts, steps + 1]."""
    right: np.ndarray
    """[starts, steps + 1], the right answers out of four."""
    best: tuple[Any, Any]
    """Params and state of the start with the smallest loss at the end."""


def learn(network: nn.Layer, starts: int = 20, steps: int = 500) -> dict[str, Learned]:
    """Gradient descent on the cross-entropy of σ(z), for each gate from several starts at once."""
    keys = jax.random.split(jax.random.key(0), starts)
    begin, state = jax.vmap(network.init, (0, None), (0, None))(keys, INPUTS)

    def walk(start, target):
        gradient = on_batch(network, nn.sigmoid_binary_cross_entropy(), state, INPUTS, target)
        trajectory, losses = descend(gradient, optax.sgd(1.0), start, steps)
        answers = jax.vmap(lambda params: network.predict(params, state, INPUTS) > 0)(trajectory)
        return losses, jnp.sum(answers == target, (1, 2)), at(trajectory, -1)

    each_start = jax.vmap(walk, (0, None))
    losses, right, params = jax.jit(jax.vmap(each_start, (None, 0)))(begin, targets())
    best = np.argmin(losses[:, :, -1], 1)
    return {
        name: Learned(
            np.asarray(losses[g]), np.asarray(right[g]), (at(at(params, g), best[g]), state)
        )
        for g, name in enumerate(TRUTH)
    }


def draw_regions(axes, function, name: str) -> None:
    """Colour the plane by what ``function`` answers, with the four inputs on top."""
    side = np.linspace(-0.5, 1.5, 201, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1)
    answer = np.asarray(function(jnp.asarray(grid.reshape(-1, 2)))).reshape(grid.shape[:2])
    axes.contourf(side, side, answer, [-0.5, 0.5, 1.5], colors=[style.SKY, style.ORANGE], alpha=0.4)
    for (x1, x2), t in zip(np.asarray(INPUTS), TRUTH[name], strict=True):
        face = style.VERMILLION if t else style.BLUE
        axes.scatter(x1, x2, 60, face, marker="s" if t else "o", edgecolor="white", zorder=3)
    axes.set(xlabel="x₁", ylabel="x₂", aspect="equal", xticks=[0, 1], yticks=[0, 1])
    axes.grid(False)


def draw_gates() -> Picture:
    """The decision regions of the gates with the given weights."""
    figure, row = style.figure(columns=4, height=2.7)
    for axes, name in zip(row, TRUTH, strict=True):
        draw_regions(axes, partial(gate, name), name)
        axes.set(title=name)
    for colour, marker, answer in ((style.BLUE, "o", 0), (style.VERMILLION, "s", 1)):
        row[0].scatter([], [], 60, colour, marker=marker, label=f"the answer is {answer}")
    figure.legend(loc="outside lower center", ncols=2)
    caption = (
        "Where each gate with the given weights answers 1 (orange) and 0 (blue); squares are "
        "inputs whose answer is 1. XOR is made of the other three."
    )
    return Picture("gates", caption, figure)


def draw_learning(rule: dict, single: dict, hidden: Learned) -> Picture:
    """Mistakes of the perceptron rule, losses of gradient descent, and what was learned."""
    figure, (left, middle, right) = style.figure(columns=3, height=3.0)
    dashes = {"NAND": "--"}  # its curves lie on those of AND
    for name, wrong in rule.items():
        left.plot(wrong, dashes.get(name, "-"))
    left.set(title="perceptron rule", xlabel="epoch", ylabel="wrong answers of 4", yticks=range(5))
    for name, learned in single.items():
        middle.semilogy(np.median(learned.losses, 0), dashes.get(name, "-"), label=name)
    middle.semilogy(
        np.median(hidden.losses, 0), ":", color=style.BLACK, label="XOR, 4 hidden units"
    )
    middle.set(title="gradient descent", xlabel="update", ylabel="cross-entropy (nats)")
    figure.legend(loc="outside lower center", ncols=5)
    draw_regions(right, lambda x: HIDDEN.predict(*hidden.best, x)[:, 0] > 0, "XOR")
    right.set(title="learned XOR, 4 hidden units")
    caption = (
        "Both rules learn AND, OR and NAND; neither learns XOR without a hidden layer. "
        "The losses are medians over 20 random starts."
    )
    return Picture("learning", caption, figure)


def run() -> Result:
    """Gates from given weights, gates learned, and XOR with and without a hidden layer."""
    rule, single, hidden = perceptron_rule(), learn(LINEAR), learn(HIDDEN)["XOR"]
    outputs = [gate(name, INPUTS) for name in TRUTH] + [xor_network(INPUTS)]
    truth = np.concatenate([INPUTS, np.stack(outputs, 1)], 1).astype(int)
    learned = [
        (name, min(rule[name]), single[name].right.max(), single[name].losses[:, -1].mean())
        for name in TRUTH
    ]
    solved = int(np.sum(hidden.right[:, -1] == 4))
    return Result(
        "One perceptron cuts the plane by a line: that is enough for AND, OR and NAND, with given "
        "weights as with learned ones. XOR needs a second cut. A single layer never gets more "
        f"than {single['XOR'].right.max()} of its 4 answers; with four hidden units {solved} of "
        f"{len(hidden.right)} random starts learn all of them.",
        [draw_gates(), draw_learning(rule, single, hidden)],
        [
            Table(
                "Truth tables from the given weights",
                ("x₁", "x₂", *TRUTH, "XOR as a matrix network"),
                list(truth),
            ),
            Table(
                "The given weights",
                ("gate", "w₁", "w₂", "b"),
                [(name, *map(text, weights)) for name, weights in WEIGHTS.items()],
            ),
            Table(
                "XOR as a matrix network, on (x₁, x₂, 1)",
                ("W₁", "W₂"),
                [tuple(np.array(rows) for rows in XOR_LAYERS)],
            ),
            Table(
                "Learned by a single layer",
                (
                    "gate",
                    "fewest wrong, perceptron rule",
                    "most right, gradient descent",
                    "mean loss at its end (nats)",
                ),
                learned,
            ),
        ],
    )


if __name__ == "__main__":
    alone("perceptrons")
