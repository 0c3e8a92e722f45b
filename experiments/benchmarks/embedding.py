"""Training steps of a large table of vectors, of which a batch looks up a few rows.

50,000 vectors of 256 numbers, 4,096 ids a step, a dense layer on top, Adam; the state of training
is donated, so that it is changed in place.

- jaxnn, lazy rows: `update_in_backward(lazy_rows=True)`, whose step is of the rows looked up.
- jaxnn: the step of the whole table.
- jax.grad: the same by autodiff, with `optax.adam`.
- torch, sparse: `nn.Embedding(sparse=True)` with `SparseAdam`. torch: dense, with fused Adam.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.benchmarks.measuring import Contender, Settings, inspect_program, measure, table
from jaxnn.training import create_state, make_step, update_in_backward

VOCABULARY, FEATURES, IDS, RATE = 50_000, 256, 4096, 1e-3
LOSS = nn.mean_squared_error()


def make_network() -> nn.Layer:
    """The table and a dense layer."""
    return nn.serial(nn.embedding(VOCABULARY, FEATURES), nn.dense(1))


def data() -> tuple[np.ndarray, np.ndarray]:
    """Ids [batch, 1] and targets."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, (IDS, 1)).astype(np.int32)
    return ids, rng.normal(size=(IDS, 1, 1)).astype(np.float32)


def steps() -> dict[str, Contender]:
    """One training step of every contender."""
    network, optimizer = make_network(), optax.adam(RATE)
    x, target = map(jnp.asarray, data())

    def plain_loss(params: Any, state: Any, x: Any, target: Any) -> Any:
        table, top = params
        y = table["weight"][x] @ top["weight"] + top["bias"]
        return jnp.mean((y - target) ** 2)

    def by_grad(params: Any, state: Any, x: Any, target: Any, key: Any, weights: Any) -> Any:
        value, gradients = jax.value_and_grad(plain_loss)(params, state, x, target)
        return (value, state), gradients

    lazy = update_in_backward(network, LOSS, optimizer, lazy_rows=True)
    contenders = {
        "jaxnn, lazy rows": _contender(lazy, lazy.create_state(jax.random.key(0), x), x, target)
    }
    ways = {"jaxnn": nn.backprop(network, LOSS), "jax.grad": by_grad}
    for name, gradient in ways.items():
        state = create_state(network, optimizer, jax.random.key(0), x)
        contenders[name] = _contender(make_step(gradient, optimizer), state, x, target)
    return contenders | _torch_steps()


def _contender(step: Callable, state: Any, x: Any, target: Any) -> Contender:
    compiled, held = jax.jit(step, donate_argnums=0), [state]
    program = inspect_program(compiled, state, x, target)

    def run() -> None:
        held[0], value = compiled(held[0], x, target)
        jax.block_until_ready((held[0], value))

    return Contender(run, program=program)


def _torch_steps() -> dict[str, Contender]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("torch: left out, not installed")
        return {}
    x, target = (torch.tensor(a) for a in data())

    def make(sparse: bool) -> Contender:
        rows = torch.nn.Embedding(VOCABULARY, FEATURES, sparse=sparse)
        top = torch.nn.Linear(FEATURES, 1)
        of_rows = torch.optim.SparseAdam if sparse else torch.optim.Adam
        fused = {} if sparse else {"fused": True}
        optimizers = (
            of_rows(rows.parameters(), lr=RATE, **fused),
            torch.optim.Adam(top.parameters(), lr=RATE, fused=True),
        )

        def run() -> None:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            ((top(rows(x.long())) - target) ** 2).mean().backward()
            for optimizer in optimizers:
                optimizer.step()

        return Contender(run)

    return {"torch, sparse": make(True), "torch": make(False)}


def run(settings: Settings) -> dict[str, Any]:
    """Measure, and print a table."""
    work = f"{VOCABULARY} × {FEATURES}, {IDS} ids a step"
    return measure({f"embedding of {work}, training step": steps}, settings, table)
