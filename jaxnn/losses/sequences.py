"""A loss of single positions as a loss of sequences with padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Loss
from jaxnn.core.validation import require_array, require_floating, require_lengths, require_rank
from jaxnn.kernels.products import sum_dtype
from jaxnn.losses.targets import LabelError, OfLabels, like, over


class sequence_loss(Loss):
    """The mean of ``loss`` over the real positions of each example: (1/n_b) Σ_t m_bt l(y_bt, t_bt).

    ``sequence_loss(softmax_cross_entropy())`` for logits [batch, time, classes] takes the target
    (labels [batch, time], lengths [batch]): only the first lengths[b] positions are real. In place
    of lengths there may be a mask, booleans [batch, time], m. Other positions have no gradient and
    may hold anything in prediction and target, NaN too; neither do those count whose label is the
    loss's ``ignore_index``. An example without a position that counts has the loss 0.

    Args:
        loss: Any loss of predictions [batch, …], here given [positions, …].

    Raises:
        TypeError: the target is no such tuple, or lengths are not integers.
        ValueError: the loss compares examples with each other, a shape does not fit, a length is
            negative or larger than time, or a label of a real position is no class.
    """

    loss: Loss

    def validate(self) -> None:
        if self.loss.mixes:
            raise ValueError(
                f"sequence_loss: expected a loss that takes every position by itself, but "
                f"{self.loss.name} compares them with each other"
            )

    @property
    def mixes(self) -> bool | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loss.mixes

    @property
    def name(self) -> str:
        inner = self.loss
        return f"sequence_loss of {inner.name}" if isinstance(inner, Loss) else "sequence_loss"

    def value(self, prediction: Any, target: Any):
        targets, mask = self._read(prediction, target)
        values = _by_position(self.loss.value, mask, prediction, targets)
        shares = shares_of(mask, sum_dtype(values.dtype))
        return like(values, jnp.sum(values * shares, 1))

    def gradient(self, prediction: Any, target: Any):
        targets, mask = self._read(prediction, target)
        delta = _by_position(self.loss.gradient, mask, prediction, targets)
        shares = shares_of(mask, sum_dtype(delta.dtype))
        return like(delta, delta * over(shares, delta.ndim))

    @property
    def root_known(self) -> bool:
        return self.loss.root_known

    def hessian_root(self, prediction: Any, target: Any, v: Any):
        targets, mask = self._read(prediction, target)
        column = _by_position(self.loss.hessian_root, mask, prediction, targets, v)
        shares = shares_of(mask, sum_dtype(column.dtype))
        return like(column, column * over(jnp.sqrt(shares), column.ndim))

    def task(self, classes: int):
        raise ValueError(
            f"{self.name}: expected a loss of one label or number for each example, but this one "
            f"takes targets with their lengths; take {self.loss!r} for sequences without padding, "
            "or train with it from Python"
        )

    def _read(self, prediction: Any, target: Any) -> tuple[Any, Array]:
        """The targets, and a mask [batch, time] of the positions that count."""
        targets, mask = read_target(self.name, prediction, target)
        counted = self.loss.counted(targets) if isinstance(self.loss, OfLabels) else None
        if counted is not None:
            mask &= jnp.any(counted, range(2, counted.ndim))
        return targets, mask


def _by_position(function: Callable, mask: Array, prediction: Array, *others: Any) -> Array:
    """``function`` with every position as an example of its own, 0 where there is none."""

    def flatten(a: Array):
        # Cleared before, not only after: autodiff would meet NaN · 0 there, and a label no class.
        cleared = jnp.where(over(mask, jnp.ndim(a)), a, jnp.zeros((), a.dtype))
        return cleared.reshape(-1, *a.shape[2:])

    flat = jax.tree.map(flatten, (prediction, *others))
    try:
        values = function(*flat)
    except LabelError as error:
        place = (*divmod(error.place[0], mask.shape[1]), *error.place[1:])
        raise LabelError(error.expected, error.label, place) from None
    values = values.reshape(*mask.shape, *values.shape[1:])
    return jnp.where(over(mask, values.ndim), values, 0)


def shares_of(mask: Array, dtype: Any) -> Array:
    """[batch, *positions], what each position counts: 1/n where it is real."""
    count = jnp.sum(mask, range(1, mask.ndim), keepdims=True)
    return mask.astype(dtype) / jnp.maximum(count, 1).astype(dtype)


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
