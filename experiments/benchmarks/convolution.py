"""Convolution, forward and backward over a sweep of shapes: by hand and by autodiff of `lax`.

Both compute y, dx and the weight gradient. Behind each line stand the algorithms of forward, input
gradient and weight gradient on CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import Array, lax

import jaxnn as nn
from experiments.benchmarks.measuring import Contender, Settings, sweep
from jaxnn.kernels.convolution.choosing import PASSES, choose
from jaxnn.kernels.convolution.geometry import Geometry


@dataclass(frozen=True)
class Case:
    """A convolution of square images, padding "SAME"."""

    batch: int
    size: int
    inputs: int
    outputs: int
    kernel: int
    strides: int = 1
    groups: int = 1

    def __str__(self) -> str:
        """Such as "128×28×28, 1→32, 3×3, stride 1"."""
        text = f"{self.batch}×{self.size}×{self.size}, {self.inputs}→{self.outputs}, "
        text += f"{self.kernel}×{self.kernel}, stride {self.strides}"
        return text + (f", {self.groups} groups" if self.groups > 1 else "")


CASES = [
    Case(128, 28, 1, 32, 3),
    Case(128, 14, 32, 64, 3),
    Case(64, 28, 1, 8, 5),
    Case(16, 64, 3, 16, 3),
    Case(32, 32, 3, 32, 5),
    Case(16, 64, 3, 32, 7, 2),
    Case(64, 28, 8, 16, 3),
    Case(64, 14, 16, 16, 3),
    Case(64, 28, 16, 32, 3, 2),
    Case(64, 16, 32, 32, 3),
    Case(64, 16, 64, 64, 3),
    Case(64, 14, 64, 128, 3, 2),
    Case(64, 14, 128, 128, 3),
    Case(64, 7, 256, 256, 3),
    Case(64, 28, 32, 64, 1),
    Case(64, 14, 64, 256, 1),
    Case(64, 14, 128, 256, 1, 2),
    Case(16, 28, 32, 32, 5),
    Case(64, 14, 16, 32, 5, 2),
    Case(16, 14, 32, 32, 7),
    Case(64, 28, 16, 16, 2, 2),
    Case(32, 28, 32, 32, 3, 1, 32),
    Case(32, 14, 64, 64, 3, 2, 64),
    Case(32, 14, 64, 64, 3, 1, 4),
    Case(32, 14, 64, 64, 3, 1, 32),
]


def by_hand(layer: nn.Layer) -> Callable:
    """(params, x, dy) -> (y, dx, gradients) by the layer's own passes."""

    def run(params: dict, x: Array, dy: Array):
        y, _, residuals = layer.forward(params, (), x, None)
        dx, captures = layer.backward(params, residuals, dy)
        return y, dx, nn.contract(captures)

    return run


def by_autodiff(case: Case) -> Callable:
    """(params, x, dy) -> (y, dx, gradients) by `jax.vjp` of the library's convolution."""

    def convolve(params: dict, x: Array):
        return lax.conv_general_dilated(
            x,
            params["weight"],
            (case.strides, case.strides),
            "SAME",
            feature_group_count=case.groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def run(params: dict, x: Array, dy: Array):
        y, vjp = jax.vjp(convolve, params, x)
        gradients, dx = vjp(dy)
        return y, dx, gradients

    return run


def arrays_of(case: Case) -> tuple[nn.conv, Geometry, tuple[dict, Array, Array]]:
    """The layer, its geometry, and (params, x, dy)."""
    layer = nn.conv(
        case.outputs,
        (case.kernel, case.kernel),
        strides=case.strides,
        groups=case.groups,
        use_bias=False,
    )
    x = jax.random.normal(jax.random.key(0), (case.batch, case.size, case.size, case.inputs))
    params, state = layer.init(jax.random.key(1), x)
    y = jax.eval_shape(layer.predict, params, state, x)
    return layer, layer.plan(x)[1], (params, x, jax.random.normal(jax.random.key(2), y.shape))


def contenders(case: Case) -> dict[str, Contender]:
    """Both, on the same arrays."""
    layer, geometry, arguments = arrays_of(case)
    dtype = arguments[1].dtype
    chosen = (choose(name, geometry, case.inputs, case.outputs, dtype) for name in PASSES)
    note = " ".join(map(str, chosen))

    def contender(function: Callable, note: str = ""):
        compiled = jax.jit(function).lower(*arguments).compile()
        return Contender(lambda: jax.block_until_ready(compiled(*arguments)), note=note)

    return {
        "jaxnn": contender(by_hand(layer), note),
        "jax.vjp": contender(by_autodiff(case)),
    }


def run(settings: Settings) -> dict[str, Any]:
    """Measure the sweep, and print it with its geometric mean and its worst case."""
    print("\nconvolution, forward and backward: minimum (median) and ratio")
    return sweep({str(case): partial(contenders, case) for case in CASES}, settings)
