"""Captures of models that are written in Flax, against ``jax.vmap(jax.grad)`` of the same model.

Squared norms of the gradients of a batch of examples, for the MLP 784-512-256-10 and the CNN of
`experiments.benchmarks.cnn` (batch 128), and a transformer (4 blocks, width 256, 8 heads, 128
words, batch 16); and a step of private training of the CNN (norms, clipping, noise) beside its
plain one.

- captures: of the unmodified Flax model, by `jaxnn.interop`.
- jaxnn: the same network of jaxnn's own layers.
- vmap(jax.grad): norms added up within one program, so that XLA need not hold the gradients.
- vmap(jax.grad), held: two programs, the gradients of the examples between them.
- jax.grad: the gradient of the mean loss alone, for comparison.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

import jaxnn as nn
from experiments.benchmarks import cnn, statistics
from experiments.benchmarks.measuring import Contender, Settings, inspect_program, measure, table
from jaxnn import interop
from jaxnn.learning.privacy import private
from jaxnn.statistics import per_example_squared_norms

LOSS = nn.softmax_cross_entropy()
CLASSES = 10


class MLP(linen.Module):
    """784-512-256-10."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Scores."""
        x = x.reshape((x.shape[0], -1))
        for features in (512, 256):
            x = linen.relu(linen.Dense(features)(x))
        return linen.Dense(CLASSES)(x)


class CNN(linen.Module):
    """That of `experiments.benchmarks.cnn`."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Scores."""
        for features in (32, 64):
            x = linen.relu(linen.Conv(features, (3, 3))(x))
            x = linen.max_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Dense(128)(x.reshape((x.shape[0], -1))))
        return linen.Dense(CLASSES)(x)


class Transformer(linen.Module):
    """Blocks with the norm first, as `jaxnn.transformer_block` has it."""

    words: int = 1000
    width: int = 256
    blocks: int = 4

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Scores."""
        x = linen.Embed(self.words, self.width)(x)
        for _ in range(self.blocks):
            x = x + linen.MultiHeadDotProductAttention(8)(linen.LayerNorm()(x))
            h = linen.relu(linen.Dense(4 * self.width)(linen.LayerNorm()(x)))
            x = x + linen.Dense(self.width)(h)
        return linen.Dense(CLASSES)(linen.LayerNorm()(x).mean(1))


def own_transformer(words: int = 1000, width: int = 256, blocks: int = 4) -> nn.Layer:
    """The same of jaxnn's layers."""
    block = nn.transformer_block(width, 8, hidden=4 * width, activation=nn.relu())
    return nn.serial(
        nn.embedding(words, width),
        *[block] * blocks,
        nn.layer_norm(),
        nn.global_avg_pool(),
        nn.dense(CLASSES),
    )


def words() -> tuple[jax.Array, jax.Array]:
    """Random words and labels."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, 1000, (16, 128))), jnp.asarray(rng.integers(0, CLASSES, 16))


MODELS: dict[str, tuple[linen.Module, Callable[[], nn.Layer], Callable]] = {
    "MLP": (MLP(), statistics.make_mlp, cnn.data),
    "CNN": (CNN(), cnn.make_network, cnn.data),
    "transformer": (Transformer(), own_transformer, words),
}


def norms(name: str) -> dict[str, Contender]:
    """Every way to the squared norms."""
    module, make_own, make_data = MODELS[name]
    x, labels = make_data()
    variables = module.init(jax.random.key(0), x)
    layer, params, state = interop.from_linen(module, variables)
    own = nn.fuse(make_own())
    own_params, own_state = own.init(jax.random.key(0), x)

    def loss(params: Any, x: Any, label: Any) -> Any:
        return LOSS.value(module.apply({"params": params}, x[None]), label[None])[0]

    def summed(gradients: Any) -> Any:
        return sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(gradients))

    each = jax.vmap(jax.grad(loss), (None, 0, 0))

    def mean_loss(params: Any, x: Any, labels: Any) -> Any:
        return jnp.mean(LOSS.value(module.apply({"params": params}, x), labels))

    theirs, ours = (params, x, labels), (own_params, own_state, x, labels)
    programs = {
        "captures": (per_example_squared_norms(layer, LOSS), (params, state, x, labels)),
        "jaxnn": (per_example_squared_norms(own, LOSS), ours),
        "vmap(jax.grad)": (lambda *arguments: summed(each(*arguments)), theirs),
        "jax.grad": (jax.grad(mean_loss), theirs),
    }
    made = {name: _contender(*program) for name, program in programs.items()}
    held, then = jax.jit(each), jax.jit(summed)

    def in_two() -> None:
        jax.block_until_ready(then(held(*theirs)))

    return made | {
        "vmap(jax.grad), held": Contender(in_two, program=inspect_program(held, *theirs))
    }


def private_step() -> dict[str, Contender]:
    """A private and a plain gradient of the CNN."""
    module = CNN()
    x, labels = cnn.data()
    layer, params, state = interop.from_linen(module, module.init(jax.random.key(0), x))
    noisy = private(layer, LOSS, clip_norm=1.0, noise_multiplier=1.0, batch_size=len(labels))

    def plain(params: Any, x: Any, labels: Any) -> Any:
        return jnp.mean(LOSS.value(module.apply({"params": params}, x), labels))

    return {
        "private, captures": _contender(
            lambda *arguments: noisy(*arguments)[1],
            (params, state, x, labels, jax.random.key(1)),
        ),
        "plain, jax.grad": _contender(jax.grad(plain), (params, x, labels)),
        "plain, captures": _contender(
            lambda *arguments: nn.backprop(layer, LOSS)(*arguments)[1], (params, state, x, labels)
        ),
    }


def run(settings: Settings) -> dict[str, Any]:
    """Measure, and print a table for each workload."""
    workloads = {f"squared norms, {name}": partial(norms, name) for name in MODELS}
    return measure(workloads | {"private step, CNN": private_step}, settings, table)


def _contender(function: Callable, arguments: tuple) -> Contender:
    compiled = jax.jit(function)

    def run() -> None:
        jax.block_until_ready(compiled(*arguments))

    return Contender(run, program=inspect_program(compiled, *arguments))
