"""What the code computes, in float64, for comparison with a derivation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn


def passes(layer: nn.Layer, params: Any, x: Any, dy: Any, state: Any = (), key: Any = None):
    """(y, dx, gradient of the parameters) by the forward and backward pass of the layer."""
    with jax.enable_x64(True):
        params, state, x, dy = jax.tree.map(jnp.asarray, (params, state, x, dy))
        return _passes(layer, params, state, x, key, dy)


@functools.partial(jax.jit, static_argnums=0)
def _passes(layer: nn.Layer, params: Any, state: Any, x: Any, key: Any, dy: Any):
    y, _, residuals = layer.forward(params, state, x, key)
    dx, captures = layer.backward(params, residuals, dy)
    return y, dx, nn.contract(captures)


def losses(loss: nn.Loss, prediction: Any, target: Any):
    """(value and gradient by the prediction), those of the loss."""
    with jax.enable_x64(True):
        prediction, target = jax.tree.map(jnp.asarray, (prediction, target))
        return loss.value(prediction, target), loss.gradient(prediction, target)
