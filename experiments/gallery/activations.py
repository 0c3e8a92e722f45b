"""Activation functions: value, derivative, and why sigmoid's derivative starves deep networks.

With y = f(x):  sigmoid' = y (1 − y) ≤ ¼,  tanh' = 1 − y²,  ReLU' = 1 if x > 0 else 0,
leaky ReLU' = 1 if x > 0 else 0.01,  step' = 0,  identity' = 1.

For the sigmoid σ(0) = ½ is where y (1 − y) is largest: each layer passes on at most a quarter.

Softmax:  yᵢ = e^(xᵢ − c) / Σₖ e^(xₖ − c)  is the same for every c, since e^(−c) cancels; c = max x
keeps every exponent at or below 0. Without it e^x is ∞ from x = 89 on in float32, and ∞/∞ is not
a number. Its Jacobian is  J = diag(y) − y yᵀ.

The derivatives drawn are the layers' own backward passes, given dy = 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"\sigma'(x) = \sigma(x)\,(1 - \sigma(x)) \le \frac{1}{4}, \quad \tanh'(x) = 1 - \tanh^2 x",
    r"y_i = \frac{e^{x_i - c}}{\sum_k e^{x_k - c}}, \quad c = \max_k x_k",
    r"\frac{\partial y_i}{\partial x_j} = y_i\,(\delta_{ij} - y_j)",
)

POINTWISE = {
    "step": (nn.heaviside(), 5),
    "identity": (nn.identity(), 5),
    "sigmoid": (nn.sigmoid(), 8),
    "tanh": (nn.tanh(), 5),
    "ReLU": (nn.relu(), 5),
    "leaky ReLU": (nn.leaky_relu(), 5),
    "ELU": (nn.elu(), 5),
    "SELU": (nn.selu(), 5),
    "GELU": (nn.gelu(), 5),
    "SiLU": (nn.silu(), 5),
    "softplus": (nn.softplus(), 5),
}
"""Each layer and the range −r … r it is drawn over."""


def grid(reach: float) -> jax.Array:
    """−reach … reach in steps of 0.1."""
    return jnp.asarray(np.arange(-10 * reach, 10 * reach + 1) / 10, jnp.float32)


def value_and_derivative(layer: nn.Layer, x: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and f'(x) for every x, by the layer's forward and backward."""
    y, _, residuals = layer.forward((), (), x, None)
    slope, _ = layer.backward((), residuals, jnp.ones_like(y))
    return np.asarray(y), np.asarray(slope)


def unshifted_softmax(x: jax.Array) -> np.ndarray:
    """The softmax as it is defined, without the shift: for comparison only."""
    return np.asarray(jnp.exp(x) / jnp.sum(jnp.exp(x)))


def softmax(x: jax.Array) -> np.ndarray:
    """The softmax of one vector."""
    return np.asarray(nn.softmax().predict((), (), x[None])[0])


def softmax_jacobian(x: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """J[i, k] = ∂yᵢ/∂xₖ by the backward pass, row by row, and diag(y) − y yᵀ."""
    layer = nn.softmax()
    y, _, residuals = layer.forward((), (), x[None], None)
    rows = jax.vmap(lambda dy: layer.backward((), residuals, dy[None])[0][0])(jnp.eye(x.size))
    return np.asarray(rows), np.asarray(jnp.diag(y[0]) - jnp.outer(y[0], y[0]))


def broken(y: np.ndarray) -> np.ndarray:
    """The values, without one where they jump, so that no line is drawn across."""
    jumps = np.abs(np.diff(y, prepend=y[0])) > 0.4
    return np.where(jumps, np.nan, y)


def draw_all() -> Picture:
    """Value and derivative of every activation."""
    figure, axes = style.figure(rows=3, columns=4, height=1.9)
    for panel, (name, (layer, reach)) in zip(axes.flat, POINTWISE.items(), strict=False):
        x = grid(reach)
        value, slope = value_and_derivative(layer, x)
        panel.plot(x, broken(value), label="f(x)")
        panel.plot(x, broken(slope), "--", label="f′(x)")
        panel.set(title=name)
    x = grid(5)
    y = softmax(x)
    axes.flat[-1].plot(x, y, label="f(x)")
    axes.flat[-1].plot(x, y * (1 - y), "--", label="f′(x)")
    axes.flat[-1].set(title="softmax")
    for panel in axes.flat:
        panel.set(xlabel="x")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    caption = (
        "Every activation (solid) and its derivative (dashed), broken where it jumps. The softmax "
        "is that of all points of its axis together, its derivative that of each output by its own "
        "input."
    )
    return Picture("all", caption, figure)


def draw_sigmoid() -> Picture:
    """f, 1 − f and f (1 − f) side by side, and powers of the derivative."""
    x = grid(7)
    y, slope = value_and_derivative(nn.sigmoid(), x)
    figure, (left, right) = style.figure(columns=2, height=2.8)
    left.plot(x, y, label="f(x)")
    left.plot(x, 1 - y, "--", label="1 − f(x)")
    left.plot(x, slope, ":", label="f(x) (1 − f(x)) = f′(x)")
    left.axhline(0.25, color=style.GREY, linewidth=0.8)
    left.text(-7, 0.27, "0.25", color=style.GREY)
    left.set(title="the sigmoid's derivative is a product", xlabel="x", ylim=(0, 1.35))
    left.legend(loc="upper center", ncols=3, columnspacing=1, handlelength=1.5)
    for layers, dash in zip((1, 2, 3), ("-", "--", ":"), strict=True):
        label = f"{layers} layer{'s' * (layers > 1)}: at most {0.25**layers:g}"
        right.semilogy(x, slope**layers, dash, label=label)
    right.set(
        title="what reaches the layer below", xlabel="x in every layer", ylabel="factor f′(x)ᵏ"
    )
    right.legend(loc="lower center")
    return Picture(
        "sigmoid", "Sigmoid, one minus it, and their product; the product to the power k.", figure
    )


def run() -> Result:
    """Every activation with its derivative, and the softmax with large inputs."""
    at_zero = [
        (name, *(v[0] for v in value_and_derivative(layer, jnp.zeros(1))))
        for name, (layer, _) in POINTWISE.items()
    ]
    inputs = [jnp.array([1.0, 2.0, 3.0]), jnp.array([1001.0, 1002.0, 1003.0])]
    by_hand, formula = softmax_jacobian(inputs[0])
    return Result(
        "Every activation and its hand-written derivative. The sigmoid's derivative is f (1 − f), "
        "a quarter at most, so a stack of k sigmoid layers passes on at most 0.25ᵏ of a gradient; "
        "that of ReLU is 1 wherever the unit is on. The softmax needs its shift: without it large "
        "inputs overflow to not-a-number.",
        [draw_all(), draw_sigmoid()],
        [
            Table("At the kink, x = 0", ("activation", "f(0)", "f′(0)"), at_zero),
            Table(
                "Softmax with and without the shift by max x",
                ("x", "shifted", "not shifted"),
                [(x, softmax(x), unshifted_softmax(x)) for x in inputs],
            ),
            Table(
                "Jacobian of the softmax at x = (1, 2, 3)",
                ("backward pass", "diag(y) − y yᵀ"),
                [(by_hand, formula)],
            ),
        ],
    )


if __name__ == "__main__":
    alone("activations")
