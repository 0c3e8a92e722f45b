"""Training steps of convolutional networks against idiomatic JAX, Flax and PyTorch.

The network is that of configs/fashion_cnn.toml without dropout: 28 × 28 × 1, conv 3×3 32, pool,
conv 3×3 64, pool, dense 128, dense 10; batch 128, Adam. Every contender has the same sizes and
optimiser and starts with parameters of the same shapes.

- jaxnn manual: the hand-derived backward pass of the network that `fuse` makes of it.
- jaxnn, layer by layer: the same without `fuse`.
- jax.grad: `lax.conv_general_dilated` and `lax.reduce_window`, as an idiomatic user would write it.
- jax.grad, reshape pool: the same with the maximum over a reshaped axis, which autodiff likes more.
- flax: linen layers. flax, two lines changed: the same model with the operations of jaxnn.interop.
- torch: eager, default and channels_last memory, each with 1 and with all threads.

A scan is one program of several steps; times are for one step. The contenders in JAX have their
batch spread over all devices that there are. On CPU two virtual ones beat two threads in one:

    python -m experiments.benchmark cnn --devices 2

Where there are several, jax.grad runs on one alone as well, which is what one gets by writing it.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    inspect_program,
    measure,
    table,
)
from jaxnn import interop
from jaxnn.sharding import DATA, make_mesh, mesh_of, on_mesh

BATCH, CLASSES, RATE = 128, 10, 1e-3


def make_network() -> nn.Layer:
    """The network, of jaxnn's layers."""
    return nn.serial(
        nn.conv(32, (3, 3)),
        nn.relu(),
        nn.max_pool(2),
        nn.conv(64, (3, 3)),
        nn.relu(),
        nn.max_pool(2),
        nn.flatten(),
        nn.dense(128),
        nn.relu(),
        nn.dense(CLASSES),
    )


def make_block(features: int = 64) -> nn.Layer:
    """A block of a residual network: two 3×3 convolutions with batch norm around a skip."""
    return nn.serial(
        nn.skip(
            nn.conv(features, (3, 3), use_bias=False),
            nn.batch_norm(),
            nn.relu(),
            nn.conv(features, (3, 3), use_bias=False),
            nn.batch_norm(),
        ),
        nn.relu(),
    )


