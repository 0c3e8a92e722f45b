"""Training as pure functions: a state, one step, and a scan of steps."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.networks import below, label
from jaxnn.core.value import Value
from jaxnn.rewrites.precision import with_precision
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


class Step(Value):
    """Base of training steps that are more than a gradient and the optimiser's update of it:

        (train_state, x, target, weights=None) -> (train_state, value of the loss before the step).

    `create_state`, `place` and `train` take one in place of an optimiser. What it keeps from step
    to step is the ``optimizer_state``.
    """

    network: Layer
    loss: Loss
    optimizer: optax.GradientTransformation

    @abc.abstractmethod
    def __call__(
        self, train_state: TrainState, x: Any, target: Any, weights: Array | None = None
    ) -> tuple[TrainState, Array]:
        """One step."""

    @abc.abstractmethod
    def start(self, params: Any, state: Any, x: Any) -> Any:
        """The ``optimizer_state`` before the first step, for x like those that it will be given."""

    def of(self, network: Layer, loss: Loss) -> "Step":
        """The same, of another network with the same params and of another loss."""
        return dataclasses.replace(self, network=network, loss=loss)

    def for_devices(self, optimizer_state: Any, devices: int) -> Any:
        """The ``optimizer_state``, saved on any number of devices, for a batch split over these."""
        return optimizer_state

    def specs(self, optimizer_state: Any) -> Any:
        """How each array of it lies on a mesh; whole on every device, unless a subclass says so."""
        return jax.tree.map(lambda leaf: P(), optimizer_state)

    def create_state(self, key: Array, x: Any) -> TrainState:
        """The train state before the first step, with the parameters of `create_state`."""
        return create_state(self.network, self, key, x)

    def updated(self, gradients: Any, inner: Any, params: Any, value: Any) -> tuple[Any, Any]:
        """(params, the optimiser's own state) after its update."""
        return updated(self.optimizer, gradients, inner, params, value)


def updated(optimizer: Any, gradients: Any, inner: Any, params: Any, value: Any) -> tuple[Any, Any]:
    """(params, the optimiser's own state) after its update, told the loss."""
    update = optax.with_extra_args_support(optimizer).update
    updates, inner = update(gradients, inner, params, value=value)
    return optax.apply_updates(params, updates), inner


def create_state(
    network: Layer, optimizer: optax.GradientTransformation | Step, key: Array, x: Any
) -> TrainState:
    """The state before the first step, for inputs with the shapes and dtypes of ``x``."""
    init_key, key = jax.random.split(key)
    params, state = network.init(init_key, x)
    if isinstance(optimizer, Step):
        optimizer_state = optimizer.of(network, optimizer.loss).start(params, state, x)
    else:
        optimizer_state = optimizer.init(params)
    return TrainState(params, state, optimizer_state, key, jnp.zeros((), jnp.int32))


def mean_over_copies(tree: Any, devices: int) -> Any:
    """Arrays [copies, …] as ``devices`` copies of their mean; of integers, of the first."""

    def spread(a: Array) -> Array:
        if a.shape[0] == devices:
            return a
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        one = jnp.mean(a, 0, dtype=a.dtype) if floating else a[0]
        return jnp.broadcast_to(one, (devices, *a.shape[1:]))

    return jax.tree.map(spread, tree)


def require_copies(where: str, tree: Any, devices: int) -> None:
    """Raise ValueError unless the arrays [copies, …] of a train state are of so many devices."""
    for leaf in jax.tree.leaves(tree)[:1]:
        if leaf.shape[0] != devices:
            raise ValueError(
                f"{where}: expected the train state of {devices} devices, got that of "
                f"{leaf.shape[0]}: training.place(train_state, mesh, network, step) makes it, and "
                "step.for_devices(optimizer_state, 1) that of one device"
            )


def require_unscaled(where: str, network: Layer, path: str = "") -> None:
    """Raise ValueError where a policy in the network scales its deltas, as float16's does."""
    if isinstance(network, with_precision) and network.policy.scales:
        raise ValueError(
            f"{where}: expected deltas that are not scaled, but {label(path, network)} computes "
            "in float16, whose gradient is looked at as a whole for overflow: take bfloat16"
        )
    for name, part in zip(network.part_names, network.parts, strict=True):
        require_unscaled(where, part, below(path, name))


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
