"""Three networks by hand: every value forward, and every gradient back.

Forward, layer by layer:  u = h W + b,  h' = f(u).
Back, from the loss L, with δ for ∂L/∂u:

    δ_last = ∂L/∂y · f'(u_last),   ∂L/∂W = hᵀ δ,   ∂L/∂b = δ,   ∂L/∂h = δ Wᵀ,   δ = ∂L/∂h · f'(u).

The notes write W x with one row of W for each output; matrices are printed that way here, which is
the transpose of the weight [in, out] that `jaxnn.dense` holds. Everything is in float64.

For every step back, the value of ∂L/∂(that layer's input) is also found without any derivation:
by `jax.grad` through the layers above, and by differences (L(x + h) − L(x − h)) / 2h.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"u = h W + b, \quad h' = f(u)",
    r"\delta = \frac{\partial L}{\partial h'} \odot f'(u), \quad \frac{\partial "
    r"L}{\partial h} = \delta\, W^\top",
    r"\frac{\partial L}{\partial W} = h^\top \delta, \quad \frac{\partial L}{\partial "
    r"b} = \delta",
)


class Example(NamedTuple):
    """A worked network of the notes, its weights as rows for each output."""

    name: str
    layers: Sequence[nn.Layer]
    weights: Sequence
    biases: Sequence
    x: Sequence[float]
    values: Sequence[str]
    """What the notes call the output of each layer."""


FIRST = Example(
    "2-3-2-2, sigmoid, sigmoid, identity",
    (nn.dense(3), nn.sigmoid(), nn.dense(2), nn.sigmoid(), nn.dense(2)),
    (
        [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
        [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
        [[0.1, 0.2], [0.3, 0.4]],
    ),
    ([0.1, 0.2, 0.3], [0.1, 0.2], [0.1, 0.2]),
    (1.0, 0.5),
    ("u1", "z1", "u2", "z2", "y"),
)
_WEIGHTS = ([[3, 1, 2], [-2, -3, -1]], [[3, 2]])
SECOND = Example(
    "3-2-1, ReLU, identity",
    (nn.dense(2), nn.relu(), nn.dense(1)),
    _WEIGHTS,
    ([0, 0], [0]),
    (2, 3, 1),
    ("u1", "h1", "y"),
)
THIRD = Example(
    "3-2-1, sigmoid, sigmoid",
    (nn.dense(2), nn.sigmoid(), nn.dense(1), nn.sigmoid()),
    _WEIGHTS,
    ([0, 0], [0]),
    (2, 3, 1),
    ("u1", "h1", "u2", "y"),
)
TARGET = 20.0
"""What the notes ask of the second and third network, with the loss (t − y)²."""


def parameters(example: Example) -> tuple:
    """The params of ``nn.serial(*example.layers)``."""
    given = zip(example.weights, example.biases, strict=True)
    dense = [
        {"weight": jnp.array(w, jnp.float64).T, "bias": jnp.array(b, jnp.float64)} for w, b in given
    ]
    return tuple(dense.pop(0) if isinstance(layer, nn.dense) else () for layer in example.layers)


def forward_values(example: Example) -> dict[str, np.ndarray]:
    """The output of every layer, by the name the notes give it."""
    with jax.enable_x64(True):
        values, h = {}, jnp.array([example.x], jnp.float64)
        for name, layer, p in zip(example.values, example.layers, parameters(example), strict=True):
            h = layer.predict(p, (), h)
            values[name] = np.asarray(h[0])
        return values


def squared_error(example: Example) -> float:
    """(t − y)² of an example's output."""
    with jax.enable_x64(True):
        y = jnp.asarray(forward_values(example)["y"])[None]
        return float(nn.sum_squared_error().value(y, jnp.full_like(y, TARGET))[0])


class Step(NamedTuple):
    """One quantity of the backward pass, found in three ways."""

    quantity: str
    backward: np.ndarray
    autodiff: np.ndarray
    differences: np.ndarray


