"""Adaline: a linear unit trained by batch gradient descent on two kinds of wine.

Activation φ(z) = z, so a = x w + b, with targets t = ±1:

    J(w) = ½ Σᵢ (tᵢ − aᵢ)²,   ∂J/∂wⱼ = −Σᵢ (tᵢ − aᵢ) xᵢⱼ,   Δwⱼ = η Σᵢ (tᵢ − aᵢ) xᵢⱼ.

The class is +1 if a ≥ 0, else −1. J is a quadratic with the Hessian H = X̃ᵀ X̃, X̃ = (X, 1): descent
converges for η < 2 / λmax(H), and its speed depends on λmax / λmin. Raw features of unlike size
make that ratio huge; features standardised to mean 0 and deviation 1 make it small.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.gallery.descent import at, descend
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style
from jaxnn import data

FORMULAS = (
    r"J(w) = \frac{1}{2} \sum_i (t_i - a_i)^2, \quad a = x w + b",
    r"\frac{\partial J}{\partial w_j} = -\sum_i (t_i - a_i)\, x_{ij}, \quad \Delta "
    r"w_j = \eta \sum_i (t_i - a_i)\, x_{ij}",
    r"\eta < \frac{2}{\lambda_{\max}(H)}, \quad H = \tilde X^\top \tilde X",
)

FEATURES = ("alcohol", "color_intensity")
SHARES = (0.01, 0.1, 0.5, 0.95, 1.02)
"""The rates that are tried, as shares of the largest that converges."""
EPOCHS = 100
UNIT = nn.dense(1, weight_init="zeros")


class Wines(NamedTuple):
    """Two features of the first two kinds of wine, targets ±1 [wines, 1], float64."""

    raw: np.ndarray
    standardized: np.ndarray
    target: np.ndarray


def wines() -> Wines:
    """Two features of the training examples of the first two kinds."""
    train = data.load("wine").train
    columns = [train.feature_names.index(name) for name in FEATURES]
    chosen = train.target < 2
    raw = train.x[chosen][:, columns].astype(np.float64)
    target = np.where(train.target[chosen] == 1, 1.0, -1.0)[:, None]
    return Wines(raw, (raw - raw.mean(0)) / raw.std(0), target)


def manual_gradient(params: dict, x: jax.Array, t: jax.Array) -> dict:
    """∂J/∂w and ∂J/∂b by the formula."""
    error = t - (x @ params["weight"] + params["bias"])
    return {"weight": -x.T @ error, "bias": -error.sum(0)}


def value_and_gradient(x: jax.Array, t: jax.Array):
    """params -> J and its gradient, by jaxnn's backward pass, which sums over the batch."""
    run = nn.backward_pass(UNIT, nn.half_squared_error())

    def compute(params):
        result = run(params, (), x, t)
        return result.values.sum(), nn.contract(result.captures)

    return compute


def gradients() -> dict[str, dict[str, np.ndarray]]:
    """The gradient at one point by the formula, by the backward pass and by autodiff (float64)."""
    with jax.enable_x64(True):
        data_set = wines()
        x, t = jnp.asarray(data_set.standardized), jnp.asarray(data_set.target)
        params = {"weight": jnp.array([[0.3], [-0.2]]), "bias": jnp.array([0.1])}

        def cost(params):
            return jnp.sum((t - UNIT.predict(params, (), x)) ** 2) / 2

        ways = {
            "formula": manual_gradient(params, x, t),
            "backward pass": value_and_gradient(x, t)(params)[1],
            "autodiff": jax.grad(cost)(params),
        }
        return jax.tree.map(np.asarray, ways)


class Run(NamedTuple):
    """Descent on one version of the features."""

    largest_rate: float
    """2 / λmax: the rate above which descent diverges."""
    condition: float
    """λmax / λmin."""
    costs: np.ndarray
    """[rates, epochs + 1]."""
    params: dict
    """After the last epoch with the rate 0.5 · 2 / λmax."""


