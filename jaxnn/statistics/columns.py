"""Captures of many cotangents at once: the columns of a matrix that is pulled back.

The inputs of a capture do not depend on the cotangent, so that a backward pass mapped over columns
maps the deltas alone: what entered the parameters is kept once, however many columns there are.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import Capture, StackedCapture, map_captures
from jaxnn.core.gradients import require_weights, shares
from jaxnn.core.layer import Layer, Loss
from jaxnn.core.validation import require_key, require_positive_integer
from jaxnn.statistics.trees import leading_axes, require_examples_apart


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColumnsCapture(Capture):
    """A capture whose deltas, and they alone, have a leading axis of columns."""

    capture: Any

    def gradient(self) -> Any:
        """The gradient of every column, stacked."""
        return over_columns(lambda capture: capture.gradient())(self)


def over_columns(function: Callable) -> Callable:
    """``function`` of a capture, mapped over the columns of a `ColumnsCapture`."""

    def mapped(columns: ColumnsCapture):
        return jax.vmap(function, in_axes=(_delta_axes(columns.capture),))(columns.capture)

    return mapped


def add_up(function: Callable, tree: Any) -> Any:
    """Σ_i function(tree[i]) over the first axis of all arrays, one term after the other.

    On CPU, XLA's reduction over a leading axis takes up to 90 times as long as this loop, whose
    terms stay in the cache; none is kept.
    """
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, one))

    def body(total: Any, term: Any):
        return jax.tree.map(jnp.add, total, function(term)), None

    return jax.lax.scan(body, zeros, tree)[0]


def add_up_columns(function: Callable, columns: ColumnsCapture) -> Any:
    """The sum over the columns of ``function`` of each column's capture."""
    axes = _delta_axes(columns.capture)
    leaves, treedef = jax.tree.flatten(columns.capture)
    mapped = [axis is not None for axis in treedef.flatten_up_to(axes)]

    def of_column(deltas: list):
        rest = iter(deltas)
        filled = [next(rest) if m else leaf for leaf, m in zip(leaves, mapped, strict=True)]
        return function(treedef.unflatten(filled))

    return add_up(of_column, [leaf for leaf, m in zip(leaves, mapped, strict=True) if m])


def as_batch(capture: Any) -> Any:
    """The capture of a batch of columns · batch examples, for which the inputs are repeated."""
    if isinstance(capture, StackedCapture):
        return StackedCapture(jax.vmap(as_batch)(capture.capture))
    repeated = over_columns(lambda inner: inner)(capture)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), repeated)


def pull_back(where: str, network: Layer, params: Any, residuals: Any, columns: Array) -> Any:
    """The captures of every column dy of ``columns`` [columns, *prediction].

    Raises:
        ValueError: see `require_examples_apart`, for which ``where`` is the name of the quantity.
    """

    def captures_of(dy: Array):
        return require_examples_apart(where, network.backward(params, residuals, dy)[1])

    one = jax.ShapeDtypeStruct(columns.shape[1:], columns.dtype)
    axes = _delta_axes(jax.eval_shape(captures_of, one))
    return map_captures(_wrap, jax.vmap(captures_of, out_axes=axes)(columns))


def unit_columns(prediction: Array) -> Array:
    """[outputs, *prediction], the unit vector of each output of an example, for all examples."""
    outputs = math.prod(prediction.shape[1:])
    units = jnp.eye(outputs, dtype=prediction.dtype).reshape(outputs, 1, *prediction.shape[1:])
    return jnp.broadcast_to(units, (outputs, *prediction.shape))


def hessian_root_captures(
    where: str, network: Layer, loss: Loss, samples: int | None = None
) -> Callable:
    """(params, state, x, target, key=None, weights=None) -> (captures, shares).

    The captures are those of the columns of a root S of each example's loss Hessian, H = S Sᵀ, or,
    with ``samples``, of so many vectors S ε / √samples with independent signs ε, whose products
    have the mean E[S ε εᵀ Sᵀ] = H. ``shares`` [batch] is what each example counts in the mean.
    Where ``samples`` is given, the key is split between the network and the signs.
    """
    if loss.hessian_root is None:
        raise ValueError(
            f"{where}: expected a loss with hessian_root, a root of its Hessian, "
            f"got {loss.name or 'one'} without it"
        )
    root = loss.hessian_root
    if samples is not None:
        require_positive_integer(where, "samples", samples)

    def run(params, state, x, target, key=None, weights=None):
        if samples is not None:
            key, sign_key = jax.random.split(require_key(where, key))
        prediction, _, residuals = network.forward(params, state, x, key)
        values = loss.value(prediction, target)
        require_weights(weights, values)
        if samples is None:
            vectors = unit_columns(prediction)
        else:
            shape = (samples, *prediction.shape)
            signs = jax.random.rademacher(sign_key, shape, prediction.dtype)
            vectors = signs / math.sqrt(samples)
        columns = jax.vmap(lambda v: root(prediction, target, v))(vectors)
        return pull_back(where, network, params, residuals, columns), shares(weights, values)

    return run


def _delta_axes(captures: Any) -> Any:
    """Of a vmap over columns: where the deltas have (or get) the axis, None for other arrays."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leading_axes(path), captures)


def _wrap(capture: Capture) -> Capture:
    # Inside of the stack, so that what is mapped over a stack meets columns layer by layer.
    if isinstance(capture, StackedCapture):
        return StackedCapture(_wrap(capture.capture))
    return ColumnsCapture(capture)
