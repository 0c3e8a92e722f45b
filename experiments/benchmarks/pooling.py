"""Time of pooling, forward and backward: by hand, by autodiff of the library, and of a trick.

Run ``python -m experiments.benchmarks.pooling``. The contenders of one shape take turns, so that
a slow phase of the machine meets all of them. For each the minimum and the median are printed, and
how many times longer than the hand-derived pass it takes: the ratio of the minima is the figure
that repeats. The trick, for windows side by side, is a maximum over a reshaped axis.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax import Array, lax

import jaxnn as nn


@dataclass(frozen=True)
class Options:
    """Forward and backward of max- and average pooling over a sweep of shapes."""

    repeats: int = 20
    """How often every contender runs."""
    json: Path | None = None
    """A file for the figures, beside the table."""


@dataclass(frozen=True)
class Case:
    """A pool over one shape."""

    kind: str
    shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str = "VALID"

    def __str__(self) -> str:
        """Such as "max 128×28×28×32, 2×2 stride 2×2 VALID"."""
        shape, window, strides = (
            "×".join(map(str, sizes)) for sizes in (self.shape, self.window, self.strides)
        )
        return f"{self.kind} {shape}, {window} stride {strides} {self.padding}"


CASES = [
    Case("max", (128, 28, 28, 32), (2, 2), (2, 2)),
    Case("max", (128, 14, 14, 64), (2, 2), (2, 2)),
    Case("max", (128, 27, 27, 32), (2, 2), (2, 2)),
    Case("max", (128, 28, 28, 1), (2, 2), (2, 2)),
    Case("max", (128, 28, 28, 32), (3, 3), (2, 2), "SAME"),
    Case("max", (128, 14, 14, 64), (3, 3), (1, 1), "SAME"),
    Case("max", (32, 56, 56, 64), (3, 3), (2, 2), "SAME"),
    Case("max", (64, 256, 16), (4,), (4,)),
    Case("max", (8, 16, 16, 16, 16), (2, 2, 2), (2, 2, 2)),
    Case("average", (128, 28, 28, 32), (2, 2), (2, 2)),
    Case("average", (128, 14, 14, 64), (3, 3), (1, 1), "SAME"),
    Case("average", (128, 28, 28, 32), (3, 3), (2, 2), "SAME"),
]


def by_hand(case: Case) -> Callable[[Array, Array], tuple[Array, Array]]:
    """(x, dy) -> (y, dx) by the layer's own passes."""
    options: dict[str, Any] = {"strides": case.strides, "padding": case.padding}
    if case.kind == "max":
        layer = nn.max_pool(case.window, **options)
    else:
        layer = nn.avg_pool(case.window, **options, count_include_pad=True)

    def run(x: Array, dy: Array):
        y, _, residuals = layer.forward((), (), x, None)
        return y, layer.backward((), residuals, dy)[0]

    return run


def by_autodiff(pool: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    """(x, dy) -> (y, dx) by `jax.vjp`."""

    def run(x: Array, dy: Array):
        y, vjp = jax.vjp(pool, x)
        return y, vjp(dy)[0]

    return run


def reduce_window(case: Case) -> Callable[[Array], Array]:
    """The library's pool, what Flax calls."""
    window, strides = (1, *case.window, 1), (1, *case.strides, 1)
    if case.kind == "max":
        return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, case.padding)
    count = math.prod(case.window)
    return lambda x: lax.reduce_window(x, 0.0, lax.add, window, strides, case.padding) / count


def reshape_pool(case: Case) -> Callable[[Array], Array] | None:
    """The maximum or mean over the axes of a reshaped x, where windows tile the input."""
    sizes = case.shape[1:-1]
    tiles = all(n % w == 0 for n, w in zip(sizes, case.window, strict=True))
    if case.window != case.strides or not tiles:
        return None
    axes = [a for n, w in zip(sizes, case.window, strict=True) for a in (n // w, w)]
    within = tuple(range(2, 2 * len(sizes) + 1, 2))
    reduce = jnp.max if case.kind == "max" else jnp.mean
    return lambda x: reduce(x.reshape(case.shape[0], *axes, case.shape[-1]), within)


def measure(case: Case, repeats: int) -> dict[str, dict[str, float]]:
    """For every contender the minimum and the median in milliseconds and the ratio to by hand."""
    contenders = {"by hand": by_hand(case), "reduce_window": by_autodiff(reduce_window(case))}
    if tiled := reshape_pool(case):
        contenders["reshape"] = by_autodiff(tiled)
    x = jax.random.normal(jax.random.key(0), case.shape)
    dy = jax.random.normal(jax.random.key(1), jax.eval_shape(reduce_window(case), x).shape)
    compiled = {name: jax.jit(run).lower(x, dy).compile() for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(repeats + 1):  # the first round warms up
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(x, dy))
            times[name].append(1e3 * (time.perf_counter() - start))
    least = min(times["by hand"][1:])
    return {
        name: {
            "minimum_ms": min(of_one[1:]),
            "median_ms": statistics.median(of_one[1:]),
            "ratio": min(of_one[1:]) / least,
        }
        for name, of_one in times.items()
    }


def main(options: Options) -> None:
    """Print the sweep, its geometric mean and its worst case."""
    figures = {}
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: minimum (median) in ms, ratio")
    for case in CASES:
        figures[str(case)] = measure(case, options.repeats)
        row = (
            f"{name} {f['minimum_ms']:.2f} ({f['median_ms']:.2f}) {f['ratio']:.1f}×"
            for name, f in figures[str(case)].items()
        )
        print(f"{case}: " + ", ".join(row), flush=True)
    ratios = {name: of_case["reduce_window"]["ratio"] for name, of_case in figures.items()}
    worst = min(ratios, key=lambda name: ratios[name])
    mean = statistics.geometric_mean(ratios.values())
    print(f"reduce_window: geometric mean {mean:.1f}×, worst {ratios[worst]:.1f}× ({worst})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
