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

from jaxnn.core.captures import StackedCapture, map_captures
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.gradients import present, require_weights
from jaxnn.core.mixing import require_apart, require_loss_apart
from jaxnn.core.networks import plain
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.validation import require_key, require_positive_integer
from jaxnn.kernels.sums import add_up
from jaxnn.statistics.trees import require_examples_apart


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ColumnsCapture(Capture):
    """A capture whose deltas, and they alone, have a leading axis of columns."""

    capture: Any

    def gradient(self) -> Any:
        """The gradient of every column, stacked."""
        return over_columns(lambda capture: capture.gradient())(self)

    def map_deltas(self, function: Callable) -> "ColumnsCapture":
        """``function`` of the deltas of every column."""
        return ColumnsCapture(self.capture.map_deltas(jax.vmap(function)))

    def without(self, absent: Array) -> "ColumnsCapture":
        """Every column without these examples; the inputs are there once."""
        axes = _delta_axes(self.capture)
        clear = jax.vmap(lambda capture: capture.without(absent), (axes,), axes)
        return ColumnsCapture(clear(self.capture))

    def linear(self) -> Capture | None:
        """The linear capture of every column, whose inputs are there once."""
        return _mapped(lambda capture: capture.linear(), _delta_axes(self.capture))(self.capture)

    def fold(self, parameters: Any) -> Any:
        """As without columns."""
        return self.capture.fold(parameters)


def over_columns(function: Callable) -> Callable:
    """``function`` of a capture, mapped over the columns of a `ColumnsCapture`."""

    def mapped(columns: ColumnsCapture):
        return jax.vmap(function, in_axes=(_delta_axes(columns.capture),))(columns.capture)

    return mapped


def over_columns_of(function: Callable, captures: Any) -> Any:
    """``function`` of each capture of a tree, mapped over its columns, which come first."""

    def of_one(capture: Any) -> Any:
        plain = without_columns(capture)  # whose deltas have the axis all the same
        return jax.vmap(function, (_delta_axes(plain),))(plain)

    return map_captures(of_one, captures)


def without_columns(capture: Any) -> Any:
    """The capture that has columns, as if it had none: for what it is of, not for its arrays."""
    if isinstance(capture, StackedCapture):
        return StackedCapture(without_columns(capture.capture))
    return capture.capture if isinstance(capture, ColumnsCapture) else capture


def add_up_columns(function: Callable, columns: ColumnsCapture) -> Any:
    """The sum over the columns of ``function`` of each column's capture."""
    leaves, treedef = jax.tree.flatten(columns.capture)
    of_columns = [axis is not None for axis in treedef.flatten_up_to(_delta_axes(columns.capture))]

    def of_column(deltas: list):
        rest = iter(deltas)
        filled = [next(rest) if own else a for a, own in zip(leaves, of_columns, strict=True)]
        return function(treedef.unflatten(filled))

    return add_up(of_column, [a for a, own in zip(leaves, of_columns, strict=True) if own])


def as_batch(capture: Any) -> Any:
    """The capture of a batch of columns · batch examples, for which the inputs are repeated."""
    if isinstance(capture, StackedCapture):
        return StackedCapture(jax.vmap(as_batch)(capture.capture))
    if not isinstance(capture, ColumnsCapture):
        return capture
    repeated = over_columns(lambda inner: inner)(capture)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), repeated)


def pull_back(where: str, network: Layer, params: Any, residuals: Any, columns: Array) -> Any:
    """The captures of every column dy of ``columns`` [columns, *prediction].

    Raises:
        ValueError: see `require_examples_apart`, for which ``where`` is the name of the quantity.
    """

    def captures_of(dy: Array):
        return require_examples_apart(where, network.backward(params, residuals, dy)[1])

    return _mapped(captures_of, 0)(columns)


def unit_columns(prediction: Array) -> Array:
    """[outputs, *prediction], the unit vector of each output of an example, for all examples."""
    outputs = math.prod(prediction.shape[1:])
    units = jnp.eye(outputs, dtype=prediction.dtype).reshape(outputs, 1, *prediction.shape[1:])
    return jnp.broadcast_to(units, (outputs, *prediction.shape))


def hessian_root_captures(
    where: str, network: Layer, loss: Loss, *, samples: int | None = None
) -> Callable:
    """(params, state, x, target, key=None, weights=None) -> captures, of the plain network.

    They are those of the columns of a root S of each example's loss Hessian, H = S Sᵀ, or, with
    ``samples``, of so many vectors S ε / √samples with independent signs ε, whose products have the
    mean E[S ε εᵀ Sᵀ] = H. Then the key is split between the network and the signs. ``where`` is the
    name of the quantity, for errors.
    """
    if not loss.root_known:
        raise ValueError(
            f"{where}: expected a loss with hessian_root, a root of its Hessian, "
            f"got {loss.name} without it"
        )
    if samples is not None:
        require_positive_integer(where, "samples", samples)
    network = plain(network)

    def run(params, state, x, target, key=None, weights=None):
        if samples is not None:
            key, sign_key = jax.random.split(require_key(where, key))
        require_apart(where, network, params, state, x, key)
        require_loss_apart(where, loss, network, params, state, x, target, key)
        x, target = present(weights, (x, target))
        prediction, _, residuals = network.forward(params, state, x, key)
        require_weights(weights, jax.eval_shape(loss.value, prediction, target))
        if samples is None:
            vectors = unit_columns(prediction)
        else:
            shape = (samples, *prediction.shape)
            signs = jax.random.rademacher(sign_key, shape, prediction.dtype)
            vectors = signs / math.sqrt(samples)
        columns = jax.vmap(lambda v: loss.hessian_root(prediction, target, v))(vectors)
        return pull_back(where, network, params, residuals, columns)

    return run


def _mapped(function: Callable, in_axes: Any) -> Callable:
    """``function`` of one argument, which returns captures, mapped over columns: of what it returns
    the deltas alone have the axis."""

    def mapped(argument: Any):
        run = jax.vmap(function, (in_axes,))
        axes = _delta_axes(jax.eval_shape(run, argument))
        return map_captures(_wrap, jax.vmap(function, (in_axes,), axes)(argument))

    return mapped


def _delta_axes(captures: Any) -> Any:
    """Of a vmap over columns: where the deltas have (or get) the axis, None for other arrays."""
    return map_captures(_axes_of_one, captures)


def _axes_of_one(capture: Capture) -> Capture:
    leaves, treedef = jax.tree.flatten(capture)
    axis, inner, found = 0, capture, []
    while isinstance(inner, StackedCapture):  # what is mapped over a stack meets columns inside
        axis, inner = axis + 1, inner.capture

    def look(*leaves: Array):
        # The deltas are what another array takes the place of.
        changed = treedef.unflatten(leaves).map_deltas(lambda deltas: 1 * deltas)
        kept = {id(leaf) for leaf in jax.tree.leaves(changed)}
        found.extend(None if id(leaf) in kept else axis for leaf in leaves)

    jax.eval_shape(look, *leaves)
    return treedef.unflatten(found)


def _wrap(capture: Capture) -> Capture:
    # Inside of the stack, so that what is mapped over a stack meets columns layer by layer.
    if isinstance(capture, StackedCapture):
        return StackedCapture(_wrap(capture.capture))
    return ColumnsCapture(capture)
