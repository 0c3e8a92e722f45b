"""How the batches of an epoch are drawn, and an epoch as one compiled program.

What an epoch draws follows from the train state's key and the number of the epoch alone, so nothing
else has to be saved to go on with it.
"""

import abc
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_positive_integer
from jaxnn.core.value import Value
from jaxnn.learning.privacy.sampling import poisson_batches
from jaxnn.sharding import place_examples, take_examples
from jaxnn.training.shuffling import shuffle
from jaxnn.training.steps import TrainState, require_batch_fits, steps_per_epoch, take_batches


class Batches(NamedTuple):
    """What steps of one batch size take, one after the other."""

    indices: Array
    """[steps, places], which examples."""
    weights: Array | None = None
    """[steps, places], what each counts; None where all count the same."""

    def between(self, bounds: Sequence[int]) -> list["Batches"]:
        """The steps from each of the bounds to the next."""
        return [
            jax.tree.map(lambda a, start=start, stop=stop: a[start:stop], self)
            for start, stop in itertools.pairwise(bounds)
        ]


class Draw(Value):
    """A way to draw the batches of an epoch. One of your own says which `batches` there are:

    class in_order(Draw):
        def batches(self, key, examples, batch_size):
            return in_batches(jnp.arange(examples), batch_size)
    """

    in_memory: ClassVar[bool] = True
    """Whether the data lie on the devices, and an epoch is one program, which begins at its first
    step."""
    in_range: ClassVar[bool] = False
    """Whether its indices are known to be those of examples: in a compiled program one that is too
    large would count as the last. `train` looks at those of the first epoch otherwise."""

    is_poisson: ClassVar[bool] = False
    """Whether every batch is a Poisson sample, of which the promise of a private gradient is."""

    @abc.abstractmethod
    def batches(self, key: Array, examples: int, batch_size: int) -> Sequence[Batches]:
        """All steps of an epoch, in their order; ``key`` is the epoch's own. It is compiled."""

    def place(self, data: Any, mesh: Mesh | None) -> Any:
        """The inputs and targets where `make_epoch` and `take` want them."""
        return jax.tree.map(jnp.asarray, data) if mesh is None else place_examples(data, mesh)

    def take(self, data: Any, indices: Any) -> Any:
        """The examples with these indices."""
        return jax.jit(take_examples)(data, indices)

    def make_epoch(
        self,
        step: Callable,
        batch_size: int,
        *,
        examples: int | None = None,
        mesh: Mesh | None = None,
        donate: bool = False,
        unroll: int = 1,
    ) -> Callable[..., tuple[TrainState, Any]]:
        """(train_state, x, target) -> (train_state, values): as the public `make_epoch`."""
        run = take_batches(step, unroll)

        def epoch(train_state: TrainState, x: Any, target: Any):
            count = batch_size_of("epoch", x) if examples is None else examples
            require_batch_fits(batch_size, count)
            values = []
            for batches in self.of_epoch(train_state, count, batch_size):
                train_state, own = run(train_state, x, target, *batches)
                values.append(own)
            return train_state, one_after_another(values)

        return jax.jit(epoch, donate_argnums=0 if donate else ())

    def of_epoch(
        self, train_state: TrainState, examples: int, batch_size: int
    ) -> Sequence[Batches]:
        """The batches of the epoch that ``train_state`` is in."""
        steps = sum(part.indices.shape[0] for part in self.shapes(examples, batch_size))
        return self.batches(_epoch_key(train_state, steps), examples, batch_size)

    def shapes(self, examples: int, batch_size: int) -> Sequence[Batches]:
        """The shapes and dtypes of an epoch's batches."""
        key = jax.eval_shape(jax.random.key, 0)
        return jax.eval_shape(lambda key: self.batches(key, examples, batch_size), key)


class Shuffled(Draw):
    """Every example once an epoch, in a random order; the last batch holds what is left."""

    in_range = True

    def batches(self, key: Array, examples: int, batch_size: int) -> Sequence[Batches]:
        """All examples."""
        return in_batches(shuffle(key, examples), batch_size)


