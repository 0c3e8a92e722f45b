"""Time of convolution, forward and backward: by hand and by autodiff of the library's.

Run ``python -m experiments.benchmarks.convolution``. Both compute y, dx and the weight gradient of
one shape and take turns, so that a slow phase of the machine meets both. The ratio of the minima is
the figure that repeats; the ratio of processor times, over all threads, is the one to look at where
other programs run beside.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from jax import Array, lax

import jaxnn as nn
from jaxnn.convolution.choosing import choose


@dataclass(frozen=True)
class Options:
    """Forward and backward of convolutions over a sweep of shapes."""

    repeats: int = 20
    """How often each contender runs."""
    seconds: float = 2.0
    """The longest time for one shape, if that comes before the repeats (3 at least)."""
    algorithm: str | None = None
    """The algorithm by hand; the chosen ones unless given."""
    only: str = ""
    """Shapes whose line contains this text."""
    json: Path | None = None
    """A file for the figures, beside the table."""


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


def by_hand(case: Case, algorithm: str | None) -> tuple[Callable, Callable]:
    """init, and (params, x, dy) -> (y, dx, gradients) by the layer's own passes."""
    layer = nn.conv(
        case.outputs,
        (case.kernel, case.kernel),
        strides=case.strides,
        groups=case.groups,
        use_bias=False,
        algorithm=algorithm,
    )

    def run(params: dict, x: Array, dy: Array):
        y, _, residuals = layer.forward(params, (), x, None)
        dx, captures = layer.backward(params, residuals, dy)
        return y, dx, nn.contract(captures)

    return layer.init, run


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


def measure(case: Case, options: Options) -> dict:
    """Milliseconds of both contenders, and how many times longer autodiff takes."""
    init, run = by_hand(case, options.algorithm)
    contenders = {"by hand": run, "autodiff": by_autodiff(case)}
    x = jax.random.normal(jax.random.key(0), (case.batch, case.size, case.size, case.inputs))
    params, _ = init(jax.random.key(1), x)
    dy = jax.random.normal(jax.random.key(2), _output_shape(case, x))
    compiled = {name: jax.jit(f).lower(params, x, dy).compile() for name, f in contenders.items()}
    wall: dict[str, list[float]] = {name: [] for name in compiled}
    processor: dict[str, list[float]] = {name: [] for name in compiled}
    begin = time.perf_counter()
    for repeat in range(options.repeats + 1):  # the first round warms up
        if repeat > 3 and time.perf_counter() - begin > options.seconds:
            break
        for name, f in compiled.items():
            start, start_processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(f(params, x, dy))
            wall[name].append(1e3 * (time.perf_counter() - start))
            processor[name].append(1e3 * (time.process_time() - start_processor))
    figures: dict = {
        name: {
            "minimum_ms": min(wall[name][1:]),
            "median_ms": statistics.median(wall[name][1:]),
            "processor_ms": min(processor[name][1:]),
        }
        for name in compiled
    }
    for kind in ("minimum_ms", "processor_ms"):
        ratio = figures["autodiff"][kind] / figures["by hand"][kind]
        figures["ratio" if kind == "minimum_ms" else "processor_ratio"] = ratio
    return figures


def algorithms(case: Case, options: Options) -> str:
    """Which algorithm computes forward, input gradient and weight gradient on CPU."""
    if options.algorithm:
        return options.algorithm
    layer = nn.conv(
        case.outputs, (case.kernel, case.kernel), strides=case.strides, groups=case.groups
    )
    x = jax.ShapeDtypeStruct((case.batch, case.size, case.size, case.inputs), "float32")
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    geometry = jax.eval_shape(layer.forward, params, (), x, None)[2][1].value[1]
    passes = ("forward", "input_gradient", "weight_gradient")
    chosen = (choose(name, geometry, case.inputs, case.outputs, x.dtype) for name in passes)
    return " ".join(c.algorithm + ("/group" if c.group_by_group else "") for c in chosen)


def main(options: Options) -> None:
    """Print the sweep, its geometric mean and its worst case."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: minimum (median) in ms")
    print(f"{'shape':42}{'by hand':>18}{'autodiff':>18}{'ratio':>7}{'of CPU time':>13}  by")
    figures = {}
    for case in (case for case in CASES if options.only in str(case)):
        f = figures[str(case)] = measure(case, options)
        f["algorithms"] = algorithms(case, options)
        columns = (
            f"{f[name]['minimum_ms']:.2f} ({f[name]['median_ms']:.2f})"
            for name in ("by hand", "autodiff")
        )
        print(
            f"{case!s:42}" + "".join(f"{c:>18}" for c in columns),
            f"{f['ratio']:6.2f}{f['processor_ratio']:13.2f}  {f['algorithms']}",
            flush=True,
        )
    for kind in ("ratio", "processor_ratio"):
        ratios = {name: f[kind] for name, f in figures.items()}
        worst = min(ratios, key=lambda name: ratios[name])
        mean = statistics.geometric_mean(ratios.values())
        print(f"{kind}: geometric mean {mean:.2f}, worst {ratios[worst]:.2f} ({worst})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _output_shape(case: Case, x: Array) -> tuple[int, ...]:
    size = -(-case.size // case.strides)
    return (x.shape[0], size, size, case.outputs)


if __name__ == "__main__":
    main(tyro.cli(Options))