def data(examples: int = BATCH) -> tuple[jax.Array, jax.Array]:
    """Random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(examples, 28, 28, 1)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(CLASSES, size=examples))


def library_pool(x: jax.Array) -> jax.Array:
    """The maximum of 2×2 windows as `lax` has it."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def reshape_pool(x: jax.Array) -> jax.Array:
    """The maximum of 2×2 windows over axes made by a reshape."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def plain_loss(pool: Callable, params: list[dict], x: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of the network, written with `jax.lax` and nothing of jaxnn."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    for layer in params[:2]:
        y = lax.conv_general_dilated(x, layer["weight"], (1, 1), "SAME", None, None, dimensions)
        x = pool(jax.nn.relu(y + layer["bias"]))
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params[2]["weight"] + params[2]["bias"])
    logits = x @ params[3]["weight"] + params[3]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def spread(tree: Any, devices: Sequence[Any], batch_axis: int | None = None) -> Any:
    """The arrays on the devices, split along the axis of the batch or whole on each."""
    axes = () if batch_axis is None else (*(None,) * batch_axis, DATA)
    return jax.device_put(tree, NamedSharding(make_mesh(devices=devices), PartitionSpec(*axes)))


def placements(contender: str) -> dict[str, list[Any]]:
    """The devices that a contender runs on, by the name that it has there."""
    every = jax.devices()
    alone = contender.startswith("jax.grad") and len(every) > 1
    return {contender: every} | ({f"{contender}, one device": every[:1]} if alone else {})


def gradients() -> dict[str, tuple[Callable, Any]]:
    """By contender: (params, x, labels) -> gradient, and the initial parameters."""
    network, loss = make_network(), nn.softmax_cross_entropy()
    x, _ = data()
    params, state = network.init(jax.random.key(0), x)
    manual, by_layer = nn.backprop(nn.fuse(network), loss), nn.backprop(network, loss)
    plain_params = [p for p in params if p]
    contenders = {
        "jaxnn manual": (lambda p, x, y: manual(p, state, x, y)[1], params),
        "jaxnn, layer by layer": (lambda p, x, y: by_layer(p, state, x, y)[1], params),
        "jax.grad": (jax.grad(partial(plain_loss, library_pool)), plain_params),
        "jax.grad, reshape pool": (jax.grad(partial(plain_loss, reshape_pool)), plain_params),
    }
    try:
        from flax import linen
    except ImportError:
        print("flax: left out, not installed")
        return contenders
    contenders["flax"] = _flax(linen, linen.max_pool, None)
    contenders["flax, two lines changed"] = _flax(
        linen, interop.max_pool, interop.conv_general_dilated
    )
    return contenders


def _flax(linen: Any, pool: Callable, convolve: Callable | None) -> tuple[Callable, Any]:
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            for features in (32, 64):
                x = linen.Conv(features, (3, 3), conv_general_dilated=convolve)(x)
                x = pool(linen.relu(x), (2, 2), strides=(2, 2))
            x = linen.relu(linen.Dense(128)(x.reshape(x.shape[0], -1)))
            return linen.Dense(CLASSES)(x)

    model = Model()

    def loss(params, x, labels):
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.grad(loss), model.init(jax.random.key(0), data()[0])


def steps(scanned: int = 0) -> dict[str, Contender]:
    """One training step of every contender, or ``scanned`` of them in one program."""
    optimizer = optax.adam(RATE)
    batches, axis = data(BATCH * max(scanned, 1)), 0
    if scanned:
        batches = jax.tree.map(lambda a: a.reshape(scanned, BATCH, *a.shape[1:]), batches)
        axis = 1
    contenders = {}
    for name, (gradient, params) in gradients().items():

        def step(carry, batch, gradient=gradient):
            params, state = carry
            updates, state = optimizer.update(gradient(params, *batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        def program(carry, batches, step=step):
            if not scanned:
                return step(carry, batches)[0]
            return lax.scan(step, carry, batches)[0]

        for label, devices in placements(name).items():
            carry = spread((params, optimizer.init(params)), devices)
            placed = spread(batches, devices, axis)
            contenders[label] = _contender(program, carry, placed, work=max(scanned, 1))
    return contenders | _torch_steps(max(scanned, 1))


def blocks(size: int = 16, features: int = 64, batch: int = BATCH) -> dict[str, Contender]:
    """Forward and backward of a residual block with batch norm in training."""
    rng = np.random.default_rng(0)
    x, dy = (
        jnp.asarray(rng.normal(size=(batch, size, size, features)), jnp.float32) for _ in range(2)
    )
    block = make_block(features)
    params, state = block.init(jax.random.key(0), x)

    def manual(params, x, dy):
        y, new_state, residuals = block.forward(params, state, x, None)
        dx, captures = block.backward(params, residuals, dy)
        return jnp.sum(y), new_state, dx, nn.contract(captures)

    def plain(params, x):
        y = x
        for index, layer in enumerate(params):
            dimensions = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(y, layer["weight"], (1, 1), "SAME", None, None, dimensions)
            mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
            y = (y - mean) * lax.rsqrt(variance + 1e-5) * layer["scale"] + layer["offset"]
            y = jax.nn.relu(y) if index == 0 else y
        return jax.nn.relu(x + y)

    def by_grad(params, x, dy):
        y, vjp = jax.vjp(plain, params, x)
        return jnp.sum(y), vjp(dy)

    dicts = [
        part for part in jax.tree.leaves(params, is_leaf=lambda p: isinstance(p, dict)) if part
    ]
    plain_params = [dicts[0] | dicts[1], dicts[2] | dicts[3]]
    programs = {"jaxnn manual": (manual, params), "jax.grad": (by_grad, plain_params)}
    contenders = {
        label: _contender(program, spread(tree, devices), *spread((x, dy), devices, 0))
        for name, (program, tree) in programs.items()
        for label, devices in placements(name).items()
    }
    return contenders | _torch_blocks(x, dy)


def _contender(function: Callable, *arguments: Any, work: int = 1) -> Contender:
    compiled, mesh = jax.jit(function), mesh_of(arguments)
    return Contender(
        run=on_mesh(mesh, lambda: jax.block_until_ready(compiled(*arguments))),
        program=on_mesh(mesh, inspect_program)(compiled, *arguments),
        work=work,
    )


def _torch() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("torch: left out, not installed")
        return None
    return torch


def _torch_variants(torch: Any, make: Callable[[Any], Contender]) -> dict[str, Contender]:
    """Each memory format with 1 thread and with all."""
    contenders = {}
    layouts = {"": torch.contiguous_format, ", channels_last": torch.channels_last}
    for layout, memory_format in layouts.items():
        for threads in sorted({1, os.cpu_count() or 1}):
            contender = make(memory_format)
            contenders[f"torch{layout}, {threads} threads"] = contender._replace(
                prepare=partial(torch.set_num_threads, threads)
            )
    return contenders


def torch_network(torch: Any) -> Any:
    """The network in PyTorch."""
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(1, 32, 3, padding=1),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(32, 64, 3, padding=1),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(64 * 49, 128),
        layers.ReLU(),
        layers.Linear(128, CLASSES),
    )


def _torch_steps(count: int) -> dict[str, Contender]:
    torch = _torch()
    if torch is None:
        return {}
    x, labels = data(BATCH * count)
    target = torch.tensor(np.array(labels)).long()

    def make(memory_format: Any) -> Contender:
        model = torch_network(torch).to(memory_format=memory_format)
        images = torch.tensor(np.array(x)).permute(0, 3, 1, 2).contiguous()
        images = images.to(memory_format=memory_format)
        optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)

        def run():
            for start in range(0, len(images), BATCH):
                optimizer.zero_grad(set_to_none=True)
                logits = model(images[start : start + BATCH])
                loss = torch.nn.functional.cross_entropy(logits, target[start : start + BATCH])
                loss.backward()
                optimizer.step()

        return Contender(run, work=count)

    return _torch_variants(torch, make)


def _torch_blocks(x: jax.Array, dy: jax.Array) -> dict[str, Contender]:
    torch = _torch()
    if torch is None:
        return {}
    features = x.shape[-1]

    def make(memory_format: Any) -> Contender:
        layers = torch.nn
        branch = layers.Sequential(
            layers.Conv2d(features, features, 3, padding=1, bias=False),
            layers.BatchNorm2d(features),
            layers.ReLU(),
            layers.Conv2d(features, features, 3, padding=1, bias=False),
            layers.BatchNorm2d(features),
        ).to(memory_format=memory_format)
        inputs, deltas = (
            torch.tensor(np.array(a)).permute(0, 3, 1, 2).contiguous() for a in (x, dy)
        )
        inputs = inputs.to(memory_format=memory_format).requires_grad_()
        deltas = deltas.to(memory_format=memory_format)

        def run():
            inputs.grad = None
            branch.zero_grad(set_to_none=True)
            torch.relu(inputs + branch(inputs)).backward(deltas)

        return Contender(run)

    return _torch_variants(torch, make)


WORKLOADS: dict[str, Callable[[], dict[str, Contender]]] = {
    "CNN training step": steps,
    "CNN training step in a scan of 4": partial(steps, 4),
    "residual block, 128 × 16 × 16 × 64, forward and backward": blocks,
}


def run(settings: Settings) -> dict[str, Any]:
    """Measure all workloads and print a table for each."""
    return measure(WORKLOADS, settings, table)