def train(x: np.ndarray, t: np.ndarray, epochs: int = EPOCHS) -> Run:
    """Batch gradient descent from zero with every rate at once, in float64."""
    eigenvalues = np.linalg.eigvalsh((extended := np.hstack([x, np.ones_like(t)])).T @ extended)
    largest = 2 / eigenvalues[-1]
    with jax.enable_x64(True):
        compute = value_and_gradient(jnp.asarray(x), jnp.asarray(t))
        start, _ = UNIT.init(jax.random.key(0), jnp.asarray(x))

        @jax.jit
        @jax.vmap
        def walk(rate):
            return descend(compute, optax.sgd(rate), start, epochs)

        trajectories, costs = walk(largest * jnp.array(SHARES))
        params = at(at(trajectories, SHARES.index(0.5)), -1)
        ratio = eigenvalues[-1] / eigenvalues[0]
        return Run(largest, ratio, np.asarray(costs), jax.tree.map(np.asarray, params))


def accuracy(params: dict, x: np.ndarray, t: np.ndarray) -> float:
    """The share of wines whose class, +1 if a ≥ 0 else −1, is right."""
    return float(np.mean(np.where(x @ params["weight"] + params["bias"] >= 0, 1, -1) == t))


def draw(data_set: Wines, runs: dict[str, Run]) -> Picture:
    """Cost by epoch, raw and standardised, and the line that was learned."""
    figure, (left, middle, right) = style.figure(columns=3, height=3.2)
    for axes, (name, run) in zip((left, middle), runs.items(), strict=True):
        for share, costs in zip(SHARES, run.costs, strict=True):
            axes.semilogy(costs, label=f"{share:g} of the largest")
        axes.set(title=f"{name} features", xlabel="epoch", ylim=(5, 500))
        axes.text(0.03, 0.03, f"largest rate {run.largest_rate:.2g}", transform=axes.transAxes)
    left.set(ylabel="cost J")
    for value, marker, name in ((-1, "o", "kind 0"), (1, "s", "kind 1")):
        points = data_set.standardized[data_set.target[:, 0] == value]
        right.scatter(*points.T, 14, marker=marker, label=name)
    params = runs["standardised"].params
    (w1, w2), b = params["weight"][:, 0], params["bias"][0]
    ends = np.array([-1.3, 1.4])
    right.plot(ends, -(w1 * ends + b) / w2, color=style.BLACK, label="a = 0")
    right.set(title="boundary", xlabel="alcohol (deviations)", ylim=(-2.5, 3.8))
    right.set(ylabel="colour intensity (deviations)")
    right.legend(ncols=3, columnspacing=0.6, handlelength=1, loc="upper center", fontsize=8)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=8)
    caption = (
        "Cost per epoch for rates below and above the largest that converges, and the boundary. "
        "Raw features crawl at every rate; the last rate, 2 % too large, climbs."
    )
    return Picture("descent", caption, figure)


def run() -> Result:
    """Descent with several rates on raw and on standardised features."""
    data_set = wines()
    versions = {"raw": data_set.raw, "standardised": data_set.standardized}
    runs = {name: train(x, data_set.target) for name, x in versions.items()}
    rows = [
        (
            name,
            run.condition,
            run.largest_rate,
            run.costs[SHARES.index(0.5), -1],
            accuracy(run.params, versions[name], data_set.target),
        )
        for name, run in runs.items()
    ]
    costs = runs["standardised"].costs[SHARES.index(0.5)]
    epochs = int(np.argmax(costs <= 1.001 * costs.min()))
    return Result(
        f"A linear unit learns to tell two kinds of wine ({len(data_set.target)} bottles) apart by "
        "alcohol and colour. On raw features the cost falls slowly at every rate that converges; "
        f"on standardised ones, at half of the largest, it is within 0.1 % of its minimum after "
        f"{epochs} epochs. The derived gradient, the backward pass and autodiff agree.",
        [draw(data_set, runs)],
        [
            Table(
                f"After {EPOCHS} epochs at half of the largest rate",
                ("features", "λmax / λmin", "largest rate 2 / λmax", "cost J", "accuracy"),
                rows,
            ),
            Table(
                "The gradient at w = (0.3, −0.2), b = 0.1",
                ("way", "∂J/∂w", "∂J/∂b"),
                [(way, g["weight"][:, 0], g["bias"]) for way, g in gradients().items()],
            ),
        ],
    )


if __name__ == "__main__":
    alone("adaline")
