"""Training as pure functions: a state, one step, and a scan of steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.sharding import take_examples
from jaxnn.statistics.quantities import Measured
from jaxnn.training.optimizers import evaluated, step_with


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
            ``arguments``, those of the gradient function after the parameters; as ``value`` and
            ``grad`` the loss and its gradient; as ``value_fn`` and ``obj_fn`` (params) -> the loss
            of the same batch; as ``whole_params`` all parameters, whatever is masked. Where the
            gradient is to be private, an optimiser must use none.
    """

    def step(train_state: TrainState, x: Any, target: Any, weights: Array | None = None):
        params, state, optimizer_state, key, count = train_state
        step_key = jax.random.fold_in(key, count)
        arguments = (state, x, target, step_key, weights)
        (value, state), gradients = gradient_function(params, *arguments)

        def loss_at(params: Any) -> Array:
            return loss_of(gradient_function(params, *arguments)[0][0])

        update = step_with(optimizer, loss_at, arguments=arguments)
        updates, optimizer_state = update(gradients, optimizer_state, params, loss_of(value))
        params = optax.apply_updates(params, updates)
        return TrainState(params, state, optimizer_state, key, count + 1), value

    return step


def loss_of(value: Any) -> Array:
    """The loss in what a gradient function returns as value: with it may be what was measured."""
    return value.loss if isinstance(value, Measured) else value


def at_evaluation(train_state: TrainState) -> TrainState:
    """The same with the parameters to evaluate and predict with; see `evaluated`."""
    params = evaluated(train_state.optimizer_state, train_state.params)
    return train_state._replace(params=params)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Every example once: the last batch of an epoch holds what is left."""
    return -(-examples // batch_size)


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


def require_batch_fits(batch_size: int, examples: int) -> None:
    """Raise ValueError if a batch would be larger than the training set."""
    if batch_size > examples:
        raise ValueError(
            f"training: expected batch_size to be at most the number of training examples, "
            f"{examples}, got {batch_size}"
        )
