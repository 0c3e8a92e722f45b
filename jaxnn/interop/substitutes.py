"""Operations of JAX whose passes jaxnn has faster ones for, with the same values.

They are put in the place of the operations themselves where a function is run for its captures.
Mapped over examples, an operation takes them all at once, as a batch: the algorithms of jaxnn are
chosen by the size of that.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap
from jax.extend.core import JaxprEqn

from jaxnn.interop import functions
from jaxnn.interop.jaxprs import aval


def substitute(equation: JaxprEqn) -> Callable[..., Array] | None:
    """A function of the operands of an equation; None where the operation itself is as good."""
    match equation.primitive.name:
        case "conv_general_dilated":
            return _convolution(equation)
        case "reduce_window_max":
            return _maximum(equation)
    return None


def _convolution(equation: JaxprEqn) -> Callable[..., Array] | None:
    p = equation.params
    images, kernel = (aval(v) for v in equation.invars)
    numbers = p["dimension_numbers"]
    is_known = (
        p["batch_group_count"] == 1
        and 1 <= len(images.shape) - 2 <= 3
        and set(p["lhs_dilation"]) <= {1}
        and min(min(pair) for pair in p["padding"]) >= 0
        and p["precision"] is None
        and p["preferred_element_type"] in (None, images.dtype)
        and images.dtype == kernel.dtype
        and jnp.issubdtype(images.dtype, jnp.floating)
        and 0 not in (*images.shape, *kernel.shape, *aval(equation.outvars[0]).shape)
    )
    if not is_known:
        return None
    options = {
        "window_strides": p["window_strides"],
        "padding": tuple((int(low), int(high)) for low, high in p["padding"]),
        "rhs_dilation": p["rhs_dilation"],
        "dimension_numbers": numbers,
        "feature_group_count": p["feature_group_count"],
    }
    convolve = functools.partial(functions.conv_general_dilated, **options)
    return _batched(equation, convolve, numbers.lhs_spec[0], numbers.out_spec[0])


def _maximum(equation: JaxprEqn) -> Callable[..., Array] | None:
    p = equation.params
    x = aval(equation.invars[0])
    window, strides, padding = (
        tuple(p[name]) for name in ("window_dimensions", "window_strides", "padding")
    )
    spatial = [
        axis
        for axis, (size, step, pads) in enumerate(zip(window, strides, padding, strict=True))
        if size != 1 or step != 1 or tuple(pads) != (0, 0)
    ]
    others = [axis for axis in range(len(window)) if axis not in spatial]
    is_known = (
        set(p["base_dilation"]) <= {1}
        and set(p["window_dilation"]) <= {1}
        and 1 <= len(spatial) <= 3
        and others
        and jnp.issubdtype(x.dtype, jnp.floating)
        and 0 not in (*x.shape, *aval(equation.outvars[0]).shape)
        # A window of padding alone is minus infinity, which is no maximum of jaxnn's.
        and all(max(padding[axis]) < window[axis] for axis in spatial)
    )
    if not is_known:
        return None
    *batch, channel = others
    order = (*batch, *spatial, channel)
    back = sorted(range(len(order)), key=order.__getitem__)

    def pool(x: Array) -> Array:
        leading = x.ndim - len(order)
        axes = (*range(leading), *(leading + axis for axis in order))
        y = functions.max_pool(
            x.transpose(axes),
            tuple(window[axis] for axis in spatial),
            tuple(strides[axis] for axis in spatial),
            tuple((int(low), int(high)) for low, high in (padding[axis] for axis in spatial)),
        )
        return y.transpose(*range(leading), *(leading + axis for axis in back))

    return _batched(equation, pool, None, None)


def _batched(
    equation: JaxprEqn, function: Callable, batch: int | None, batch_of_result: int | None
) -> Callable[..., Array]:
    """``function``, whose first operand, mapped, has the mapped axis folded into that of its batch,
    or leading where there is none. Mapped over its other operands it is the operation itself."""

    def original(*operands: Array) -> Array:
        p = equation.primitive.get_bind_params(equation.params)
        return equation.primitive.bind(*operands, **p)

    @custom_vmap
    def called(*operands: Array) -> Array:
        return function(*operands)

    @called.def_vmap
    def of_many(size: int, is_mapped: Any, x: Array, *others: Array):
        if not is_mapped[0] or any(is_mapped[1:]):
            axes = tuple(0 if mapped else None for mapped in is_mapped)
            return jax.vmap(original, axes)(x, *others), True
        if batch is None:
            return function(x, *others), True
        x = jnp.moveaxis(x, 0, batch)
        own = x.shape[batch + 1]
        folded = x.reshape(*x.shape[:batch], size * own, *x.shape[batch + 2 :])
        y = function(folded, *others)
        at = batch_of_result
        y = y.reshape(*y.shape[:at], size, own, *y.shape[at + 1 :])  # pyright: ignore
        return jnp.moveaxis(y, at, 0), True  # pyright: ignore

    return called
