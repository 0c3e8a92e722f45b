"""Epochs over data that stay on disk: the batches of `jaxnn.training.drawing`, read ahead by grain.

What is left to read of an epoch is known from the train state's step, so nothing else has to be
saved to go on in the middle of one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_positive_integer
from jaxnn.data.optional import require_library
from jaxnn.sharding import join_columns, own_columns
from jaxnn.training.drawing import Batches, Draw, drawn, one_after_another, shuffled
from jaxnn.training.steps import TrainState, require_batch_fits


class Streamed(Draw):
    """The batches of another draw, of data that stay where they are, arrays on disk for one.

    A train state from the middle of an epoch goes on there. For the fields see
    `make_streamed_epoch`.
    """

    draw: Draw = shuffled
    _: KW_ONLY
    steps_at_once: Annotated[int, require_positive_integer] = 32
    read_ahead: Annotated[int, require_positive_integer] = 2

    in_memory = False

    def batches(self, key: jax.Array, examples: int, batch_size: int) -> Sequence[Batches]:
        """Those of ``draw``."""
        return self.draw.batches(key, examples, batch_size)

    @property
    def in_range(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As those of ``draw``."""
        return self.draw.in_range

    def place(self, data: Any, mesh: Mesh | None) -> Any:
        """Where they are."""
        return data

    def take(self, data: Any, indices: Any) -> Any:
        """The examples with these indices, read into memory."""
        return read_examples(data, indices)

    def make_epoch(self, step: Callable, batch_size: int, *, mesh: Mesh | None = None, **_: Any):
        """A streamed epoch."""
        return make_streamed_epoch(
            step,
            batch_size,
            draw=self.draw,
            steps_at_once=self.steps_at_once,
            read_ahead=self.read_ahead,
            mesh=mesh,
        )


streamed = Streamed()


def make_streamed_epoch(
    step: Callable,
    batch_size: int,
    *,
    draw: Draw = shuffled,
    steps_at_once: int = 32,
    read_ahead: int = 2,
    after_steps: Callable[[TrainState], object] = lambda train_state: None,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Any]]:
    """(train_state, x, target) -> (train_state, values): as `make_epoch`, of arrays on disk.

    The same order, the same batches and so the same numbers as in memory. Threads read the next
    batches while the device works; in memory are at most (``read_ahead`` + 2) · ``steps_at_once`` ·
    ``batch_size`` examples. A train state from the middle of an epoch goes on there: ``values``
    holds the losses of the steps that were left.

    Args:
        step: From `make_step`.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        draw: How the batches are drawn.
        steps_at_once: Of how many steps a compiled program is that batches are sent to.
        read_ahead: How many times as many batches are read before they are asked for.
        after_steps: Called with every train state between two programs, such as to save it.
        mesh: Over whose devices batches are split; each process reads the examples of its own.

    Raises:
        ImportError: grain is missing: ``pip install "jaxnn[streaming]"``.
        ValueError: a number is not positive, or a batch larger than the number of examples.
    """
    for name, value in (
        ("batch_size", batch_size),
        ("steps_at_once", steps_at_once),
        ("read_ahead", read_ahead),
    ):
        require_positive_integer("make_streamed_epoch", name, value)
    grain = require_library("grain", "reading data from disk while training")

    @jax.jit
    def run(train_state: TrainState, batches: Any):
        return jax.lax.scan(lambda state, batch: step(state, *batch), train_state, batches)

    def read(tree: Any, parts: list[Batches]) -> Iterator[Any]:
        source = grain.MapDataset.source(_Parts(tree, parts))
        options = grain.ReadOptions(num_threads=read_ahead, prefetch_buffer_size=read_ahead)
        return iter(source.to_iter_dataset(options))

    def epoch(train_state: TrainState, x: Any, target: Any):
        examples = batch_size_of("epoch", x)
        require_batch_fits(batch_size, examples)
        batches = drawn(draw, train_state, examples, batch_size)
        taken = int(train_state.step) % sum(len(part.indices) for part in batches)
        parts = list(_left(batches, taken, steps_at_once))
        sizes = [part.indices.shape[1] for part in parts]
        own = [
            jax.tree.map(lambda a, size=size: a[:, own_columns(size, mesh)], part)
            for part, size in zip(parts, sizes, strict=True)
        ]
        values = []
        for size, here in zip(sizes, read((x, target), own), strict=True):
            train_state, losses = run(train_state, join_columns(here, size, mesh))
            values.append(losses)
            after_steps(train_state)
        return train_state, one_after_another(values)

    return epoch


def _left(batches: Sequence[Batches], taken: int, steps_at_once: int) -> Iterator[Batches]:
    """What is left of an epoch whose first steps have been taken, so many steps at once."""
    for part in batches:
        steps = len(part.indices)
        yield from part.between([*range(taken, steps, steps_at_once), steps])
        taken = max(taken - steps, 0)


def read_examples(tree: Any, rows: Any) -> Any:
    """The examples with these numbers, read from the arrays of a tree into memory."""
    return jax.tree.map(lambda a: np.asarray(a[np.asarray(rows)]), tree)


class _Parts:
    """What grain asks for: part i of the batches, read from the arrays of a tree."""

    def __init__(self, tree: Any, parts: list[Batches]):
        self._tree, self._parts = tree, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Any:
        indices, weights = self._parts[index]
        examples = read_examples(self._tree, indices)
        return examples if weights is None else (*examples, weights)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} parts)"
