"""What recomputation and gradient accumulation save: foretold by the summary, and as compiled.

python -m experiments.memory digits_cnn --batch-size 512 --parts 4 16 --blocks 2 4
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from experiments.benchmarks.measuring import align, inspect_program
from experiments.support.command_line import Configured, parse_options, run_script, take_config
from experiments.support.config import Config
from jaxnn import Layer, accumulate, backprop, recompute, serial, summarize
from jaxnn.core.combinators import Wrapper
from jaxnn.core.validation import batch_size, require_positive_integer
from jaxnn.data import Splits
from jaxnn.data.dataset import rows_of

USES = ("network", "loss", "precision", "gradient", "batch_size", "seed", "data")
"""Of a configuration."""


@dataclass(frozen=True)
class Options:
    """Compile a gradient in several ways, and print the memory that each takes.

    Foretold is what backward keeps, as the summary counts it; compiled is all that XLA's program
    takes beside its arguments and results, at its peak: deltas and what is passing also. Compare
    the differences to the first row.
    """

    config: Configured
    parts: tuple[int, ...] = (4,)
    """Into how many micro-batches, one row for each."""
    blocks: tuple[int, ...] = (2, 4)
    """Into how many recomputed blocks of layers, one row for each."""


def main(arguments: list[str]) -> None:
    """Compile and print."""
    _, config, arguments = take_config(arguments)
    options = parse_options(Options, "memory [CONFIG]", arguments, USES, config=config)
    for name, values in (("parts", options.parts), ("blocks", options.blocks)):
        for value in values:
            require_positive_integer("memory", name, value)
    config = options.config
    splits = config.load()
    config = config.resolved(splits)
    print(f"batches of {config.batch_size} from {config.data.name}\n")
    ways = list(rows(config, splits, options.parts, options.blocks))
    _, first_kept, first_compiled = ways[0]
    table: list[tuple[str, ...]] = [("", "foretold", "compiled", "saved: foretold", "compiled", "")]
    for name, kept, compiled in ways:
        saved = first_kept - kept, first_compiled - compiled
        cells = (f"{n / 1e6:.2f} MB" for n in (kept, compiled, *saved))
        table.append((name, *cells, ""))
    print(align(table))


def rows(
    config: Config, splits: Splits, parts: tuple[int, ...], blocks: tuple[int, ...]
) -> Iterator[tuple[str, int, int]]:
    """(what was done, bytes kept at the peak as foretold, bytes of the compiled program)."""
    network, x = config.layers, rows_of(splits.train.x, slice(config.batch_size))
    yield "as it is", _foretold(network, x), _compiled(config, network, splits, 1)
    for count in blocks:
        cut = in_blocks(network, count)
        name = f"{count} recomputed blocks"
        yield name, _foretold(cut, x), _compiled(config, cut, splits, 1)
    for count in parts:
        name = f"{count} micro-batches"
        part = rows_of(x, slice(math.ceil(batch_size("memory", x) / count)))
        yield name, _foretold(network, part), _compiled(config, network, splits, count)


def in_blocks(network: Layer, count: int) -> Layer:
    """The layers of a `serial` in so many recomputed blocks, as even as can be."""
    if isinstance(network, Wrapper):  # a policy
        return network.with_parts((in_blocks(network.parts[0], count),))
    layers = network.parts
    cuts = [round(i * len(layers) / count) for i in range(count + 1)]
    pieces = [layers[a:b] for a, b in itertools.pairwise(cuts) if a < b]
    return serial(*(recompute(serial(*piece)) for piece in pieces))


def _foretold(network: Layer, x: Any) -> int:
    """What is kept, and the part of it that is there again while backward is in one block."""
    summary = summarize(network, x)
    again: dict[str, int] = {}
    for row in summary.rows:
        block = row.layer.split(".")[0]
        again[block] = again.get(block, 0) + row.saved_bytes
    return summary.total.residual_bytes + max(again.values(), default=0)


def _compiled(config: Config, network: Layer, splits: Splits, parts: int) -> int:
    x = rows_of(splits.train.x, slice(config.batch_size))
    target = config.task(splits).prepare(splits.train.target[: config.batch_size])
    gradient = backprop(network, config.loss_function)
    if parts > 1:
        gradient = accumulate(gradient, parts, network=network)
    key = jax.random.key(config.seed)
    params, state = network.init(key, rows_of(x, slice(1)))
    return inspect_program(jax.jit(gradient), params, state, x, target, key).temporary_bytes


if __name__ == "__main__":
    run_script(main)
