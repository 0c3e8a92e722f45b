"""Plain full-batch descent, for problems small enough to keep every step."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array

import jaxnn as nn


def on_batch(
    network: nn.Layer,
    loss: nn.Loss,
    state: Any,
    x: Any,
    target: Any,
    gradient_function: Callable = nn.backprop,
) -> Callable:
    """params -> (mean loss, gradients) of one fixed batch."""
    compute = gradient_function(network, loss)

    def value_and_gradient(params):
        (value, _), gradients = compute(params, state, x, target)
        return value, gradients

    return value_and_gradient


def descend(
    value_and_gradient: Callable,
    optimizer: optax.GradientTransformation,
    params: Any,
    steps: int,
) -> tuple[Any, Array]:
    """Follow an optimiser downhill; compiled, and can be mapped over ``params`` by `jax.vmap`.

    Args:
        value_and_gradient: params -> (value, gradients).
        optimizer: Any optax optimiser.
        params: Where to start.
        steps: How many updates.

    Returns:
        The params before each update and after the last, [steps + 1, ...] in every leaf, and the
        value at each of them.
    """

    def step(carry, _):
        params, optimizer_state = carry
        value, gradients = value_and_gradient(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), (params, value)

    start = (params, optimizer.init(params))
    return jax.lax.scan(step, start, length=steps + 1)[1]


def at(trajectory: Any, step: int) -> Any:
    """The params of one step of a trajectory."""
    return jax.tree.map(lambda leaf: leaf[step], trajectory)
