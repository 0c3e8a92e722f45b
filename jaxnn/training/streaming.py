"""Epochs over data that stay on disk: the batches of `jaxnn.training.steps`, read ahead by grain.

The order of an epoch follows from the train state's key and step alone, so nothing else has to be
saved to go on in the middle of one: what is left to read is known from the step.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_positive_integer
from jaxnn.data.optional import require_library
from jaxnn.sharding import join_columns, own_columns
from jaxnn.training.steps import (
    TrainState,
    epoch_order,
    require_batch_fits,
    split_order,
    steps_per_epoch,
)


def make_streamed_epoch(
    step: Callable,
    batch_size: int,
    *,
    steps_at_once: int = 32,
    read_ahead: int = 2,
    after_steps: Callable[[TrainState], object] = lambda train_state: None,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """(train_state, x, target) -> (train_state, values): as `make_epoch`, of arrays on disk.

    The same order, the same batches and so the same numbers as in memory. Threads read the next
    batches while the device works; in memory are at most (``read_ahead`` + 2) · ``steps_at_once`` ·
    ``batch_size`` examples. A train state from the middle of an epoch goes on there: ``values``
    holds the losses of the steps that were left.

    Args:
        step: From `make_step`.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        steps_at_once: Of how many steps a compiled program is that batches are sent to.
        read_ahead: How many times as many batches are read before they are asked for.
        after_steps: Called with every train state between two programs, such as to save it.
        mesh: Over whose devices batches are split; each process reads the examples of its own.

    Raises:
        ImportError: grain is missing: ``pip install "jaxnn[experiments]"``.
        ValueError: a number is not positive, or a batch larger than the number of examples.
    """
    for name, value in (
        ("batch_size", batch_size),
        ("steps_at_once", steps_at_once),
        ("read_ahead", read_ahead),
    ):
        require_positive_integer("make_streamed_epoch", name, value)
    grain = require_library("grain", "reading data from disk while training")
    order_of = jax.jit(epoch_order, static_argnums=(1, 2))

    @jax.jit
    def run(train_state: TrainState, batches: Any):
        return jax.lax.scan(lambda state, batch: step(state, *batch), train_state, batches)

    def read(tree: Any, parts: list[np.ndarray]) -> Iterator[Any]:
        source = grain.MapDataset.source(_Batches(tree, parts))
        options = grain.ReadOptions(num_threads=read_ahead, prefetch_buffer_size=read_ahead)
        return iter(source.to_iter_dataset(options))

    def epoch(train_state: TrainState, x: Any, target: Any):
        examples = batch_size_of("epoch", x)
        require_batch_fits(batch_size, examples)
        taken = int(train_state.step) % steps_per_epoch(examples, batch_size)
        order = np.asarray(order_of(train_state, examples, batch_size))
        full, rest = split_order(order, batch_size)
        parts = [full[i : i + steps_at_once] for i in range(taken, len(full), steps_at_once)]
        parts += [rest] if rest.size else []
        own_parts = [part[:, own_columns(part.shape[1], mesh)] for part in parts]
        values = []
        for part, own in zip(parts, read((x, target), own_parts), strict=True):
            train_state, losses = run(train_state, join_columns(own, part.shape[1], mesh))
            values.append(losses)
            after_steps(train_state)
        return train_state, jnp.concatenate(values)

    return epoch


def read_examples(tree: Any, rows: Any) -> Any:
    """The examples with these numbers, read from the arrays of a tree into memory."""
    return jax.tree.map(lambda a: np.asarray(a[np.asarray(rows)]), tree)


class _Batches:
    """What grain asks for: part i of the batches, read from the arrays of a tree."""

    def __init__(self, tree: Any, parts: list[np.ndarray]):
        self._tree, self._parts = tree, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Any:
        return read_examples(self._tree, self._parts[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} parts)"
