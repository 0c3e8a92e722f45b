"""A train state on a mesh of devices, and the steps that keep it there.

A train state that `place` has put on a mesh is trained on it by `jaxnn.training.train`, by the same
programs as on one device: the compiler splits them. Batch norm has the mean of the whole batch,
dropout draws the same noise, and the parameters are the same but for the order of sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnn.core.contract import Layer
from jaxnn.sharding import DATA, Layout, replicated, whole
from jaxnn.sharding.mesh import require_data_axis
from jaxnn.training.steps import Step, TrainState


def place(
    train_state: TrainState,
    mesh: Mesh,
    network: Layer,
    optimizer: optax.GradientTransformation | Step,
    layout: Layout = replicated,
) -> TrainState:
    """The same train state, laid out over a mesh.

    What the optimiser keeps for a parameter is split as the parameter is; all else is whole on
    every device. In several processes each must be given the same train state.

    Args:
        train_state: From `create_state`, or one saved on any number of devices.
        mesh: From `jaxnn.sharding.make_mesh`.
        network: The network.
        optimizer: The optimiser, or the `Step`, that the state is of.
        layout: One of `jaxnn.sharding.LAYOUTS`, or one of your own.

    Raises:
        ValueError: the mesh has no axis "data"; ``layout`` splits parameters that a `Step` has
            whole on every device.
    """
    require_data_axis("place", mesh)
    of_params = layout(network, train_state.params, mesh)
    if isinstance(optimizer, Step):
        if any(spec != P() for spec in jax.tree.leaves(of_params)):
            raise ValueError(
                f"place: expected layout replicated with {optimizer.name}, whose parameters are "
                f"whole on every device, got {getattr(layout, '__name__', layout)}"
            )
        spread = optimizer.for_devices(train_state.optimizer_state, mesh.shape[DATA])
        train_state = train_state._replace(optimizer_state=spread)
        own = optimizer.specs(spread)
    else:
        shapes, tags = kept_for(optimizer, train_state.params)
        leaves, split = jax.tree.leaves(train_state.params), jax.tree.leaves(of_params)

        def spec_of(shape: Any, tag: int) -> P:
            is_like = tag >= 0 and tuple(shape.shape) == tuple(leaves[tag].shape)
            return split[tag] if is_like else P()

        of_state = map(spec_of, jax.tree.leaves(shapes), tags)
        own = jax.tree.structure(shapes).unflatten(list(of_state))
    specs = jax.tree.map(lambda leaf: P(), train_state)._replace(
        params=of_params, optimizer_state=own
    )
    placed = jax.tree.map(
        lambda leaf, spec: _put(leaf, NamedSharding(mesh, spec)),
        train_state._replace(key=jax.random.key_data(train_state.key)),
        specs,
    )
    impl = jax.random.key_impl(train_state.key)
    return placed._replace(key=jax.random.wrap_key_data(placed.key, impl=impl))


def kept_for(optimizer: optax.GradientTransformation, params: Any) -> tuple[Any, list[int]]:
    """(the shapes of the optimiser's state, for each leaf of it the number of the parameter that it
    is kept for, −1 for none)."""
    state, treedef = jax.eval_shape(optimizer.init, params), jax.tree.structure(params)

    def numbered(like: Any) -> list:
        # Of a parameter it may keep several arrays, or, where it is masked, none.
        return [
            jax.tree.map(lambda _, n=n: n, own) for n, own in enumerate(treedef.flatten_up_to(like))
        ]

    try:
        tags = optax.tree_utils.tree_map_params(
            optimizer, numbered, state, transform_non_params=lambda _: -1, is_leaf=lambda _: True
        )
    except Exception:  # optax asks with placeholders, which an optimiser that looks cannot take
        tags = jax.tree.map(lambda _: -1, state)
    return state, jax.tree.leaves(tags)


def _put(leaf: Array, sharding: NamedSharding) -> Array:
    """The array with this sharding, of which each process fills the parts of its own devices."""
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def keep_layout(step: Callable, like: TrainState) -> Callable:
    """The same step, whose train state is laid out as ``like``, and whose loss every device has."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)

    def run(train_state: TrainState, *arguments: Any):
        train_state, value = step(train_state, *arguments)
        train_state = jax.lax.with_sharding_constraint(train_state, shardings)
        return train_state, whole(value)

    return run


def gather_params(gradient_function: Callable, like: TrainState) -> Callable:
    """The same gradient function; parameters split over the data axis are gathered before it.

    Left to itself, the compiler may split the layers' work as their parameters are split, and bring
    the examples together instead. The gradients are laid out as the parameters.
    """
    split = jax.tree.map(lambda leaf: leaf.sharding, like.params)
    gathered = jax.tree.map(
        lambda s: NamedSharding(s.mesh, P(*(None if a == DATA else a for a in s.spec))), split
    )

    def run(params: Any, *arguments: Any):
        params = jax.lax.with_sharding_constraint(params, gathered)
        result, gradients = gradient_function(params, *arguments)
        return result, jax.lax.with_sharding_constraint(gradients, split)

    return run
