"""Training as pure functions: a state, one step, and a whole epoch as one compiled scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.core.layer import Layer
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_positive_integer
from jaxnn.learning.privacy.sampling import poisson_batches
from jaxnn.sharding import take_examples
from jaxnn.training.shuffling import shuffle


class TrainState(NamedTuple):
    """All that training changes, and all that is needed to go on with it."""

    params: Any
    state: Any
    """What layers change outside of the gradient."""
    optimizer_state: Any
    key: Array
    """The source of all randomness; it stays, and each step folds its number in."""
    step: Array
    """How many steps have been taken, int32."""


def create_state(
    network: Layer, optimizer: optax.GradientTransformation, key: Array, x: Any
) -> TrainState:
    """The state before the first step, for inputs with the shapes and dtypes of ``x``."""
    init_key, key = jax.random.split(key)
    params, state = network.init(init_key, x)
    return TrainState(params, state, optimizer.init(params), key, jnp.zeros((), jnp.int32))


def make_step(
    gradient_function: Callable, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[TrainState, Array]]:
    """(train_state, x, target, weights=None) -> (train_state, value of the loss before the step).

    Args:
        gradient_function: What `jaxnn.backprop`, `jaxnn.autodiff` or `jaxnn.numerical` returns.
        optimizer: Any optax transformation. One that takes extra arguments is given, as
            ``arguments``, those of the gradient function after the parameters.
    """
    update = optax.with_extra_args_support(optimizer).update

    def step(train_state: TrainState, x: Any, target: Any, weights: Array | None = None):
        params, state, optimizer_state, key, count = train_state
        step_key = jax.random.fold_in(key, count)
        arguments = (state, x, target, step_key, weights)
        (value, state), gradients = gradient_function(params, *arguments)
        updates, optimizer_state = update(gradients, optimizer_state, params, arguments=arguments)
        params = optax.apply_updates(params, updates)
        return TrainState(params, state, optimizer_state, key, count + 1), value

    return step


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Every example once: the last batch of an epoch holds what is left."""
    return -(-examples // batch_size)


def epoch_order(train_state: TrainState, examples: int, batch_size: int) -> Array:
    """The order in which the epoch that ``train_state`` is in takes the examples.

    It depends on the key and on the number of the epoch alone.
    """
    return shuffle(_epoch_key(train_state, examples, batch_size), examples)


def _epoch_key(train_state: TrainState, examples: int, batch_size: int) -> Array:
    epoch = train_state.step // steps_per_epoch(examples, batch_size)
    # No step has this number, so no step's key is met again.
    epochs_key = jax.random.fold_in(train_state.key, jnp.uint32(2**32 - 1))
    return jax.random.fold_in(epochs_key, epoch)


def take_batches(step: Callable, unroll: int = 1) -> Callable[..., tuple[TrainState, Array]]:
    """(train_state, x, target, batches, weights=None) -> (train_state, values): a step a row.

    ``batches`` [steps, batch_size] holds indices of examples, and ``weights`` what each counts; a
    scan gathers the examples from x and target on the device (under a mesh, on the devices: see
    `jaxnn.sharding.take_examples`). ``unroll`` steps are compiled one after the other into the body
    of its loop, which spares copies between them and takes longer to compile.
    """

    def run(
        train_state: TrainState, x: Any, target: Any, batches: Array, weights: Array | None = None
    ):
        def body(train_state, row):
            batch, weights = row
            examples = take_examples((x, target), batch)
            return step(train_state, *examples, *(() if weights is None else (weights,)))

        return jax.lax.scan(body, train_state, (batches, weights), unroll=unroll)

    return run


def make_epoch(
    step: Callable,
    batch_size: int,
    *,
    donate: bool = True,
    examples: int | None = None,
    unroll: int = 1,
) -> Callable[..., tuple[TrainState, Array]]:
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
    run = take_batches(step, unroll)

    def epoch(train_state: TrainState, x: Any, target: Any):
        count = batch_size_of("epoch", x) if examples is None else examples
        require_batch_fits(batch_size, count)
        full, rest = split_order(epoch_order(train_state, count, batch_size), batch_size)
        train_state, values = run(train_state, x, target, full)
        if rest.size == 0:
            return train_state, values
        train_state, last = run(train_state, x, target, rest)
        return train_state, jnp.concatenate([values, last])

    return jax.jit(epoch, donate_argnums=0 if donate else ())


def make_poisson_epoch(
    step: Callable, batch_size: int, *, donate: bool = True, examples: int | None = None
) -> Callable[..., tuple[TrainState, Array]]:
    """An epoch as of `make_epoch`, each of whose steps takes a Poisson sample of the examples.

    ``batch_size`` is the expected size of a sample; the step is given weights, 0 for places that no
    example fills (see `jaxnn.privacy`).
    """
    require_positive_integer("make_poisson_epoch", "batch_size", batch_size)
    run = take_batches(step)

    def epoch(train_state: TrainState, x: Any, target: Any):
        count = batch_size_of("epoch", x) if examples is None else examples
        require_batch_fits(batch_size, count)
        key = _epoch_key(train_state, count, batch_size)
        steps = steps_per_epoch(count, batch_size)
        samples = poisson_batches(key, steps, count, batch_size)
        return run(train_state, x, target, *samples)

    return jax.jit(epoch, donate_argnums=0 if donate else ())


def split_order(order: Any, batch_size: int) -> tuple[Any, Any]:
    """Indices of the full batches [steps, batch_size] and of the one left over [0 or 1, rest]."""
    whole = order.size // batch_size * batch_size
    rest = order[whole:]
    return order[:whole].reshape(-1, batch_size), rest.reshape(-1, max(rest.size, 1))


def require_batch_fits(batch_size: int, examples: int) -> None:
    """Raise ValueError if a batch would be larger than the training set."""
    if batch_size > examples:
        raise ValueError(
            f"training: expected batch_size to be at most the number of training examples, "
            f"{examples}, got {batch_size}"
        )
