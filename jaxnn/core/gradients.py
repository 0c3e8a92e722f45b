"""Gradient functions: hand-derived, by autodiff and by differences, all with one signature.

    (params, state, x, target, key=None, weights=None) -> ((value, state), gradients)

The value is the weighted mean over the batch of each example's loss, Σ wᵢ lᵢ / Σ wᵢ, without
``weights`` the plain mean; ``state`` is the layer state after the step. Weights must have a
positive sum: the mean of nothing is NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.captures import contract_at_once, contract_for
from jaxnn.core.layer import Layer, Loss
from jaxnn.core.validation import require_floating, require_number


class BackwardPass(NamedTuple):
    """All that one pass forward and back through a network knows."""

    values: Array
    """[batch], each example's own loss."""
    prediction: Any
    """What the network returned."""
    state: Any
    """The layer state after the forward pass."""
    captures: Any
    """The gradient of Σ wᵢ lᵢ, not yet contracted."""
    dx: Any
    """The gradient of Σ wᵢ lᵢ by the input."""


def backward_pass(network: Layer, loss: Loss) -> Callable[..., BackwardPass]:
    """(params, state, x, target, key=None, weights=None) -> `BackwardPass`.

    Example i enters with the gradient of its own loss times weights[i] (1 without ``weights``), not
    divided by the batch: what one example contributes does not depend on the others.
    """
    return _backward_pass(network, loss, lambda weights, values: weights)


def backprop(network: Layer, loss: Loss) -> Callable:
    """The hand-derived gradient: a backward pass with weights that sum to 1, then `contract`.

    It has the tree and the dtypes of the parameters.
    """
    run = _backward_pass(network, loss, shares)

    def gradient(params, state, x, target, key=None, weights=None):
        with contract_at_once(True):
            result = run(params, state, x, target, key, weights)
        value = _weighted_mean(result.values, weights)
        return (value, result.state), contract_for(params, result.captures)

    return gradient


def _backward_pass(network: Layer, loss: Loss, factors: Callable) -> Callable[..., BackwardPass]:
    """``factors``: (weights, values) -> what each example's delta is multiplied by, or None."""

    def run(params, state, x, target, key=None, weights=None):
        prediction, new_state, residuals = network.forward(params, state, x, key)
        if loss.weighted_gradient is None:
            values = loss.value(prediction, target)
            require_weights(weights, values)
            delta = loss.gradient(prediction, target)
            factor = factors(weights, values)
            if factor is not None:
                delta = delta * jnp.expand_dims(factor, range(1, delta.ndim))
        else:
            shape = jax.eval_shape(loss.value, prediction, target)
            require_weights(weights, shape)
            factor = factors(weights, shape)
            factor = jnp.ones(shape.shape, shape.dtype) if factor is None else factor
            values, delta = loss.weighted_gradient(prediction, target, factor)
        dx, captures = network.backward(params, residuals, delta)
        return BackwardPass(values, prediction, new_state, captures, dx)

    return run


def autodiff(network: Layer, loss: Loss) -> Callable:
    """The gradient by `jax.value_and_grad` through the network's forward and the loss's value."""
    return jax.value_and_grad(_mean_loss(network, loss), has_aux=True)


def numerical(network: Layer, loss: Loss, step: float | None = None) -> Callable:
    """The gradient by central differences, (L(θ + h) − L(θ − h)) / 2h for every parameter.

    Two loss evaluations for each parameter: for small networks only. The error is O(h²) from the
    third derivative and O(ε/h) from rounding; the default h = ε^(1/3), for the machine precision ε,
    balances them, which leaves about 1e-10 in float64 and 1e-4 in float32.
    """
    if step is not None:
        require_number("numerical", "step", step, minimum=0, open_minimum=True)
    mean_loss = _mean_loss(network, loss)

    def gradient(params, state, x, target, key=None, weights=None):
        flat, unravel = ravel_pytree(params)
        h = float(jnp.finfo(flat.dtype).eps) ** (1 / 3) if step is None else step

        def difference(index):
            high, low = (
                mean_loss(unravel(flat.at[index].add(s)), state, x, target, key, weights)[0]
                for s in (h, -h)
            )
            return (high - low) / (2 * h)

        if flat.size == 0:
            return mean_loss(params, state, x, target, key, weights), params
        slopes = jax.lax.map(difference, jnp.arange(flat.size), batch_size=64)
        return mean_loss(params, state, x, target, key, weights), unravel(slopes)

    return gradient


def _mean_loss(network: Layer, loss: Loss) -> Callable:
    def mean_loss(params, state, x, target, key=None, weights=None):
        prediction, new_state, _ = network.forward(params, state, x, key)
        values = loss.value(prediction, target)
        require_weights(weights, values)
        return _weighted_mean(values, weights), new_state

    return mean_loss


def _weighted_mean(values: Array, weights: Array | None) -> Array:
    if weights is None:
        return jnp.mean(values)
    return jnp.sum(values * weights) / jnp.sum(weights)


def shares(weights: Array | None, values: Any) -> Array:
    """[batch], what each example's loss counts in the weighted mean: wᵢ / Σ w, or 1 / batch."""
    if weights is None:
        return jnp.full(values.shape, 1 / max(values.size, 1), values.dtype)
    return weights / jnp.sum(weights)


def require_weights(weights: Any, values: Any) -> None:
    """Raise unless ``weights`` is None or one number for each of the examples' values."""
    if weights is None:
        return
    require_floating("gradient function", "weights", weights)
    if weights.shape != values.shape or weights.dtype != values.dtype:
        raise ValueError(
            f"gradient function: expected weights to be one {values.dtype} for each example, "
            f"shape {values.shape}, got {weights.dtype} of shape {weights.shape}"
        )
