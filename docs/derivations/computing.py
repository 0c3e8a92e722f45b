"""What the code computes, in float64, for comparison with a derivation."""

from functools import partial
from typing import Any

import jax

import jaxnn as nn


def passes(layer: nn.Layer, params: Any, x: Any, dy: Any, state: Any = (), key: Any = None):
    """(y, dx, gradient of the parameters) by the forward and backward pass of the layer."""
    with jax.enable_x64(True):
        return _passes(layer, params, x, dy, state, key)


def losses(loss: nn.Loss, prediction: Any, target: Any):
    """(value and gradient by the prediction), those of the loss."""
    with jax.enable_x64(True):
        return _losses(loss, prediction, target)


# In one program each: to compile operation by operation takes longer than to check a derivation.
@partial(jax.jit, static_argnums=0)
def _passes(layer: nn.Layer, params: Any, x: Any, dy: Any, state: Any, key: Any):
    y, _, residuals = layer.forward(params, state, x, key)
    dx, captures = layer.backward(params, residuals, dy)
    return y, dx, nn.contract(captures)


@partial(jax.jit, static_argnums=0)
def _losses(loss: nn.Loss, prediction: Any, target: Any):
    return loss.value(prediction, target), loss.gradient(prediction, target)
