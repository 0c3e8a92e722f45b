"""The vanishing gradient: what is left of a delta after many layers.

For layers u = y W + b, y' = f(u), the delta δ = ∂L/∂u goes back one layer by

    δₗ₋₁ = (δₗ Wₗᵀ) ⊙ f'(uₗ₋₁),   so that   ‖δₗ₋₁‖ ≤ max|f'| · ‖Wₗ‖₂ · ‖δₗ‖.

The sigmoid has f' = f(1 − f) ≤ ¼. With orthogonal weights, ‖W‖₂ = 1, at most 0.25ᵏ is left after k
layers, 0.0625 after two. tanh' ≤ 1 and ReLU' ∈ {0, 1} have no such factor; but ReLU switches about
half of the units off, which takes √½ a layer, and the He initialisation's variance 2/n gives √2.

A skip connection, y' = y + f(u), adds the identity to each Jacobian: one term of their product is 1
whatever the others are. Batch norm divides by the deviation σ over the batch, which shrinks as the
examples become alike, and so gives back what the sigmoid took. Layer norm divides by the deviation
over the features of one example, which the weights keep apart: it does not shrink.
"""

from collections.abc import Callable
from functools import cache
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"\delta_{l - 1} = \left( \delta_l\, W_l^\top \right) \odot f'(u_{l - 1})",
    r"\sigma'(u) \le \frac{1}{4}, \quad \prod_{l = 1}^{k} \sigma'(u_l) \le "
    r"\left( \frac{1}{4} \right)^k",
)

WIDTH, BATCH, DEPTH = 64, 32, 50
DEPTHS = (2, 5, 10, 20, DEPTH)
ACTIVATIONS: dict[str, Callable] = {"sigmoid": nn.sigmoid, "tanh": nn.tanh, "ReLU": nn.relu}
INITIALISERS = ("normal(0.01)", "lecun", "orthogonal", "he", "normal(0.5)")
KINDS = ("plain", "skip connection", "layer norm", "batch norm")


def layer(activation: str, kind: str = "plain", weight_init: str = "orthogonal") -> nn.Layer:
    """One layer of `WIDTH` units, alone or with one remedy."""
    dense, f = nn.dense(WIDTH, weight_init=weight_init), ACTIVATIONS[activation]()
    return {
        "plain": nn.serial(dense, f),
        "skip connection": nn.skip(dense, f),
        "layer norm": nn.serial(dense, nn.layer_norm(), f),
        "batch norm": nn.serial(dense, nn.batch_norm(), f),
    }[kind]


@cache
def compiled_norms(activation: str, kind: str, depth: int) -> Callable:
    """(params, state, x, dy) -> the norms of the deltas and weight gradients, layer by layer."""
    network = nn.repeat(layer(activation, kind), depth)

    @jax.jit
    def norms(params: Any, state: Any, x: jax.Array, dy: jax.Array):
        _, _, residuals = network.forward(params, state, x, None)
        _, captures = network.backward(params, residuals, dy)
        stacks = jax.tree.leaves(captures, is_leaf=lambda node: isinstance(node, nn.Capture))
        dense = next(stack for stack in stacks if isinstance(stack.capture, nn.LinearCapture))
        return tuple(
            jnp.linalg.norm(a.reshape(depth, -1), axis=1)
            for a in (dense.capture.deltas, dense.gradient()["weight"])
        )

    return norms


def norms_by_layer(
    activation: str, kind: str = "plain", weight_init: str = "orthogonal", depth: int = DEPTH
) -> tuple[np.ndarray, np.ndarray]:
    """The norms [depth] of the delta and of the weight's gradient, from first to last layer.

    In float64. The cotangent at the end is a random one of norm 1.
    """
    with jax.enable_x64(True):
        x_key, dy_key, key = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(x_key, (BATCH, WIDTH))
        dy = jax.random.normal(dy_key, x.shape)
        start = nn.repeat(layer(activation, kind, weight_init), DEPTH).init(key, x)
        params, state = jax.tree.map(lambda a: a[:depth], start)  # the first layers of one network
        norms = compiled_norms(activation, kind, depth)
        deltas, weights = norms(params, state, x, dy / jnp.linalg.norm(dy))
        return np.asarray(deltas), np.asarray(weights)


def going_back(norms: np.ndarray) -> np.ndarray:
    """The share that is left after 0, 1, 2 … layers, counted from the last one."""
    return norms[::-1] / norms[-1]