class Poisson(Draw):
    """Every example in every batch with one probability, so that ``batch_size`` are expected.

    A batch has more places than that; weights are 0 for those that no example fills. It is what
    `jaxnn.learning.privacy` asks for.
    """

    in_range = True
    is_poisson = True

    def batches(self, key: Array, examples: int, batch_size: int) -> Sequence[Batches]:
        """As many samples as an epoch of shuffled examples has steps."""
        steps = steps_per_epoch(examples, batch_size)
        return [Batches(*poisson_batches(key, steps, examples, batch_size))]


shuffled, poisson = Shuffled(), Poisson()


def make_epoch(
    step: Callable,
    batch_size: int,
    *,
    donate: bool = True,
    examples: int | None = None,
    unroll: int = 1,
) -> Callable[..., tuple[TrainState, Any]]:
    """(train_state, x, target) -> (train_state, values): one epoch, compiled into one program.

    The examples are shuffled anew and each is used once; ``values`` holds the loss of every step.
    The last batch is smaller where ``batch_size`` does not divide the examples. With ``donate`` the
    memory of the given train state is used for the new one, and the given one is gone.
    ``examples`` is their number where x holds more than are to be used, ``unroll`` is that of
    `take_batches`.

    Raises:
        ValueError: ``batch_size`` is not positive or larger than the number of examples.
    """
    require_positive_integer("make_epoch", "batch_size", batch_size)
    return shuffled.make_epoch(step, batch_size, examples=examples, donate=donate, unroll=unroll)


def make_poisson_epoch(
    step: Callable, batch_size: int, *, donate: bool = True, examples: int | None = None
) -> Callable[..., tuple[TrainState, Any]]:
    """An epoch as of `make_epoch`, each of whose steps takes a Poisson sample of the examples.

    ``batch_size`` is the expected size of a sample; the step is given weights, 0 for places that no
    example fills (see `jaxnn.learning.privacy`).
    """
    require_positive_integer("make_poisson_epoch", "batch_size", batch_size)
    return poisson.make_epoch(step, batch_size, examples=examples, donate=donate)


def epoch_order(train_state: TrainState, examples: int, batch_size: int) -> Array:
    """The order in which the epoch that ``train_state`` is in takes shuffled examples.

    It depends on the key and on the number of the epoch alone.
    """
    key = _epoch_key(train_state, steps_per_epoch(examples, batch_size))
    return shuffle(key, examples)


def _epoch_key(train_state: TrainState, steps: int) -> Array:
    """For an epoch of so many steps."""
    # No step has this number, so no step's key is met again.
    epochs_key = jax.random.fold_in(train_state.key, jnp.uint32(2**32 - 1))
    return jax.random.fold_in(epochs_key, train_state.step // steps)


def in_batches(order: Array, batch_size: int) -> list[Batches]:
    """Examples in this order: full batches, then one of what is left over."""
    whole = order.size // batch_size * batch_size
    parts = order[:whole].reshape(-1, batch_size), order[None, whole:]
    return [Batches(indices) for indices in parts if indices.size]


def drawn(draw: Draw, train_state: TrainState, examples: int, batch_size: int) -> Sequence[Batches]:
    """The batches of the epoch that ``train_state`` is in, in the memory of the host."""
    return jax.tree.map(np.asarray, _of_epoch(draw, train_state, examples, batch_size))


@partial(jax.jit, static_argnums=(0, 2, 3))
def _of_epoch(draw: Draw, *arguments: Any) -> Sequence[Batches]:
    return draw.of_epoch(*arguments)


def one_after_another(values: Sequence[Any]) -> Any:
    """What several runs of steps returned, joined along the axis of the steps."""
    if len(values) == 1:
        return values[0]
    return jax.tree.map(lambda *a: jnp.concatenate(a), *values)