def backward_steps(example: Example) -> list[Step]:
    """∂L/∂ of every value, from the output down, then of every weight and bias."""
    with jax.enable_x64(True):
        return _value_steps(example) + _parameter_steps(example)


def _value_steps(example: Example) -> list[Step]:
    loss, params, layers = nn.sum_squared_error(), parameters(example), example.layers
    h, inputs, kept = jnp.array([example.x], jnp.float64), [], []
    for layer, p in zip(layers, params, strict=True):
        inputs.append(h)
        h, _, residuals = layer.forward(p, (), h, None)
        kept.append(residuals)
    inputs.append(h)
    target = jnp.full_like(h, TARGET)

    steps, delta = [], loss.gradient(h, target)
    for index in reversed(range(len(inputs))):
        if index < len(layers):
            delta, _ = layers[index].backward(params[index], kept[index], delta)

        def rest(h, index=index):
            for layer, p in zip(layers[index:], params[index:], strict=True):
                h = layer.predict(p, (), h)
            return loss.value(h, target)[0]

        at = inputs[index]
        nudges = 1e-6 * jnp.eye(at.size)[:, None, :]
        differences = jnp.array([(rest(at + n) - rest(at - n)) / 2e-6 for n in nudges])
        name = ("x", *example.values)[index]
        autodiff = jax.grad(rest)(at)
        steps.append(Step(f"∂L/∂{name}", *map(np.asarray, (delta[0], autodiff[0], differences))))
    return steps


def _parameter_steps(example: Example) -> list[Step]:
    network, loss = nn.serial(*example.layers), nn.sum_squared_error()
    params, state = parameters(example), ((),) * len(example.layers)
    batch = (jnp.array([example.x], jnp.float64), jnp.full((1, 1), TARGET))
    ways = [
        way(network, loss)(params, state, *batch)[1]
        for way in (nn.backprop, nn.autodiff, nn.numerical)
    ]
    dense = [index for index, p in enumerate(params) if p]
    return [
        Step(f"∂L/∂{letter}{number}", *(np.asarray(gradient[index][name].T) for gradient in ways))
        for number, index in reversed(list(enumerate(dense, 1)))
        for letter, name in (("W", "weight"), ("b", "bias"))
    ]


def draw_network(
    axes, columns: Sequence[np.ndarray], weights: Sequence, labels: Sequence, sums: Any = None
) -> None:
    """Units as boxes that hold their values, weights as lines that carry theirs; ``sums`` are what
    entered the units of a column, or None."""
    places = [
        [(column, (len(values) - 1) / 2 - row) for row in range(len(values))]
        for column, values in enumerate(columns)
    ]
    for left, right, matrix in zip(places[:-1], places[1:], weights, strict=True):
        for (x1, y1), row in zip(right, matrix, strict=True):
            for k, ((x0, y0), w) in enumerate(zip(left, row, strict=True)):
                colour = style.VERMILLION if w < 0 else style.BLUE
                axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1, zorder=1)
                along = 0.3 + 0.2 * k  # apart, where lines cross
                place = (x0 + along * (x1 - x0), y0 + along * (y1 - y0))
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                axes.text(
                    *place, _shown(w), fontsize=7, color=colour, bbox=box, ha="center", va="center"
                )
    for column, (values, spots) in enumerate(zip(columns, places, strict=True)):
        for row, (value, (x, y)) in enumerate(zip(values, spots, strict=True)):
            box, text = {"facecolor": "white", "boxstyle": "round,pad=0.6"}, _shown(value)
            if sums and sums[column] is not None:
                text = f"u = {_shown(sums[column][row])}\n{text}"
            axes.text(x, y, text, fontsize=8, bbox=box, ha="center", va="center")
        axes.text(column, -1.72, labels[column], ha="center")
    axes.set(xlim=(-0.35, len(columns) - 0.65), ylim=(-1.85, 1.5), xticks=[], yticks=[])
    axes.axis("off")


