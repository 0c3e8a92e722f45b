"""What a rescheduled backward pass costs and saves: accuracy, memory, bytes kept and sent, time.

python -m experiments.reschedule --output pictures

Each technique trains the same network of three blocks from the same weights with the same batches;
`reversible` alone has other blocks. Memory is, of each device, what the compiled step takes beside
its arguments and results, and what it hands on to the next one beside params and the optimiser's
state: deltas on their way, errors, copies. Kept is what the forward pass leaves for backward, as
the summary counts it; sent is what a device would send for the gradient, or in its place, in a ring
of ``devices``, by the formulas of the library. Techniques about sending train on so many devices,
virtual ones of a processor, where times say little about a network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.benchmarks.measuring import align
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report, require_problems
from experiments.support.config import DataConfig
from experiments.support.devices import all_devices
from jaxnn import training
from jaxnn.core.validation import require_integer, require_positive_integer, unknown_name
from jaxnn.data.text import python_topics
from jaxnn.sharding import DATA, make_mesh, on_mesh, send_captures
from jaxnn.training.placement import keep_layout

LOSS = nn.softmax_cross_entropy()
BATCH = 64
DEPTH = 4


class Data(NamedTuple):
    """Examples to train with and to test with."""

    x: np.ndarray
    target: np.ndarray
    test_x: np.ndarray
    test_target: np.ndarray
    outputs: int


class Problem(NamedTuple):
    """Data, networks for them, and how they are scored."""

    load: Callable[[], Data]
    blocks: Callable[[int], tuple[nn.Layer, nn.Layer, nn.Layer]]
    """Of the number of outputs."""
    reversible: nn.Layer
    """In place of the middle block."""
    epochs: int
    in_bits: bool = False
    """Whether the score is the bits of the test loss, in place of accuracy."""


def _images(name: str) -> Callable[[], Data]:
    def load() -> Data:
        splits = DataConfig(name, standardize="all").load()
        train, test = splits.train, splits.test
        return Data(train.x, train.target, test.x, test.target, len(train.class_names))

    return load


def _text() -> Data:
    training, held_out = python_topics(32)
    return Data(*(training.x, training.target, held_out.x, held_out.target), len(training.alphabet))


def _mlp(width: int) -> Callable[[int], tuple[nn.Layer, nn.Layer, nn.Layer]]:
    inside = (nn.layer_norm(), nn.dense(width), nn.relu(), nn.dense(width))
    return lambda outputs: (
        nn.serial(nn.dense(width), nn.relu()),
        nn.repeat(nn.skip(*inside), DEPTH),
        nn.serial(nn.layer_norm(), nn.dense(outputs)),
    )


def _reversible_mlp(width: int) -> nn.Layer:
    half = nn.serial(nn.layer_norm(), nn.dense(width), nn.relu(), nn.dense(width // 2))
    return nn.repeat(nn.reversible(half, half), DEPTH)


def _transformer(outputs: int) -> tuple[nn.Layer, nn.Layer, nn.Layer]:
    block = nn.transformer_block(32, 4, hidden=64, norm="rms_norm", causal=True, rotary=True)
    return (
        nn.serial(nn.embedding(outputs, 32, weight_init="normal(0.1)")),
        nn.repeat(block, DEPTH),
        nn.serial(nn.rms_norm(), nn.dense(outputs)),
    )


PROBLEMS = {
    "digits": Problem(_images("digits"), _mlp(64), _reversible_mlp(64), 15),
    "Fashion-MNIST": Problem(_images("fashion_mnist"), _mlp(128), _reversible_mlp(128), 4),
    "language model": Problem(
        _text,
        _transformer,
        nn.repeat(
            nn.reversible(
                nn.serial(nn.rms_norm(), nn.attention(2, causal=True, rotary=True)),
                nn.serial(nn.rms_norm(), nn.feed_forward(16, 64)),
            ),
            DEPTH,
        ),
        3,
        True,
    ),
}


class Way(NamedTuple):
    """How a technique trains."""

    network: nn.Layer
    update: Any
    """An optax transformation, or a `Step`."""
    gradient: Callable | None = None
    sent: Callable | None = None
    """(params, state, x, target, devices) -> bytes; of a gradient that is summed, unless given."""
    on_devices: bool = False


class Given(NamedTuple):
    """What a technique is made of."""

    blocks: tuple
    reversible: nn.Layer
    heads: nn.Layer
    optimizer: optax.GradientTransformation
    steps: int
    """Of the whole training."""

    @property
    def network(self) -> nn.Layer:
        """As it is."""
        return nn.serial(*self.blocks)


def _view(make: Callable[[nn.Layer], nn.Layer]) -> Callable[[Given], Way]:
    return lambda given: Way(make(given.network), given.optimizer)


def _on_the_way_back(given: Given) -> Way:
    step = training.update_in_backward(given.network, LOSS, given.optimizer)
    return Way(given.network, step)


def _scheduled(given: Given) -> Way:
    share = ((0, 1.0), (max(given.steps // 3, 1), 0.25))
    return Way(nn.sampled(given.network, share, "norm"), given.optimizer)


def _captures(given: Given) -> Way:
    gradient = send_captures(given.network, LOSS)

    def sent(params: Any, state: Any, x: Any, target: Any, devices: int) -> float:
        plan = gradient.plan(params, state, x, target, jax.random.key(0))
        return sum(row.sent_bytes(devices) for row in plan)

    return Way(given.network, given.optimizer, gradient, sent, True)


def _low_rank(rank: int) -> Callable[[Given], Way]:
    def make(given: Given) -> Way:
        step = training.low_rank(given.network, LOSS, given.optimizer, rank=rank)

        def sent(params: Any, state: Any, x: Any, target: Any, devices: int) -> float:
            return sum(row.sent_bytes(devices) for row in step.plan(params, state, x))

        return Way(given.network, step, None, sent, True)

    return make


def _local(every: int) -> Callable[[Given], Way]:
    def make(given: Given) -> Way:
        step = training.local_steps(given.network, LOSS, given.optimizer, every=every)
        return Way(
            *(given.network, step, None),
            lambda params, state, x, target, devices: step.sent_bytes(params, devices),
            True,
        )

    return make


def _delayed(delays: tuple[int, int]) -> Callable[[Given], Way]:
    def make(given: Given) -> Way:
        step = training.delayed(given.network, LOSS, given.optimizer, delays=delays)
        return Way(given.network, step)

    return make


def _local_losses(given: Given) -> Way:
    network = nn.auxiliary_heads(nn.serial(*given.blocks), nn.parallel(given.heads, given.heads))
    return Way(network, given.optimizer, nn.local_losses(network, LOSS))


def _reversible(given: Given) -> Way:
    first, _, last = given.blocks
    return Way(nn.serial(first, given.reversible, last), given.optimizer)


METHODS: dict[str, Callable[[Given], Way]] = {
    "backprop": _view(lambda network: network),
    "updates on the way back": _on_the_way_back,
    "reversible": _reversible,
    "residuals in 4 bits": _view(lambda network: nn.compress(network, 4)),
    "residuals in 2 bits": _view(lambda network: nn.compress(network, 2)),
    "a quarter of the rows": _view(lambda network: nn.sampled(network, 0.25, "norm")),
    "all, then a quarter": _scheduled,
    "deltas in float8": _view(lambda network: nn.low_precision_deltas(network, scale="row")),
    "captures sent": _captures,
    "gradients of rank 2": _low_rank(2),
    "averages every 8 steps": _local(8),
    "deltas 1 step late": _delayed((1, 1)),
    "deltas 4 steps late": _delayed((4, 4)),
    "local losses": _local_losses,
}


@dataclass(frozen=True)
class Options:
    """Train by every technique, print a table and draw it."""

    output: Path
    """The folder for the figure and its numbers."""
    problems: tuple[str, ...] = tuple(PROBLEMS)
    """Which problems."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which techniques; the first is what the others are compared with."""
    examples: int = 4096
    """At most so many training examples, and a quarter as many to test with."""
    epochs: int | None = None
    """In place of each problem's own."""
    devices: int = 4
    """On how many devices the techniques about sending train."""
    seed: int = 0
    """Draws weights, batches and noise."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    options = parse_options(Options, "reschedule", arguments)
    require_problems("reschedule", options.problems, PROBLEMS, options.epochs)
    for name in options.methods:
        if name not in METHODS:
            raise ValueError(unknown_name("method", name, METHODS))
    if not options.methods or not options.problems:
        raise ValueError("reschedule: expected at least one problem and one method, got none")
    require_integer("reschedule", "examples", options.examples, BATCH)
    require_positive_integer("reschedule", "devices", options.devices)
    if BATCH % options.devices:
        raise ValueError(
            f"reschedule: expected devices to divide a batch of {BATCH}, got {options.devices}"
        )
    all_devices("reschedule", options.devices)

    def compute() -> dict[str, Any]:
        found = {name: _compare(name, options) for name in options.problems}
        found = {name: rows for name, rows in found.items() if rows}
        if not found:
            raise ValueError("reschedule: expected data of at least one problem, found none")
        return found

    report("reschedule", options.output, compute, draw, overwrite=options.overwrite)


def _compare(name: str, options: Options) -> dict[str, dict[str, float]]:
    """What each technique comes to; empty where there are no data."""
    problem = PROBLEMS[name]
    try:
        data = problem.load()
    except FileNotFoundError as error:
        print(f"{name} is left out: {error}\n", flush=True)
        return {}
    data = _cut(data, options.examples, options.seed)
    rows = {}
    for method in options.methods:
        rows[method] = _learn(problem, data, METHODS[method], options)
        print(f"{name}, {method}: {_score_text(name, rows[method]['score'])}", flush=True)
    print(f"\n{_table(name, rows, options.devices)}\n", flush=True)
    return rows


def _cut(data: Data, examples: int, seed: int) -> Data:
    """At most so many examples, and whole batches of them."""
    generator = np.random.default_rng(seed)
    count = min(examples, len(data.x)) // BATCH * BATCH
    few = generator.permutation(len(data.x))[:count]
    tested = generator.permutation(len(data.test_x))[: max(examples // 4, BATCH)]
    chosen = (data.x[few], data.target[few], data.test_x[tested], data.test_target[tested])
    return Data(*chosen, data.outputs)


def _learn(
    problem: Problem, data: Data, make: Callable[[Given], Way], options: Options
) -> dict[str, float]:
    epochs = options.epochs or problem.epochs
    steps = epochs * len(data.x) // BATCH
    rate = optax.cosine_decay_schedule(2e-3, steps)
    head = nn.dense(data.outputs)
    blocks = problem.blocks(data.outputs)
    optimizer = optax.adam(rate)
    way = make(Given(blocks, problem.reversible, head, optimizer, steps))
    x, target = data.x[:BATCH], data.target[:BATCH]
    key = jax.random.key(options.seed)
    state = training.create_state(way.network, way.update, key, x)
    mesh = None
    if way.on_devices:
        mesh = make_mesh(options.devices, devices=jax.devices()[: options.devices])
    held = _bytes(state.optimizer_state) - _bytes(jax.eval_shape(optimizer.init, state.params))
    sent = _sent(way, state, x, target, options.devices)
    kept = nn.summarize(way.network, x).total.residual_bytes
    if mesh is not None:
        state = training.place(state, mesh, way.network, way.update)
    memory = _temporary_bytes(way, state, x, target, mesh)
    seconds = []
    for epoch in training.train(
        *(way.network, LOSS, way.update, state, data.x, data.target),
        epochs=epochs,
        batch_size=BATCH,
        gradient=way.gradient,
        crosscheck=None,
    ):
        state = epoch.train_state
        seconds.append(epoch.seconds)
    trained = jax.tree.map(np.asarray, (state.params, state.state))
    return {
        "score": _score(problem, way.network, trained, data),
        "memory": memory + held,
        "kept": kept,
        "sent": sent,
        # The first epoch is mostly that of compilation.
        "milliseconds": 1e3 * float(np.min(seconds[1:] or seconds)) * BATCH / len(data.x),
    }


def _score(problem: Problem, network: nn.Layer, trained: tuple, data: Data) -> float:
    """Accuracy in percent, or bits."""
    prediction = training.make_predict(network, 256)(*trained, data.test_x)
    if problem.in_bits:
        losses = LOSS.value(prediction, jnp.asarray(data.test_target))
        return float(jnp.mean(losses)) / math.log(2)
    return 100 * float(np.mean(np.argmax(prediction, -1) == data.test_target))


def _sent(way: Way, state: Any, x: Any, target: Any, devices: int) -> float:
    if way.sent is not None:
        return way.sent(state.params, state.state, x, target, devices)
    return 2 * (devices - 1) / devices * _bytes(state.params)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _temporary_bytes(way: Way, state: Any, x: Any, target: Any, mesh: Any) -> int:
    """Of the compiled step, whose train state is donated."""
    if isinstance(way.update, training.Step):
        step = way.update
    else:
        gradient = way.gradient or nn.backprop(way.network, LOSS)
        step = training.make_step(gradient, way.update)
    if mesh is not None:
        step = keep_layout(step, state)
        split = NamedSharding(mesh, P(DATA))
        x, target = (jax.device_put(a, split) for a in (x, target))
    compiled = on_mesh(mesh, jax.jit(step, donate_argnums=0).lower)(state, x, target).compile()
    return compiled.memory_analysis().temp_size_in_bytes


COLUMNS = {
    "score": "",
    "memory": "memory",
    "kept": "kept",
    "sent": "sent",
    "milliseconds": "time",
}


def _score_text(problem: str, score: float) -> str:
    return f"{score:.3f} bits" if PROBLEMS[problem].in_bits else f"{score:.2f} %"


def _table(problem: str, rows: dict[str, dict[str, float]], devices: int) -> str:
    head = (problem, "score", "memory", "kept", f"sent of {devices}", "ms a step", "")
    cells = [
        (
            method,
            _score_text(problem, row["score"]),
            *(f"{row[name] / 1e6:.3f} MB" for name in ("memory", "kept", "sent")),
            f"{row['milliseconds']:.2f}",
            "",
        )
        for method, row in rows.items()
    ]
    return align([head, *cells])


def draw(results: dict[str, Any]) -> Figure:
    """A row for each problem, a column for each quantity, a bar for each technique."""
    methods = list(next(iter(results.values())))
    figure, axes = style.figure(
        len(results), 5, height=0.9 + 0.19 * len(methods), squeeze=False, sharey="row"
    )
    places = np.arange(len(methods))[::-1]
    for row, (problem, by_method) in zip(axes, results.items(), strict=True):
        in_bits = PROBLEMS[problem].in_bits
        titles = ("bits a character" if in_bits else "accuracy, %", "memory, MB", "kept, MB")
        titles = (*titles, "sent, MB", "ms a step")
        for column, (place, name, title) in enumerate(zip(row, COLUMNS, titles, strict=True)):
            unit = 1e6 if name in ("memory", "kept", "sent") else 1
            values = np.array([by_method[method][name] for method in methods]) / unit
            colours = [style.GREY, *[style.COLOURS[column]] * (len(methods) - 1)]
            if name == "score":  # which does not start at 0
                place.scatter(values, places, color=colours, s=18)
            else:
                place.barh(places, values, color=colours, height=0.7)
            place.axvline(values[0], color=style.BLACK, linewidth=0.7, linestyle=":")
            place.set_title(title, fontsize=8)
            place.tick_params(labelsize=6)
            place.grid(axis="y", visible=False)
        row[0].set_yticks(places, methods, fontsize=7)
        row[0].set_ylabel(problem, fontsize=9)
    return figure


if __name__ == "__main__":
    run_script(main)
