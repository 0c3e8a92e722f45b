"""A loss of single positions as a loss of sequences with padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.layer import Loss
from jaxnn.core.validation import require_array, require_floating, require_lengths, require_rank


def sequence_loss(loss: Loss) -> Loss:
    """The mean of ``loss`` over the real positions of each example: (1/n_b) Σ_t m_bt l(y_bt, t_bt).

    ``sequence_loss(softmax_cross_entropy())`` for logits [batch, time, classes] takes the target
    (labels [batch, time], lengths [batch]): only the first lengths[b] positions are real. In place
    of lengths there may be a mask, booleans [batch, time], m. Other positions have no gradient and
    may hold anything in prediction and target, NaN too; an example without a real position has the
    loss 0.

    Args:
        loss: Any loss of predictions [batch, …], here given [positions, …].

    Raises:
        TypeError: the target is no such tuple, or lengths are not integers.
        ValueError: a shape does not fit, or a length is negative or larger than time.
    """
    name = f"sequence_loss of {loss.name}".strip()

    def value(prediction: Array, target: Any):
        targets, mask = read_target(name, prediction, target)
        values = _by_position(loss.value, mask, prediction, targets)
        return jnp.sum(values * shares_of(mask, prediction.dtype), 1)

    def gradient(prediction: Array, target: Any):
        targets, mask = read_target(name, prediction, target)
        delta = _by_position(loss.gradient, mask, prediction, targets)
        return delta * _over(shares_of(mask, delta.dtype), delta)

    root = loss.hessian_root
    if root is None:
        return Loss(value, gradient, name)

    def hessian_root(prediction: Array, target: Any, v: Array):
        targets, mask = read_target(name, prediction, target)
        column = _by_position(root, mask, prediction, targets, v)
        return column * _over(jnp.sqrt(shares_of(mask, column.dtype)), column)

    return Loss(value, gradient, name, hessian_root)


def _by_position(function: Callable, mask: Array, prediction: Array, *others: Any) -> Array:
    """``function`` with every position as an example of its own, 0 where there is none."""

    def flatten(a: Array):
        # Cleared before, not only after: autodiff would meet NaN · 0 there.
        if jnp.issubdtype(a.dtype, jnp.inexact):
            a = jnp.where(_over(mask, a), a, 0)
        return a.reshape(-1, *a.shape[2:])

    flat = jax.tree.map(flatten, (prediction, *others))
    values = function(*flat)
    values = values.reshape(*mask.shape, *values.shape[1:])
    return jnp.where(_over(mask, values), values, 0)


def shares_of(mask: Array, dtype: Any) -> Array:
    """[batch, time], what each position counts: 1/n where it is real."""
    return mask.astype(dtype) / jnp.maximum(jnp.sum(mask, 1, keepdims=True), 1).astype(dtype)


def _over(of_positions: Array, a: Array) -> Array:
    """[batch, time] with further axes, to meet ``a`` [batch, time, …]."""
    return jnp.expand_dims(of_positions, range(2, a.ndim))


def read_target(name: str, prediction: Any, target: Any) -> tuple[Any, Array]:
    """The targets and a mask [batch, time] of the real positions, of what `sequence_loss` takes."""
    require_floating(name, "prediction", prediction)
    require_rank(name, "prediction", prediction, 2)
    if not isinstance(target, tuple) or len(target) != 2:
        raise TypeError(
            f"{name}: expected target to be a tuple (target, lengths or mask), "
            f"got {type(target).__name__}"
        )
    targets, real = target
    batch, time = prediction.shape[:2]
    for member in jax.tree.leaves(targets):
        if tuple(member.shape[:2]) != (batch, time):
            raise ValueError(
                f"{name}: expected the target to have shape [{batch}, {time}, …] as the "
                f"prediction has, got {tuple(member.shape)}"
            )
    require_array(name, "lengths or mask", real)
    if real.dtype != bool:
        require_lengths(name, real, batch, time)
        return targets, jnp.arange(time) < real[:, None]
    if tuple(real.shape) != (batch, time):
        raise ValueError(
            f"{name}: expected the mask to have shape ({batch}, {time}), got {tuple(real.shape)}"
        )
    return targets, real
