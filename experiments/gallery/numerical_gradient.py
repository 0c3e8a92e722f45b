"""The gradient in three ways: by differences, by a backward pass, by autodiff.

Central differences, for a loss L of P parameters and a step h in parameter i:

    (L(θ + h eᵢ) − L(θ − h eᵢ)) / 2h = ∂L/∂θᵢ + h² ∂³L/∂θᵢ³ / 6 + …

so the truncation error falls as h². Each L is rounded to a relative ε, which adds about ε |L| / h:
the rounding error grows as 1/h. Their sum is least near h = ε^(1/3). The method evaluates L twice
for every parameter, 2P forward passes; backpropagation needs one forward and one backward pass.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style
from jaxnn.core.checking import Report

FORMULAS = (
    r"\frac{L(\theta + h e_i) - L(\theta - h e_i)}{2 h} \approx \frac{\partial "
    r"L}{\partial \theta_i} + \frac{h^2}{6} \frac{\partial^3 L}{\partial \theta_i^3}",
    r"\text{error} \approx a h^2 + \frac{\varepsilon\, |L|}{h}, \quad \text{least "
    r"near } h = \varepsilon^{1/3}",
)

LOSS = nn.softmax_cross_entropy()
WIDTHS = (4, 16, 64)
STEPS = {
    "float64": tuple(10.0**-k for k in range(1, 12)),
    "float32": tuple(10.0**-k for k in range(1, 8)),
}


class Problem(NamedTuple):
    """A network and one batch, in the order in which gradient functions take them."""

    params: Any
    state: Any
    x: jax.Array
    target: jax.Array


def problem(width: int, dtype: Any = jnp.float32) -> tuple[nn.Layer, Problem]:
    """A network with two hidden layers of ``width`` tanh units, 3 classes, 16 random examples."""
    network = nn.serial(
        nn.dense(width), nn.tanh(), nn.dense(width), nn.tanh(), nn.dense(3, weight_init="glorot")
    )
    x_key, target_key, key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, (16, 4), dtype)
    target = jax.random.randint(target_key, (16,), 0, 3)
    params, state = network.init(key, x)
    return network, Problem(params, state, x, target)


def size(tree: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def distance(gradients: Any, reference: Any) -> float:
    """‖a − b‖ / ‖b‖ over all parameters together."""
    a, b = (
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(t)]) for t in (gradients, reference)
    )
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def agreement(width: int = 4) -> Report:
    """Backprop against autodiff and against differences, parameter by parameter, in float64."""
    with jax.enable_x64(True):
        network, batch = problem(width, jnp.float64)
        return nn.check_gradients(network, LOSS, *batch)


def costs(widths: Sequence[int] = WIDTHS) -> list[tuple[int, float, float, float]]:
    """(parameters, seconds by differences, by backprop, by autodiff) for every width."""
    rows = []
    for width in widths:
        network, batch = problem(width)
        functions = (make(network, LOSS) for make in (nn.numerical, nn.backprop, nn.autodiff))
        rows.append((size(batch.params), *(seconds(jax.jit(f), batch) for f in functions)))
    return rows


def seconds(function: Callable, arguments: Sequence[Any]) -> float:
    """The shortest of several runs of a compiled function."""
    jax.block_until_ready(function(*arguments))
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < 0.1:
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def errors(dtype: str, steps: Sequence[float]) -> np.ndarray:
    """The relative error of the gradient by differences in ``dtype``, for every step.

    The reference is backprop in float64 at the same parameters.
    """
    with jax.enable_x64(True):
        network, batch = problem(4, dtype)
        exact = jax.tree.map(
            lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, batch
        )
        _, reference = nn.backprop(network, LOSS)(*exact)
        found = (jax.jit(nn.numerical(network, LOSS, step))(*batch)[1] for step in steps)
        return np.array([distance(gradients, reference) for gradients in found])


def draw_costs(rows: list[tuple]) -> Picture:
    """Time of one gradient against the number of parameters."""
    figure, axes = style.figure(height=3.2)
    parameters, *times = np.array(rows).T
    for name, t in zip(("differences", "backprop", "autodiff"), times, strict=True):
        marker, line = ("s", "--") if name == "autodiff" else ("o", "-")
        axes.loglog(parameters, 1e3 * t, line, marker=marker, markersize=4, label=name)
    axes.set(xlabel="number of parameters P", ylabel="time of one gradient [ms]")
    axes.legend()
    return Picture("cost", "The time of one gradient as the network grows.", figure)


def draw_errors(curves: dict[str, np.ndarray]) -> Picture:
    """Error against step size: rounding on the left, truncation on the right."""
    figure, axes = style.figure(height=3.4)
    h = np.asarray(STEPS["float64"])
    axes.loglog(h, h**2, "--", color=style.BLACK, linewidth=1, label="truncation, h²")
    for (name, error), colour in zip(curves.items(), style.COLOURS, strict=False):
        h = np.asarray(STEPS[name])
        axes.loglog(h, error, "o-", markersize=4, color=colour, label=name)
        epsilon = float(np.finfo(name).eps)
        axes.loglog(
            h, epsilon / h, ":", color=colour, linewidth=1, label=f"rounding, ε / h ({name})"
        )
        label = f"h = ε^(1/3) ({name})"
        axes.axvline(epsilon ** (1 / 3), color=colour, linewidth=0.8, alpha=0.5, label=label)
    axes.set(xlabel="step h", ylabel="relative error of the gradient", ylim=(1e-12, 1e2))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(
        "error",
        "The error of central differences: the thin vertical lines stand at h = ε^(1/3).",
        figure,
    )


def run() -> Result:
    """The agreement of the three gradients, their cost, and the error of differences."""
    report, rows = agreement(), costs()
    curves = {name: errors(name, steps) for name, steps in STEPS.items()}
    return Result(
        "Three gradients of one loss: they agree to the accuracy of each method. Differences need "
        "two forward passes for every parameter, so their time grows much faster with the network "
        "than that of a backward pass. Their error has two branches: too large a step truncates "
        "the Taylor series, too small a step leaves only rounding.",
        [draw_costs(rows), draw_errors(curves)],
        [
            Table(
                "Relative differences from backprop (float64)",
                ("quantity", "compared", "error"),
                [(c.quantity, c.methods, f"{c.error:.1e}") for c in report.comparisons],
            ),
            Table(
                "Time of one gradient, measured in this run",
                (
                    "parameters",
                    "loss evaluations",
                    "differences [ms]",
                    "backprop [ms]",
                    "autodiff [ms]",
                ),
                [(int(p), int(2 * p), *(f"{1e3 * t:.3g}" for t in times)) for p, *times in rows],
            ),
            Table(
                "Smallest error of differences",
                ("dtype", "error", "at step h", "ε^(1/3)"),
                [
                    (
                        n,
                        f"{e.min():.1e}",
                        f"{STEPS[n][e.argmin()]:.1e}",
                        f"{np.finfo(n).eps ** (1 / 3):.1e}",
                    )
                    for n, e in curves.items()
                ],
            ),
        ],
    )


if __name__ == "__main__":
    alone("numerical_gradient")
