"""Training on several devices: what sharding costs on one, weak scaling, and communication.

The overhead is that of the same training step compiled for a mesh of one device. Weak scaling gives
every device the same number of examples, each count of virtual devices in a process of its own.
Virtual devices share the cores of one processor: from as many on as there are cores, the ideal is a
time in proportion to the devices, not a constant one. What a step sends is read from the compiled
program, beside the formula for a ring (see `jaxnn.sharding.communication`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxnn as nn
from experiments.benchmarks.cnn import make_network
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    Workloads,
    align,
    in_seconds,
    inspect_program,
    measure,
    table,
    take_turns,
)
from jaxnn.sharding import LAYOUTS, make_mesh, on_mesh, place_examples, sent_bytes
from jaxnn.training import create_state, make_optimizer, make_step, place
from jaxnn.training.placement import gather_params, keep_layout

BATCH = 64  # of each device
COUNTS = (1, 2, 4, 8)
LOSS = nn.softmax_cross_entropy()


class Workload(NamedTuple):
    """A network and what it is given."""

    network: nn.Layer
    x_shape: tuple[int, ...]
    """Of an example."""
    crossing: int
    """How many features of an example are added up over the model axis: the outputs of each pair of
    split dense layers, and, unless the pair comes first, the gradient by its inputs."""


NETWORKS = {
    "dense network 784-512-256-10": Workload(
        nn.serial(nn.dense(512), nn.relu(), nn.dense(256), nn.relu(), nn.dense(10)),
        (784,),
        256,
    ),
    "CNN": Workload(
        nn.fuse(make_network()),
        (28, 28, 1),
        10 + 3136,
    ),
}


def step_on(name: str, mesh: Mesh | None, layout: str = "replicated") -> tuple[Callable, tuple]:
    """The jitted training step of a network on a mesh, or without one, and its arguments."""
    network, shape, _ = NETWORKS[name]
    batch = BATCH if mesh is None else BATCH * mesh.shape["data"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    target = rng.integers(0, 10, batch).astype(np.int32)
    optimizer = make_optimizer("adam", 1e-3)
    state = create_state(network, optimizer, jax.random.key(0), x[:1])
    gradient = nn.backprop(network, LOSS)
    if mesh is None:
        return jax.jit(make_step(gradient, optimizer)), (state, jnp.asarray(x), jnp.asarray(target))
    state = place(state, mesh, network, optimizer, LAYOUTS[layout])
    step = keep_layout(make_step(gather_params(gradient, state), optimizer), state)
    return jax.jit(step), (state, *place_examples((x, target), mesh))


def contenders(name: str) -> dict[str, Contender]:
    """The step without a mesh, and the same step sharded over a mesh of one device."""
    alone = make_mesh(1, devices=jax.devices()[:1])
    return {
        "one device": _contender(*step_on(name, None), None),
        "mesh of one device": _contender(*step_on(name, alone), alone),
    }


def _contender(step: Callable, arguments: tuple, mesh: Mesh | None) -> Contender:
    def run() -> None:
        jax.block_until_ready(step(*arguments))

    program = on_mesh(mesh, inspect_program)(step, *arguments)
    return Contender(on_mesh(mesh, run), program=program)


def figures_on(devices: int, repeats: int) -> dict[str, Any]:
    """Of this process, with as many devices: the seconds of a step, and what it sends."""
    results: dict[str, Any] = {}
    for name in NETWORKS:
        mesh = make_mesh(devices)
        contender = _contender(*step_on(name, mesh), mesh)
        seconds = take_turns({name: contender}, repeats)[name].minimum
        layouts = LAYOUTS if devices > 1 else ()
        sent = {layout: communication(name, layout, devices) for layout in layouts}
        results[name] = {"seconds": seconds, "communication": sent}
    return results


def communication(name: str, layout: str, devices: int) -> dict[str, float]:
    """Bytes that a device sends in a step: by the compiled program and by the formula.

    On n devices with P bytes of parameters in all, a ring sends

    - replicated: 2 (n − 1)/n P, the all-reduce of the gradients;
    - fully sharded: (n − 1)/n P more, to gather the parameters;
    - tensor parallel on d · 2 devices: 2 (d − 1)/d of the bytes of a device's own parameters, and
      2 (2 − 1)/2 of the features that a pair of split layers adds up, of the examples of a device.

    Winograd's convolution adds up 16 products over the devices, not the 9 elements of a kernel that
    are computed of them, and so sends more than the formula.
    """
    model = 2 if layout == "tensor_parallel" else 1
    mesh = make_mesh(devices // model, model)
    step, arguments = step_on(name, mesh, layout)
    with jax.set_mesh(mesh):
        compiled = sent_bytes(step.lower(*arguments).compile())
    params = jax.tree.leaves(arguments[0].params)
    ring = (mesh.shape["data"] - 1) / mesh.shape["data"]
    if layout == "tensor_parallel":
        own = sum(leaf.addressable_data(0).nbytes for leaf in params)
        formula = 2 * ring * own + 4 * BATCH * NETWORKS[name].crossing
    else:
        formula = (2 if layout == "replicated" else 3) * ring * sum(leaf.nbytes for leaf in params)
    return {"compiled": compiled, "formula": formula}


def _in_own_process(devices: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, str(devices), str(repeats)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _weak_scaling(repeats: int) -> dict[str, Any]:
    figures = {devices: _in_own_process(devices, repeats) for devices in COUNTS}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"\nweak scaling, {BATCH} examples for each virtual device, {cores} cores: seconds of a "
        "step, and as a multiple of that of one device"
    )
    rows = [("", *(f"{devices} devices" for devices in COUNTS), "")]
    for name in NETWORKS:
        seconds = [figures[devices][name]["seconds"] for devices in COUNTS]
        rows.append((name, *(f"{in_seconds(t)} ({t / seconds[0]:.2f})" for t in seconds), ""))
    print(align(rows))
    print("\nwhat a device sends in a step: by the compiled program (by the formula), MB")
    rows = [("", *(f"{devices} devices" for devices in COUNTS[1:]), "")]
    for name in NETWORKS:
        for layout in LAYOUTS:
            cells = (figures[devices][name]["communication"][layout] for devices in COUNTS[1:])
            shown = (f"{c['compiled'] / 1e6:.3f} ({c['formula'] / 1e6:.3f})" for c in cells)
            rows.append((f"{name}, {layout}", *shown, ""))
    print(align(rows), flush=True)
    return {str(devices): figures[devices] for devices in COUNTS}


def run(settings: Settings) -> dict[str, Any]:
    """Measure all workloads and print a table for each."""
    workloads: Workloads = {
        f"step on a mesh of one device, {name}": partial(contenders, name) for name in NETWORKS
    }
    results = measure(workloads, settings, table)
    if settings.wants("weak scaling"):
        results["weak scaling"] = _weak_scaling(settings.repeats)
    return results


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    print(json.dumps(figures_on(*map(int, sys.argv[1:]))))
