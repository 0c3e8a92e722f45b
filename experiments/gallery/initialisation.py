"""Initialisation: symmetry that never breaks, and scales that fade or saturate.

Two hidden units with equal weights in and out compute the same value and receive the same gradient,

    ∂L/∂W₁[:, j] = xᵀ((δ W₂[j, :]ᵀ) ⊙ f'(uⱼ)),   equal for equal W₁[:, j] and W₂[j, :],

so gradient descent keeps them equal for ever: the layer is worth one unit. With all weights 0 not
even that one learns, for δ W₂ᵀ = 0 and f(0) = 0. Random weights break the symmetry.

Their scale: with independent weights of variance v, u = Σᵢ xᵢ wᵢ over n inputs has n v times the
variance of x. It stays the same for v = 1/n; Xavier's 2/(n + m) also looks at the m outputs and the
way back, He's 2/n makes up for the half that ReLU cuts off. Smaller weights let the activations
fade from layer to layer; larger ones drive tanh to ±1, where its slope is 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.gallery.descent import descend, on_batch
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style
from jaxnn.data import load

FORMULAS = (
    r"\frac{\partial L}{\partial W_1[:, j]} = x^\top \left( \delta\, W_2[j, :]^\top "
    r"\odot f'(u_j) \right)",
    r"\mathrm{Var}(u) = n\, v\, \mathrm{Var}(x), \quad v = \frac{1}{n}, \; \frac{2}{n "
    r"+ m}\;\text{(Xavier)}, \; \frac{2}{n}\;\text{(He)}",
)

HIDDEN, LAYERS, EXAMPLES = 64, 5, 400
INITIALISERS = {
    "zeros": "zeros",
    "N(0, 0.01²)": "normal(0.01)",
    "N(0, 1)": "normal(1.0)",
    "Xavier": "glorot",
    "He": "he",
}
SYMMETRIC = {
    "all 0": "zeros",
    "all 0.1": jax.nn.initializers.constant(0.1),
    "N(0, 0.01²)": "normal(0.01)",
}
ACTIVATIONS = {"tanh": nn.tanh, "ReLU": nn.relu}


class Digits(NamedTuple):
    """Standardised digits, x [examples, 64] and labels: those to learn, and those held out."""

    x: jax.Array
    target: jax.Array
    other_x: jax.Array
    other_target: jax.Array


def batch() -> Digits:
    """`EXAMPLES` training examples, and the test examples."""
    splits = load("digits", standardize="all")
    few = splits.train.x[:EXAMPLES], splits.train.target[:EXAMPLES]
    return Digits(*map(jnp.asarray, (*few, splits.test.x, splits.test.target)))


def hidden_layers(activation: str, weight_init: str) -> list[nn.Layer]:
    """`LAYERS` hidden layers, each a network of its own."""
    f = ACTIVATIONS[activation]
    return [nn.serial(nn.dense(HIDDEN, weight_init=weight_init), f()) for _ in range(LAYERS)]


def activations(activation: str, weight_init: str, x: jax.Array) -> list[np.ndarray]:
    """What every hidden layer returns before training."""
    values = []
    for index, layer in enumerate(hidden_layers(activation, weight_init)):
        params, state = layer.init(jax.random.key(index), x)
        x = layer.predict(params, state, x)
        values.append(np.asarray(x))
    return values


class Training(NamedTuple):
    """Full-batch descent of the tanh network from one start; arrays are [steps + 1]."""

    losses: np.ndarray
    held_out: np.ndarray
    """The losses of examples that it never saw."""
    accuracy: float
    """On these, at the end."""


def train(digits: Digits, steps: int = 200) -> dict[str, Training]:
    """The descent from each initialisation."""
    loss = nn.softmax_cross_entropy()

    def network(weight_init):
        return nn.serial(*hidden_layers("tanh", weight_init), nn.dense(10, weight_init=weight_init))

    starts = [network(w).init(jax.random.key(0), digits.x) for w in INITIALISERS.values()]
    state = starts[0][1]
    objective = on_batch(network("zeros"), loss, state, digits.x, digits.target)

    @jax.jit
    @jax.vmap
    def run(params):
        trajectory, losses = descend(objective, optax.sgd(0.1), params, steps)

        def held_out(params):
            logits = network("zeros").predict(params, state, digits.other_x)
            right = jnp.argmax(logits, -1) == digits.other_target
            return loss.value(logits, digits.other_target).mean(), right.mean()

        others, accuracies = jax.lax.map(held_out, trajectory)
        return losses, others, accuracies[-1]

    found = run(jax.tree.map(lambda *a: jnp.stack(a), *(params for params, _ in starts)))
    rows = zip(INITIALISERS, *map(np.asarray, found), strict=True)
    return {name: Training(own, others, float(right)) for name, own, others, right in rows}


def spread(x: jax.Array, target: jax.Array, steps: int = 200) -> dict[str, np.ndarray]:
    """The largest difference between two hidden units' weights, step by step, one hidden layer."""

    def network(weight_init):
        return nn.serial(
            nn.dense(16, weight_init=weight_init), nn.tanh(), nn.dense(10, weight_init=weight_init)
        )

    starts = [network(w).init(jax.random.key(0), x)[0] for w in SYMMETRIC.values()]
    objective = on_batch(network("zeros"), nn.softmax_cross_entropy(), ((),) * 3, x, target)

    @jax.jit
    @jax.vmap
    def run(params):
        trajectory, _ = descend(objective, optax.sgd(0.1), params, steps)
        weight = trajectory[0]["weight"]
        return jnp.max(jnp.max(weight, 2) - jnp.min(weight, 2), 1)

    widths = run(jax.tree.map(lambda *a: jnp.stack(a), *starts))
    return dict(zip(SYMMETRIC, np.asarray(widths), strict=True))


