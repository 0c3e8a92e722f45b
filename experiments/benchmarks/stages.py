"""Training in stages beside training with a split batch, on the same devices.

    python -m experiments.benchmark stages --devices 2

A stage stands on each device, and each takes the optimiser's step for its own parameters. The batch
is that of the contender with the split batch, in as many micro-batches as the name says. The share
of the time for which a stage has nothing to do, with costs of 1, is in the note.
"""

from functools import partial
from typing import Any

import jax
import numpy as np

import jaxnn as nn
from experiments.benchmarks.measuring import Contender, Settings, inspect_program, measure, table
from jaxnn.sharding import make_mesh, on_mesh, place_examples
from jaxnn.sharding.pipelines import SCHEDULES
from jaxnn.sharding.pipelining import pipelined
from jaxnn.training import create_state, make_optimizer, make_step, place
from jaxnn.training.placement import keep_layout
from jaxnn.training.staging import by_stages, place_on_stages

MICRO_BATCHES = 8


def dense_network(width: int = 512, layers: int = 8) -> tuple[nn.Layer, nn.Loss, Any, Any]:
    """(network, loss, x, target): dense layers of one width."""
    rng = np.random.default_rng(0)
    network = nn.serial(*(nn.serial(nn.relu(), nn.dense(width)),) * layers)
    x = rng.normal(size=(512, width)).astype(np.float32)
    return network, nn.softmax_cross_entropy(), x, rng.integers(0, width, 512).astype(np.int32)


def transformer(width: int = 128, blocks: int = 4) -> tuple[nn.Layer, nn.Loss, Any, Any]:
    """(network, loss, x, target): blocks of a transformer with causal attention, 64 positions."""
    rng = np.random.default_rng(0)
    block = nn.transformer_block(width, 4, hidden=4 * width, causal=True, rotary=True)
    first, *between, last = (block,) * blocks
    network = nn.serial(
        nn.serial(nn.embedding(256, width), first), *between, nn.serial(last, nn.dense(256))
    )
    ids = rng.integers(0, 256, (32, 65)).astype(np.int32)
    return network, nn.softmax_cross_entropy(), ids[:, :-1], ids[:, 1:]


WORKLOADS = {"dense network": dense_network, "transformer": transformer}


def contenders(workload: str) -> dict[str, Contender]:
    """The split batch, and every schedule of stages."""
    devices = jax.device_count()
    network, loss, x, target = WORKLOADS[workload]()
    optimizer = make_optimizer("adam", 1e-3)
    state = create_state(network, optimizer, jax.random.key(0), x[:1])
    mesh = make_mesh(devices)
    placed = place(state, mesh, network, optimizer)
    split = keep_layout(make_step(nn.backprop(network, loss), optimizer), placed)
    found = {"split batch": _contender(split, placed, mesh, x, target)}
    for name, make in SCHEDULES.items():
        order = make(devices, MICRO_BATCHES)
        gradient = pipelined(network, loss, order)
        mesh = make_mesh(1, stages=devices)
        step = make_step(gradient, by_stages(gradient, optimizer))
        placed = place_on_stages(state, mesh, gradient, optimizer)
        idle = f"idle {order.simulate().idle_share:.1%}"
        key = f"{devices} stages, {name}"
        step = keep_layout(step, placed)
        found[key] = _contender(step, placed, mesh, x, target)._replace(note=idle)
    return found


def _contender(step: Any, state: Any, mesh: Any, x: Any, target: Any) -> Contender:
    x, target = place_examples((x, target), mesh)
    step = jax.jit(step, donate_argnums=0)
    program = on_mesh(mesh, inspect_program)(step, state, x, target)
    held = [jax.tree.map(lambda a: a.copy(), state)]

    def run() -> None:
        held[0], _ = step(held[0], x, target)
        jax.block_until_ready(held)

    return Contender(on_mesh(mesh, run), program=program)


def run(settings: Settings) -> dict[str, Any]:
    """Measure all workloads and print a table for each."""
    workloads = {name: partial(contenders, name) for name in WORKLOADS}
    return measure(workloads, settings, table)
