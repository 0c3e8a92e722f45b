"""What the functions do with the arrays that they are given."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import Compound
from jaxnn.core.contract import Layer
from jaxnn.core.validation import (
    LARGEST_RANK,
    require_array,
    require_floating,
    require_integer,
)
from jaxnn.interop.functions import output

_compiled = jax.jit(output, static_argnums=0, inline=True)


def run(layer: Layer, params: Any, x: Any, key: Array | None = None) -> Any:
    """y, differentiated by the layer's backward pass; equal layers share one compiled program.

    Where the values of ids or lengths are to be looked at, that is done before.
    """
    return _compiled(layer, params, x, key)


def array(where: str, name: str, value: Any) -> Array:
    """The value as an array; raises TypeError unless it is one, or a number."""
    if isinstance(value, Array):
        return value
    is_number = isinstance(value, bool | int | float | complex)
    if not is_number and not hasattr(value, "__jax_array__"):
        require_array(where, name, value)
    return jnp.asarray(value)


def numbers(where: str, name: str, value: Any) -> Array:
    """The value as an array of floating-point numbers: integers in JAX's default dtype for them."""
    a = array(where, name, value)
    if jnp.issubdtype(a.dtype, jnp.integer) or a.dtype == bool:
        return a.astype(jax.dtypes.canonicalize_dtype(float))
    require_floating(where, name, a)
    return a


def floats(where: str, name: str, value: Any, form: str, least: int | None = None) -> Array:
    """The value as an array of floating-point numbers, in the form that it must have.

    Args:
        where: The name in errors.
        name: That of the argument.
        value: What was given.
        form: Its axes, as in "[*batch, time, features]", of which those with a star are any number.
        least: How many axes it must have at least; those without a star unless given.
    """
    a = array(where, name, value)
    require_floating(where, name, a)
    require_form(where, name, a, form, least)
    return a


def require_form(where: str, name: str, a: Array, form: str, least: int | None = None) -> None:
    """Raise unless an array has the axes that ``form`` says."""
    axes = re.findall(r"\*?\w+", form)
    starred = [axis for axis in axes if axis[0] == "*"]
    least = len(axes) - len(starred) if least is None else least
    if a.ndim < least or (not starred and a.ndim > least):
        raise ValueError(f"{where}: expected {name} to be {form}, got shape {a.shape}")


def last(where: str, name: str, axis: Any, x: Array) -> int:
    """An axis of x counted from its last, which is −1, so that it stays one of x with a batch."""
    require_integer(where, name, axis, -LARGEST_RANK, LARGEST_RANK)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{where}: expected {name} to name an axis of x, got {axis} for shape {x.shape}"
        )
    return axis if axis < 0 else axis - x.ndim


def run_along(layer: Layer, params: Any, x: Array, *axes: int) -> Array:
    """`run` of a layer that works along these axes of x, where the first may be one of them."""
    if -x.ndim in axes:  # no layer works along the batch: here all of x is one example
        return run(layer, params, x[None])[0]
    return run(layer, params, x)


def given(**params: Any) -> Any:
    """The params of a layer, those that are not None."""
    return {name: a for name, a in params.items() if a is not None} or ()


def empty_params(layer: Layer) -> tuple:
    """The params of a layer whose parts have none."""
    if isinstance(layer, Compound):
        return empty_params(layer.made)
    return tuple(map(empty_params, layer.parts))