def draw_histograms(x: jax.Array) -> Picture:
    """Histograms of tanh activations: a row for each initialisation, a column for each layer."""
    figure, grid = style.figure(len(INITIALISERS), LAYERS, height=1.2, sharex=True)
    for row, (name, weight_init) in zip(grid, INITIALISERS.items(), strict=True):
        for index, values in enumerate(activations("tanh", weight_init, x)):
            weights = np.full(values.size, 100 / values.size)
            row[index].hist(values.ravel(), np.linspace(-1, 1, 41), weights=weights)
            row[index].set(xlim=(-1.05, 1.05))
            deviation = f"σ = {values.std():.1g}"
            row[index].set_title(deviation, fontsize=7, loc="right", pad=1)
        row[0].set(ylabel=f"{name}\nshare [%]")
    for index, (top, bottom) in enumerate(zip(grid[0], grid[-1], strict=True)):
        top.set_title(f"layer {index + 1}", loc="left")
        bottom.set(xlabel="activation")
    caption = (
        "The activations of five tanh layers on digits, before training, with their deviation σ: "
        "what fades lies in one bar long before it is 0. Every panel has its own scale."
    )
    return Picture("histograms", caption, figure)


def draw_training(trained: dict[str, Training], widths: dict[str, np.ndarray]) -> Picture:
    """Training curves, those of held-out examples, and how far the hidden units differ."""
    figure, (left, right) = style.figure(columns=2, height=3.2)
    for name, own in trained.items():
        dash = "--" if name == "N(0, 0.01²)" else "-"  # on top of the zeros
        (line,) = left.semilogy(
            own.losses, dash, label=name, linewidth=4 if name == "zeros" else 1.6
        )
        left.semilogy(own.held_out, ":", color=line.get_color(), linewidth=1.6)
    left.set(xlabel="step", ylabel="cross-entropy [nats]")
    for name, values in widths.items():
        dash = "--" if name == "all 0.1" else "-"
        right.plot(values, dash, label=name, linewidth=4 if name == "all 0" else 1.6)
    right.set(xlabel="step", ylabel="largest difference of units")
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    return Picture(
        "training",
        "Left: the loss of the five-layer network from each start, of the examples that it learns "
        "and (dotted) of others. Right: how far the 16 units of "
        "a single hidden layer differ; equal units stay equal.",
        figure,
    )


def run() -> Result:
    """Activations, training curves and symmetry for five initialisations."""
    digits = batch()
    x, target = digits.x, digits.target
    trained, widths = train(digits), spread(x, target)
    small, large = trained["N(0, 0.01²)"], trained["N(0, 1)"]
    deviations = {
        (f, name): [float(np.std(v)) for v in activations(f, weight_init, x)]
        for f in ACTIVATIONS
        for name, weight_init in INITIALISERS.items()
    }
    return Result(
        "With equal weights all hidden units stay copies of one another. Weights that are too "
        "small let the activations fade from layer to layer: N(0, 0.01²), which the notes use for "
        f"shallow networks, is still at {small.losses[-1]:.4g} here, five layers deep. Too large "
        "ones saturate tanh: training fits its few examples, but of others "
        f"{100 * large.accuracy:.0f} % are right, {100 * trained['Xavier'].accuracy:.0f} % from "
        "Xavier's scale. Xavier's and He's keep every layer alive from the start.",
        [draw_histograms(x), draw_training(trained, widths)],
        [
            Table(
                "Standard deviation of the activations, by layer",
                ("activation", "start", *(f"layer {i + 1}" for i in range(LAYERS))),
                [(*names, *(f"{d:.3g}" for d in row)) for names, row in deviations.items()],
            ),
            Table(
                "Training",
                ("start", "first loss", "last loss", "held out, last loss", "held out, right"),
                [
                    (
                        name,
                        *(f"{v:.4g}" for v in (own.losses[0], own.losses[-1], own.held_out[-1])),
                        f"{own.accuracy:.1%}",
                    )
                    for name, own in trained.items()
                ],
            ),
            Table(
                "Largest difference between two hidden units",
                ("start", "before", "after"),
                [(name, f"{v[0]:.3g}", f"{v[-1]:.3g}") for name, v in widths.items()],
            ),
        ],
    )


if __name__ == "__main__":
    alone("initialisation")
