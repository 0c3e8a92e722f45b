"""How the cost of a gradient grows with the batch, the width, the depth and the length of time.

One of these grows from line to line, the others stay. Of each network there are the operations of
the forward pass as XLA counts them (the gradient takes about three times as many), the seconds and
the temporary memory of the gradient, and the seconds to lower and compile it. In the last line
stands the exponent a of the fit size^a, by least squares on the logarithms of the upper half of the
sizes, where what does not grow matters least. Nothing should grow faster than its arithmetic, and
compilation only with the depth of layers that are written out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    align,
    in_seconds,
    inspect_program,
    take_turns,
)

LOSS = nn.softmax_cross_entropy()
CLASSES = 10


@dataclass(frozen=True)
class Growth:
    """A network of a size, and the sizes that it is tried at."""

    make: Callable[[int], tuple[nn.Layer, tuple[int, ...]]]
    """(size) -> (network, shape of x)."""
    sizes: tuple[int, ...]


def _mlp(batch: int = 128, width: int = 256, depth: int = 2) -> tuple[nn.Layer, tuple[int, ...]]:
    hidden = [layer for _ in range(depth) for layer in (nn.dense(width), nn.relu())]
    return nn.serial(*hidden, nn.dense(CLASSES)), (batch, 256)


def _repeated(depth: int) -> tuple[nn.Layer, tuple[int, ...]]:
    block = nn.serial(nn.dense(256), nn.relu())
    return nn.serial(nn.repeat(block, depth), nn.dense(CLASSES)), (128, 256)


def _cnn(batch: int = 32, width: int = 16) -> tuple[nn.Layer, tuple[int, ...]]:
    layers = (nn.conv(width, (3, 3)), nn.relu(), nn.max_pool(2), nn.conv(width, (3, 3)), nn.relu())
    return nn.fuse(nn.serial(*layers, nn.flatten(), nn.dense(CLASSES))), (batch, 16, 16, 8)


def _lstm(length: int = 64, width: int = 64) -> tuple[nn.Layer, tuple[int, ...]]:
    return nn.serial(nn.lstm(width), nn.global_avg_pool(), nn.dense(CLASSES)), (32, length, 32)


def _transformer(length: int) -> tuple[nn.Layer, tuple[int, ...]]:
    block = nn.transformer_block(64, 4, hidden=128)
    return nn.serial(block, nn.global_avg_pool(), nn.dense(CLASSES)), (8, length, 64)


GROWTHS = {
    "MLP, batch": Growth(lambda n: _mlp(batch=n), (8, 32, 128, 512, 1024)),
    "MLP, width": Growth(lambda n: _mlp(width=n), (64, 128, 256, 512, 1024)),
    "MLP, depth, serial": Growth(lambda n: _mlp(depth=n), (1, 2, 4, 8, 16, 32)),
    "MLP, depth, repeat": Growth(_repeated, (1, 2, 4, 8, 16, 32)),
    "CNN, batch": Growth(lambda n: _cnn(batch=n), (8, 32, 128, 512)),
    "CNN, width": Growth(lambda n: _cnn(width=n), (8, 16, 32, 64, 128)),
    "LSTM, length": Growth(lambda n: _lstm(length=n), (16, 64, 256, 1024)),
    "LSTM, width": Growth(lambda n: _lstm(width=n), (32, 64, 128, 256)),
    "transformer, length": Growth(_transformer, (32, 64, 128, 256, 512, 1024)),
}


def figures_of(growth: Growth, size: int, settings: Settings) -> dict[str, float]:
    """Operations, seconds, temporary bytes and seconds of compilation at a size."""
    network, shape = growth.make(size)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    target = jnp.asarray(rng.integers(CLASSES, size=shape[0]))
    params, state = network.init(jax.random.key(0), x)
    gradient = jax.jit(nn.backprop(network, LOSS))
    arguments = params, state, x, target
    program = inspect_program(gradient, *arguments)
    contender = Contender(lambda: jax.block_until_ready(gradient(*arguments)))
    own = take_turns({"": contender}, settings.repeats, settings.seconds)[""]
    return {
        "operations": float(nn.summarize(network, x).total.flops),
        "seconds": own.minimum,
        "temporary bytes": float(program.temporary_bytes),
        "seconds of compilation": program.lower_seconds + program.compile_seconds,
    }


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """a of size^a, over the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def run(settings: Settings) -> dict[str, Any]:
    """Measure, and print a table for each."""
    results: dict[str, Any] = {}
    for name, growth in GROWTHS.items():
        if not settings.wants(name):
            continue
        figures = {size: figures_of(growth, size, settings) for size in growth.sizes}
        quantities = list(figures[growth.sizes[0]])
        exponents = {
            q: exponent(growth.sizes, [own[q] for own in figures.values()]) for q in quantities
        }
        rows: list[tuple[str, ...]] = [
            ("", "forward GFLOP", "time", "temporary", "compilation", "")
        ]
        for size, own in figures.items():
            flops, seconds, held, compiling = own.values()
            cells = f"{flops / 1e9:.3g}", in_seconds(seconds), f"{held / 1e6:.2f} MB"
            rows.append((str(size), *cells, in_seconds(compiling), ""))
        rows.append(("exponent", *(f"{exponents[q]:.2f}" for q in quantities), ""))
        print(f"\n{name}\n{align(rows)}", flush=True)
        results[name] = {"figures": figures, "exponents": exponents}
    return results
