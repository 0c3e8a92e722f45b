"""Activations, of arrays of any shape."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxnn.functional.arrays import array, empty_params, last, numbers, run, run_along
from jaxnn.functional.making import called, function_of
from jaxnn.layers import activations, gating, normalization


def _element_by_element(make: Callable, x: Any):
    """``x`` has any shape.

    Args:
        x: An array, or a number; integers are taken in JAX's default floating-point dtype.
    """
    layer = make()
    return run(layer, (), numbers(layer.name, "x", x))


def _along_an_axis(make: Callable, x: Any, axis: int = -1):
    """``x`` has any shape with that axis, which may be the first.

    Args:
        x: An array; integers are taken in JAX's default floating-point dtype.
        axis: The axis, from the first or, negative, from the last.
    """
    where = called(make)
    x = numbers(where, "x", x)
    axis = last(where, "axis", axis, x)
    layer = make(axis=axis)
    return run_along(layer, empty_params(layer), x, axis)


def _prelu(make: Callable, x: Any, weight: Any):
    """``x`` has any shape, with the channels on its last axis where each has an a of its own.

    Args:
        x: An array, or a number; integers are taken in JAX's default floating-point dtype.
        weight: a: a number, or one for each channel, [channels].
    """
    x = numbers("prelu", "x", x)
    is_number = isinstance(weight, int | float)
    weight = jnp.asarray(weight, x.dtype) if is_number else array("prelu", "weight", weight)
    if weight.dtype != x.dtype:
        raise TypeError(f"prelu: expected weight to be {x.dtype} as x is, got {weight.dtype}")
    if weight.ndim > 1 or (weight.size != 1 and weight.shape != x.shape[-1:]):
        raise ValueError(
            f"prelu: expected weight to be one number, or one for each element of the last axis of "
            f"x, got shape {weight.shape} for x of shape {x.shape}"
        )
    layer = make(per_channel=weight.size != 1)
    return run(layer, {"scale": weight.reshape(-1)}, x[None])[0]


heaviside = function_of(activations.heaviside, _element_by_element)
sigmoid = function_of(activations.sigmoid, _element_by_element)
tanh = function_of(activations.tanh, _element_by_element)
relu = function_of(activations.relu, _element_by_element)
leaky_relu = function_of(activations.leaky_relu, _element_by_element)
relu6 = function_of(activations.relu6, _element_by_element)
elu = function_of(activations.elu, _element_by_element)
selu = function_of(activations.selu, _element_by_element)
celu = function_of(activations.celu, _element_by_element)
gelu = function_of(activations.gelu, _element_by_element)
silu = function_of(activations.silu, _element_by_element)
mish = function_of(activations.mish, _element_by_element)
softplus = function_of(activations.softplus, _element_by_element)
softsign = function_of(activations.softsign, _element_by_element)
log_sigmoid = function_of(activations.log_sigmoid, _element_by_element)
hard_tanh = function_of(activations.hard_tanh, _element_by_element)
hard_sigmoid = function_of(activations.hard_sigmoid, _element_by_element)
hard_swish = function_of(activations.hard_swish, _element_by_element)
softmax = function_of(activations.softmax, _along_an_axis, "axis")
log_softmax = function_of(activations.log_softmax, _along_an_axis, "axis")
normalize = function_of(normalization.normalize, _along_an_axis, "axis")
glu = function_of(gating.glu, _along_an_axis, "axis")
swiglu = function_of(gating.swiglu, _along_an_axis, "axis")
geglu = function_of(gating.geglu, _along_an_axis, "axis")
prelu = function_of(activations.prelu, _prelu, "negative_slope", "per_channel")
