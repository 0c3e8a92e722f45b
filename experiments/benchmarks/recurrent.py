"""Recurrent layers, forward and backward, against `jax.grad` of scanned cells and PyTorch.

Batch 64, 64 features into 128, float32; outputs, and the gradients of the input and of all
parameters for a given cotangent of every output.

- jaxnn manual: the hand-derived backward pass; chunked, with what lies between states recomputed.
- jax.grad: `lax.scan` over a cell as one writes it, projections inside; hoisted, with that
  of the inputs before the scan.
- torch: `nn.LSTM` and `nn.GRU`, eager, with 1 and with all threads.

The contenders in JAX have their batch spread over all devices that there are. On CPU two virtual
ones beat two threads in one:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m experiments.benchmark recurrent
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxnn as nn
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    inspect_program,
    measure,
    table,
)

BATCH, SIZE, FEATURES, CHUNK = 64, 64, 128, 32
CELLS: dict[str, tuple[Callable[..., nn.Layer], int]] = {"LSTM": (nn.lstm, 2), "GRU": (nn.gru, 1)}
"""By PyTorch's name: the layer, and the arrays of its state."""


def cell_of(kind: str, params: dict, state: tuple, of_x: jax.Array) -> tuple:
    """One time, from the projected input, as PyTorch's documentation has it."""
    of_h = state[0] @ params["recurrent"]["weight"]
    if kind == "LSTM":
        i, f, g, o = jnp.split(of_x + of_h, 4, -1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    xr, xz, xn = jnp.split(of_x, 3, -1)
    hr, hz, hn = jnp.split(of_h + params["recurrent"]["bias"], 3, -1)
    z = jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)
    return ((1 - z) * n + z * state[0],)


def scanned(kind: str, hoist: bool, params: dict, x: jax.Array) -> jax.Array:
    """Every output, written with `lax.scan` and nothing of jaxnn."""

    def project(x):
        return x @ params["input"]["weight"] + params["input"]["bias"]

    def body(state, x):
        state = cell_of(kind, params, state, x if hoist else project(x))
        return state, state[0]

    state = (jnp.zeros((x.shape[0], FEATURES), x.dtype),) * CELLS[kind][1]
    xs = jnp.swapaxes(x, 0, 1)
    _, hs = lax.scan(body, state, project(xs) if hoist else xs)
    return jnp.swapaxes(hs, 0, 1)


def passes(kind: str, time: int) -> dict[str, Contender]:
    """Forward and backward of every contender over so many times."""
    layer, chunked = CELLS[kind][0](FEATURES), CELLS[kind][0](FEATURES, chunk=CHUNK)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, time, SIZE)), jnp.float32)
    dy = jnp.asarray(rng.normal(size=(BATCH, time, FEATURES)), jnp.float32)
    params, state = layer.init(jax.random.key(0), x)
    torch = _torch_passes(kind, params, x, dy)
    params, x, dy = _spread(params, x, dy)

    def manual(layer, params, x, dy):
        layer = layer.summing()  # as `jaxnn.backprop` does
        y, _, residuals = layer.forward(params, state, x, None)
        dx, captures = layer.backward(params, residuals, dy)
        return y, nn.contract(captures), dx

    def by_grad(hoist, params, x, dy):
        y, vjp = jax.vjp(partial(scanned, kind, hoist), params, x)
        return y, *vjp(dy)

    programs = {
        "jaxnn manual": partial(manual, layer),
        f"jaxnn manual, chunks of {CHUNK}": partial(manual, chunked),
        "jax.grad": partial(by_grad, False),
        "jax.grad, hoisted": partial(by_grad, True),
    }
    contenders, expected = {}, None
    for name, program in programs.items():
        compiled = jax.jit(program)
        info = inspect_program(compiled, params, x, dy)
        result = jax.tree.map(np.asarray, compiled(params, x, dy))
        expected = result if expected is None else expected
        jax.tree.map(partial(_require_same, name), result, expected)
        contenders[name] = Contender(
            run=lambda compiled=compiled: jax.block_until_ready(compiled(params, x, dy)),
            program=info,
        )
    return contenders | torch


def _require_same(name: str, value: np.ndarray, expected: np.ndarray) -> None:
    """No one can skip work: what a contender computes is compared with the first."""
    error = np.linalg.norm(value - expected) / np.linalg.norm(expected)
    if not error < 1e-4:
        raise RuntimeError(f"expected all contenders to agree, {name} is off by {error:.1e}")


def _spread(params: Any, x: jax.Array, dy: jax.Array) -> tuple:
    """Parameters on every device, the batch divided among them."""
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,))
    whole, divided = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    return jax.device_put(params, whole), *jax.device_put((x, dy), divided)


def _torch_passes(kind: str, params: dict, x: jax.Array, dy: jax.Array) -> dict[str, Contender]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("torch: left out, not installed")
        return {}
    model = getattr(torch.nn, kind)(SIZE, FEATURES, batch_first=True)
    with torch.no_grad():
        for ours, theirs in (("input", "ih"), ("recurrent", "hh")):
            weight, bias = np.array(params[ours]["weight"]), params[ours].get("bias")
            bias = np.zeros(weight.shape[1], np.float32) if bias is None else np.array(bias)
            getattr(model, f"weight_{theirs}_l0").copy_(torch.tensor(weight.T))
            getattr(model, f"bias_{theirs}_l0").copy_(torch.tensor(bias))
    inputs, deltas = (torch.tensor(np.array(a)) for a in (x, dy))
    inputs.requires_grad_()

    def run():
        inputs.grad = None
        model.zero_grad(set_to_none=True)
        y, _ = model(inputs)
        y.backward(deltas)
        return y

    y = run().detach().numpy()
    _require_same("torch", y, np.asarray(scanned(kind, True, params, x)))
    return {
        f"torch, {threads} threads": Contender(run, partial(torch.set_num_threads, threads))
        for threads in sorted({1, os.cpu_count() or 1})
    }


WORKLOADS: dict[str, Callable[[], dict[str, Contender]]] = {
    f"{kind}, {time} times": partial(passes, kind, time) for time in (64, 512) for kind in CELLS
}


def run(settings: Settings) -> dict[str, Any]:
    """Measure all workloads and print a table for each."""
    return measure(WORKLOADS, settings, table)
