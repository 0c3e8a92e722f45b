"""Attention, a transformer block, and the loss of a large vocabulary: time and memory.

Every workload is one forward and one backward pass with gradients of all inputs and parameters, on
the same numbers for every contender.

- jaxnn block: attention that never holds the weights of all pairs; jaxnn: the textbook form.
- jax.vjp: the formula as one would write it in JAX; jax.nn: `jax.nn.dot_product_attention`.
- torch: eager, `scaled_dot_product_attention` or the modules of torch.nn, with 1 and all threads.

The temporary memory is what XLA's plan of a program has beside its arguments and results.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxnn as nn
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    inspect_program,
    measure,
    table,
)
from jaxnn.layers.attention import blocks, plain

BLOCK = 512
Programs = dict[str, tuple[Callable, tuple]]


def heads(length: int = 2048, count: int = 8, depth: int = 64, causal: bool = False) -> Programs:
    """(q, k, v, do) -> (o, dq, dk, dv) of one sequence, q and o [1, heads, 1, time, depth]."""
    q, do = (_normal(seed, (1, count, 1, length, depth)) for seed in (0, 1))
    k, v = (_normal(seed, (1, count, length, depth)) for seed in (2, 3))
    past = jnp.tril(jnp.ones((length, length), bool)) if causal else None
    visible = None if past is None else past[None, None, None]
    block = min(BLOCK, length)
    geometry = blocks.Geometry(length, length, block, block, causal)

    def in_blocks(q: Array, k: Array, v: Array, do: Array):
        o, kept = blocks.attend(q, k, v, None, geometry, 0.0, None)
        return o, *blocks.attend_backward(kept, geometry, 0.0, do)[:3]

    def textbook(q: Array, k: Array, v: Array, do: Array):
        o, kept = plain.attend(q, k, v, visible, 0.0, None)
        return o, *plain.attend_backward(kept, 0.0, do)[:3]

    def formula(q: Array, k: Array, v: Array):
        scores = jnp.einsum("bgrtd,bgsd->bgrts", q, k) / math.sqrt(depth)
        scores = scores if past is None else jnp.where(past, scores, -jnp.inf)
        return jnp.einsum("bgrts,bgsd->bgrtd", jax.nn.softmax(scores), v)

    def library(q: Array, k: Array, v: Array):
        q, k, v = (a.reshape(1, count, length, depth).swapaxes(1, 2) for a in (q, k, v))
        o = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
        return o.swapaxes(1, 2).reshape(1, count, 1, length, depth)

    def pulled_back(function: Callable):
        def run(q: Array, k: Array, v: Array, do: Array):
            o, vjp = jax.vjp(function, q, k, v)
            return o, *vjp(do)

        return run

    programs = {
        "jaxnn block": in_blocks,
        "jaxnn": textbook,
        "jax.vjp": pulled_back(formula),
        "jax.nn": pulled_back(library),
    }
    return {name: (program, (q, k, v, do)) for name, program in programs.items()}


def transformer(batch: int = 8, length: int = 128, features: int = 256, count: int = 4) -> Programs:
    """(params, x, dy) -> (y, gradients, dx) of a causal pre-norm block with GELU."""
    x, dy = (_normal(seed, (batch, length, features)) for seed in (0, 1))
    layer = nn.transformer_block(features, count, causal=True)
    params, state = layer.init(jax.random.key(0), x)
    flat = [p for _, _, p in nn.walk(layer, params) if p]

    def by_hand(params: Any, x: Array, dy: Array):
        y, _, residuals = layer.forward(params, state, x, None)
        dx, captures = layer.backward(params, residuals, dy)
        gradients = nn.contract(captures)
        return y, [g for _, _, g in nn.walk(layer, gradients) if g], dx

    def norm(p: dict, x: Array):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["scale"] + p["offset"]

    def linear(p: dict, x: Array):
        return x @ p["weight"] + p["bias"]

    def formula(params: list, x: Array):
        first, attend, second, widen, narrow = params
        h = norm(first, x)
        names = ("query", "key", "value")
        q, k, v = (linear(attend[n], h).reshape(batch, length, count, -1) for n in names)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(features // count)
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        o = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
        x = x + linear(attend["output"], o.reshape(x.shape))
        return x + linear(narrow, jax.nn.gelu(linear(widen, norm(second, x))))

    def by_autodiff(params: list, x: Array, dy: Array):
        y, vjp = jax.vjp(formula, params, x)
        return y, *vjp(dy)

    return {"jaxnn": (by_hand, (params, x, dy)), "jax.vjp": (by_autodiff, (flat, x, dy))}


def vocabulary(positions: int = 1024, features: int = 256, classes: int = 32_000) -> Programs:
    """(params, x, labels) -> (loss, gradients) of a projection and softmax cross-entropy."""
    x = _normal(0, (8, positions // 8, features))
    labels = jnp.asarray(np.random.default_rng(1).integers(classes, size=x.shape[:2]))
    fused, loss = nn.projection(classes), nn.projected_cross_entropy(min(128, positions))
    params, state = fused.init(jax.random.key(0), x)
    whole = nn.backprop(nn.dense(classes), nn.softmax_cross_entropy())
    in_blocks = nn.backprop(fused, loss)

    def formula(params: dict, x: Array, labels: Array):
        logits = x @ params["weight"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def take(gradient: Callable):
        def run(params: dict, x: Array, labels: Array):
            (value, _), gradients = gradient(params, state, x, labels)
            return value, gradients

        return run

    programs = {
        "jaxnn fused": take(in_blocks),
        "jaxnn": take(whole),
        "jax.grad": jax.value_and_grad(formula),
    }
    return {name: (program, (params, x, labels)) for name, program in programs.items()}


def _normal(seed: int, shape: tuple) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def compiled(programs: Programs) -> dict[str, Contender]:
    """The programs as contenders."""
    contenders = {}
    for name, (program, arguments) in programs.items():
        jitted = jax.jit(program)
        contenders[name] = Contender(
            run=lambda f=jitted, a=arguments: jax.block_until_ready(f(*a)),
            program=inspect_program(jitted, *arguments),
        )
    return contenders


def torch_heads(length: int = 2048, count: int = 8, depth: int = 64, causal: bool = False):
    """(torch) -> the work of `heads`."""

    def make(torch: Any) -> Callable[[], object]:
        q, k, v = (torch.randn(1, count, length, depth, requires_grad=True) for _ in range(3))
        do = torch.randn(1, count, length, depth)
        attend = torch.nn.functional.scaled_dot_product_attention

        def run():
            q.grad = k.grad = v.grad = None
            attend(q, k, v, is_causal=causal).backward(do)

        return run

    return make


def torch_transformer(
    torch: Any, batch: int = 8, length: int = 128, features: int = 256, count: int = 4
) -> Callable[[], object]:
    """The work of `transformer`, by the modules of torch.nn."""
    layers = torch.nn
    norms = [layers.LayerNorm(features) for _ in range(2)]
    joint, output = layers.Linear(features, 3 * features), layers.Linear(features, features)
    widen, narrow = layers.Linear(features, 4 * features), layers.Linear(4 * features, features)
    activation = layers.GELU(approximate="tanh")
    modules = layers.ModuleList([*norms, joint, output, widen, narrow])
    x, dy = (
        torch.randn(batch, length, features, requires_grad=True),
        torch.randn(batch, length, features),
    )

    def run():
        x.grad = None
        modules.zero_grad(set_to_none=True)
        split = joint(norms[0](x)).reshape(batch, length, 3, count, -1).permute(2, 0, 3, 1, 4)
        o = layers.functional.scaled_dot_product_attention(*split, is_causal=True)
        y = x + output(o.transpose(1, 2).reshape(batch, length, features))
        (y + narrow(activation(widen(norms[1](y))))).backward(dy)

    return run


def in_torch(make: Callable[[Any], Callable[[], object]]) -> dict[str, Contender]:
    """PyTorch's way with one thread and with all, where it is installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("torch: left out, not installed")
        return {}
    run = make(torch)
    counts = sorted({1, os.cpu_count() or 1})
    return {
        f"torch, {count} thread{'s' * (count > 1)}": Contender(
            run, prepare=lambda n=count: torch.set_num_threads(n)
        )
        for count in counts
    }


def _heads(causal: bool) -> dict[str, Contender]:
    return compiled(heads(causal=causal)) | in_torch(torch_heads(causal=causal))


def _transformer() -> dict[str, Contender]:
    return compiled(transformer()) | in_torch(torch_transformer)


WORKLOADS: dict[str, Callable[[], dict[str, Contender]]] = {
    "full attention, 8 heads, 2048 × 64": partial(_heads, False),
    "causal attention, 8 heads, 2048 × 64": partial(_heads, True),
    "transformer block, 8 × 128 × 256, 4 heads": _transformer,
    "cross-entropy of 1024 × 256 over 32,000 classes": lambda: compiled(vocabulary()),
}


def run(settings: Settings) -> dict[str, Any]:
    """Measure all workloads and print a table for each."""
    return measure(WORKLOADS, settings, table)