def draw_activations(
    deltas: dict[str, np.ndarray], first_layers: dict[str, list[float]]
) -> Picture:
    """Deltas layer by layer at the largest depth, and the first layer's gradient by depth."""
    figure, (left, right) = style.figure(columns=2, height=3.2)
    for name, marker, size in zip(ACTIVATIONS, "so^", (4, 8, 4), strict=True):
        left.semilogy(deltas[name], label=name)
        right.loglog(DEPTHS, first_layers[name], marker=marker, markersize=size, label=name)
    left.semilogy(0.25 ** np.arange(DEPTH), "--", color=style.BLACK, label="0.25ᵏ")
    left.set(xlabel="layers passed k", ylabel="‖δ‖ relative to the last layer's")
    right.set(xlabel="depth of the network", ylabel="‖∂L/∂W‖, first layer / last layer")
    right.set_xticks(DEPTHS, map(str, DEPTHS), minor=False)
    right.minorticks_off()
    left.legend()
    return Picture(
        "activations",
        f"Left: the delta on its way back through {DEPTH} layers with orthogonal weights, and the "
        "sigmoid's bound. Right: the gradient of the first layer's weight by depth (with ReLU the "
        "inputs of the layers shrink on the way forward as the deltas do on the way back).",
        figure,
    )


def draw_remedies(
    starts: dict[str, dict[str, np.ndarray]], remedies: dict[str, np.ndarray]
) -> Picture:
    """How the initialisation changes tanh and ReLU networks, and what helps the sigmoid."""
    figure, panels = style.figure(columns=3, height=4.0, sharey=True)
    curves = starts | {"sigmoid": remedies}
    everything = np.concatenate([norms for lines in curves.values() for norms in lines.values()])
    lowest, highest = everything[everything > 0].min(), everything.max()
    for axes, (activation, lines) in zip(panels, curves.items(), strict=True):
        for name, norms, dash in zip(lines, lines.values(), cycle(("-", "--", ":")), strict=False):
            axes.semilogy(norms, dash, label=name)
        axes.set(title=activation, xlabel="layers passed k")
        axes.set_yticks(10.0 ** np.arange(-100, 60, 20))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(lowest / 10, highest * 10)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    panels[0].set(ylabel="‖δ‖ relative to the last layer's")
    return Picture(
        "remedies",
        "The delta on its way back: tanh and ReLU networks with five initialisations, and the "
        "sigmoid network with a skip connection or a normalisation in every layer.",
        figure,
    )


def run() -> Result:
    """Deltas by layer for three activations, five initialisations and three remedies."""
    deltas = {name: going_back(norms_by_layer(name)[0]) for name in ACTIVATIONS}
    first_layers = {
        name: [going_back(norms_by_layer(name, depth=depth)[1])[-1] for depth in DEPTHS]
        for name in ACTIVATIONS
    }
    starts = {
        name: {w: going_back(norms_by_layer(name, weight_init=w)[0]) for w in INITIALISERS}
        for name in ("tanh", "ReLU")
    }
    remedies = {kind: going_back(norms_by_layer("sigmoid", kind)[0]) for kind in KINDS}
    return Result(
        "A delta that goes back through a sigmoid layer whose weights are orthogonal keeps at most "
        "a quarter of its length, so the first layers of a deep network learn almost nothing. "
        "tanh and ReLU keep it, if the "
        "initialisation neither shrinks nor blows it up. A skip connection and batch norm help "
        f"even the sigmoid: {remedies['skip connection'][-1]:.2g} and "
        f"{remedies['batch norm'][-1]:.2g} of the delta are left after {DEPTH - 1} layers. Layer "
        f"norm does not: {remedies['layer norm'][-1]:.2g}.",
        [draw_activations(deltas, first_layers), draw_remedies(starts, remedies)],
        [
            Table(
                "What is left of the delta after k layers, orthogonal weights",
                ("k", *ACTIVATIONS, "0.25ᵏ"),
                [
                    (k, *(f"{deltas[name][k]:.3g}" for name in ACTIVATIONS), f"{0.25**k:.3g}")
                    for k in (1, 2, 5, 10, 20, DEPTH - 1)
                ],
            ),
            Table(
                f"What is left of the delta after {DEPTH - 1} layers",
                ("network", "share"),
                [
                    *((f"tanh, {w}", f"{v[-1]:.3g}") for w, v in starts["tanh"].items()),
                    *((f"ReLU, {w}", f"{v[-1]:.3g}") for w, v in starts["ReLU"].items()),
                    *((f"sigmoid, {kind}", f"{v[-1]:.3g}") for kind, v in remedies.items()),
                ],
            ),
        ],
    )


if __name__ == "__main__":
    alone("vanishing_gradient")
