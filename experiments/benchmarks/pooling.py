"""Pooling, forward and backward over a sweep of shapes: by hand and by autodiff.

Autodiff of `lax.reduce_window`, which is what Flax calls, and where windows lie side by side of a
trick: a maximum over a reshaped axis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxnn as nn
from experiments.benchmarks.measuring import Contender, Settings, sweep


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


def contenders(case: Case) -> dict[str, Contender]:
    """All, on the same arrays."""
    functions = {"jaxnn": by_hand(case), "reduce_window": by_autodiff(reduce_window(case))}
    if tiled := reshape_pool(case):
        functions["reshape"] = by_autodiff(tiled)
    x = jax.random.normal(jax.random.key(0), case.shape)
    dy = jax.random.normal(jax.random.key(1), jax.eval_shape(reduce_window(case), x).shape)

    def contender(function: Callable):
        compiled = jax.jit(function).lower(x, dy).compile()
        return Contender(lambda: jax.block_until_ready(compiled(x, dy)))

    return {name: contender(function) for name, function in functions.items()}


def run(settings: Settings) -> dict[str, Any]:
    """Measure the sweep, and print it with its geometric mean and its worst case."""
    print("\npooling, forward and backward: minimum (median) and ratio")
    return sweep({str(case): partial(contenders, case) for case in CASES}, settings)