def _shown(value: float) -> str:
    """Three digits, and more of a number that would be taken for a whole one."""
    text = f"{value:.3g}"
    if float(text) == round(value) != value:
        text = f"{value:.5g}"
    return style.minus(text)


def draw_forward() -> Picture:
    """The three networks with the values of their units."""
    figure, panels = style.figure(rows=3, height=2.7)
    for axes, example in zip(panels, (FIRST, SECOND, THIRD), strict=True):
        values = forward_values(example)
        names = [name for name in values if name[0] != "u"]  # after the activation
        columns = [np.asarray(example.x), *(values[name] for name in names)]
        before = dict(zip([*values][1:], values, strict=False))
        sums = [None, *(values[u] if (u := before[name])[0] == "u" else None for name in names)]
        draw_network(axes, columns, example.weights, ["x", *names], sums)
        axes.set(title=example.name)
    biases = ", ".join(f"({', '.join(map(_shown, b))})" for b in FIRST.biases)
    caption = (
        "The three networks: weights on the lines (negative ones orange); in the units u, the "
        f"weighted sum with its bias, and below it the activation. Biases of the first: {biases}; "
        "the others have none."
    )
    return Picture("forward", caption, figure)


def draw_backward() -> Picture:
    """The third network with ∂L/∂h in the units and ∂L/∂W on the lines."""
    steps = {step.quantity: step.backward for step in backward_steps(THIRD)}
    figure, axes = style.figure(height=2.9)
    names = ["∂L/∂x", "∂L/∂h1", "∂L/∂y"]
    columns = [steps[name] for name in names]
    draw_network(axes, columns, [steps["∂L/∂W1"], steps["∂L/∂W2"]], names)
    axes.set(title=f"{THIRD.name}: gradients of L = (20 − y)²")
    caption = "The third network again: the gradient of each weight and of each unit's value."
    return Picture("backward", caption, figure)


def run() -> Result:
    """The worked networks forward, and the third one back."""
    columns = ("quantity", "value")
    tables = [
        Table(f"Forward: {example.name}", columns, list(forward_values(example).items()))
        for example in (FIRST, SECOND, THIRD)
    ]
    tables += [
        Table(
            f"Given: {example.name}, x = {example.x}",
            ("layer", "W, a row for each output", "b"),
            [
                (str(index), np.array(weight), np.array(bias))
                for index, (weight, bias) in enumerate(
                    zip(example.weights, example.biases, strict=True), 1
                )
            ],
        )
        for example in (FIRST, SECOND, THIRD)
    ]
    tables.append(
        Table(
            "Squared error with the target 20",
            ("network", "(t − y)²"),
            [(example.name, squared_error(example)) for example in (SECOND, THIRD)],
        )
    )
    back = backward_steps(THIRD)
    ways = ("by hand", "autodiff", "differences")
    steps = [
        (step.quantity if way == ways[0] else "", way, _scientific(value))
        for step in back
        for way, value in zip(ways, step[1:], strict=True)
    ]
    norms = {step.quantity: float(np.linalg.norm(step.backward)) for step in back}
    ratio = norms["∂L/∂W2"] / norms["∂L/∂W1"]
    tables.append(
        Table(
            f"Backward: {THIRD.name}, L = (20 − y)²",
            ("quantity", "way", "value"),
            steps,
        )
    )
    return Result(
        "Every intermediate value of three small networks, and for the third every step of its "
        "backward pass beside automatic and numerical differentiation. The gradient of its first "
        f"layer's weights has a norm {ratio:,.0f} times smaller than the last one's: the hidden "
        "sigmoids are saturated. Differences agree to fewer digits where the gradient is small: "
        "the loss, about 363, is rounded at its sixteenth digit, and that error is divided by "
        "2h = 2e-6.",
        [draw_forward(), draw_backward()],
        tables,
    )


def _scientific(value: np.ndarray) -> str:
    return np.array2string(value, formatter={"float": lambda number: f"{number: .8e}"})


if __name__ == "__main__":
    alone("forward_pass")
