"""Vectorisation: the same arithmetic as a loop, as one call, and as one compiled program.

The dot product Σᵢ aᵢ bᵢ of n numbers takes n multiplications however it is written. A Python loop
pays for the interpreter at every one of them; NumPy and a compiled JAX program run over the whole
array in machine code, several numbers in each instruction.

A batch is the same idea one step up: n products x W of one row each become one product X W, which
reads W once and pays for the call once.
"""

import timeit
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"a \cdot b = \sum_i a_i b_i",
    r"Z = A\, W, \quad z_{nj} = \sum_m a_{nm} w_{mj}",
)

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
EXAMPLES = 500


def seconds(function: Callable, repeat: int = 3) -> float:
    """The least wall time of ``function()`` in seconds, its result waited for."""
    return min(timeit.repeat(lambda: jax.block_until_ready(function()), number=1, repeat=repeat))


def python_dot(a: np.ndarray, b: np.ndarray) -> float:
    """Σ aᵢ bᵢ, one index after the other."""
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


def dot_products(sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """For each size the seconds of each way, and the values they found, in float64."""
    rows = []
    with jax.enable_x64(True):
        jax_dot = jax.jit(jnp.dot)
        for n in sizes:
            a, b = np.random.default_rng(n).random((2, n))
            on_device = jnp.asarray(a), jnp.asarray(b)
            ways = {
                "Python loop": lambda a=a, b=b: python_dot(a, b),
                "NumPy": lambda a=a, b=b: a @ b,
                "jitted JAX": lambda pair=on_device: jax_dot(*pair),
            }
            values = {name: float(way()) for name, way in ways.items()}  # compiles, too
            repeats = {name: 1 if name == "Python loop" and n > 1e6 else 5 for name in ways}
            times = {name: seconds(way, repeats[name]) for name, way in ways.items()}
            rows.append({"n": n, "seconds": times, "values": values})
    return rows


def forward_passes(examples: int = EXAMPLES) -> tuple[dict[str, float], float]:
    """Seconds of a 784-128-10 network's forward pass in three ways, and their largest difference.

    The compiled network is called for each example, or once for the batch; without compilation,
    each operation of the batch is a call of its own.
    """
    network = nn.serial(nn.dense(128), nn.relu(), nn.dense(10), nn.softmax())
    x = jax.random.normal(jax.random.key(0), (examples, 784))
    params, state = network.init(jax.random.key(1), x)
    predict = jax.jit(network.predict)
    single = [x[i : i + 1] for i in range(examples)]
    ways = {
        "per example, compiled": lambda: jnp.concatenate(
            [predict(params, state, e) for e in single]
        ),
        "batched, not compiled": lambda: network.predict(params, state, x),
        "batched, compiled": lambda: predict(params, state, x),
    }
    outputs = [way() for way in ways.values()]
    difference = max(float(jnp.abs(outputs[-1] - y).max()) for y in outputs)
    return {name: seconds(way) for name, way in ways.items()}, difference


def draw(dots: list[dict], passes: dict[str, float]) -> Picture:
    """Time of the dot product by length, and of the forward pass by way."""
    figure, (left, right) = style.figure(columns=2, height=3.0)
    for marker, name in zip("osv", dots[0]["seconds"], strict=True):
        times = [1000 * row["seconds"][name] for row in dots]
        left.loglog([row["n"] for row in dots], times, marker=marker, markersize=4, label=name)
    left.set(title="dot product", xlabel="length of the vectors", ylabel="time (ms)")
    left.legend()
    bars = right.barh(list(passes), [1000 * t for t in passes.values()], color=style.COLOURS)
    right.bar_label(bars, [f" {1000 * t:.2f} ms" for t in passes.values()])
    right.set(title=f"784-128-10 network, {EXAMPLES} examples", xlabel="time (ms)")
    right.margins(x=0.25)
    right.grid(axis="y", visible=False)
    return Picture("times", "Times measured when this page was made (lower is better).", figure)


def run() -> Result:
    """The dot product in three ways, and a forward pass by example and by batch."""
    dots = dot_products()
    passes, difference = forward_passes()
    largest = dots[-1]["seconds"]
    ratio = largest["Python loop"] / largest["NumPy"]
    rows = [
        (row["n"], *(f"{1000 * t:.4g}" for t in row["seconds"].values()), row["values"]["NumPy"])
        for row in dots
    ]
    slowest = max(passes.values())
    return Result(
        f"For {dots[-1]['n']:,} numbers the Python loop took "
        f"{1000 * largest['Python loop']:.0f} ms and NumPy {1000 * largest['NumPy']:.1f} ms, "
        f"{ratio:.0f} times less, for the same sum. "
        "Below a few thousand numbers the fixed cost of a call is all that is seen. "
        "A network gains in the same way from a batch.",
        [draw(dots, passes)],
        [
            Table("Dot product, ms", ("length", *largest, "value"), rows),
            Table(
                f"Forward pass of {EXAMPLES} examples (outputs differ by {difference:.1e} at most)",
                ("way", "ms", "times faster than the slowest"),
                [(name, f"{1000 * t:.3g}", f"{slowest / t:.1f}") for name, t in passes.items()],
            ),
        ],
    )


if __name__ == "__main__":
    alone("vectorisation")
