"""A loss whose examples do not all count the same."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Loss
from jaxnn.core.gradients import of_those_present
from jaxnn.core.validation import batch_size, known_values, require_floating
from jaxnn.losses.targets import like, over


class weighted_examples(Loss):
    """w_b l(y_b, t_b): the loss of example b times a weight of its own.

    Takes the target (target of ``loss``, weights [batch]) with floating-point weights ≥ 0. Weights
    whose mean over the training examples is 1 make the mean over a batch an
    unbiased estimate of the weighted mean Σ w_i l_i / Σ w_i over all of them. An example of weight
    0 has the loss 0 and no gradient, and may hold anything.

    By the product rule the gradient is w_b ∂l/∂y_b, and the Hessian w_b S Sᵀ has the root √w_b S.

    Args:
        loss: Any loss.

    Raises:
        TypeError: the target is no such tuple, or weights are not floating-point numbers.
        ValueError: weights are not one for each example, or below 0.
    """

    loss: Loss

    @property
    def mixes(self) -> bool | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loss.mixes

    @property
    def name(self) -> str:
        inner = self.loss
        return f"weighted {inner.name}" if isinstance(inner, Loss) else "weighted_examples"

    def value(self, prediction: Any, target: Any):
        prediction, inner, weights = self._read(prediction, target)
        values = self.loss.value(prediction, inner)
        return like(values, values * weights)

    def gradient(self, prediction: Any, target: Any):
        prediction, inner, weights = self._read(prediction, target)
        return self._scaled(self.loss.gradient(prediction, inner), weights)

    @property
    def root_known(self) -> bool:
        return self.loss.root_known

    def hessian_root(self, prediction: Any, target: Any, v: Any):
        prediction, inner, weights = self._read(prediction, target)
        return self._scaled(self.loss.hessian_root(prediction, inner, v), jnp.sqrt(weights))

    def task(self, classes: int):
        return self.loss.task(classes)

    def leaving_out(self, target: Any, absent: Array):
        inner, weights = target
        return self.loss.leaving_out(inner, absent), jnp.where(absent, 0, weights)

    def _read(self, prediction: Any, target: Any) -> tuple[Any, Any, Array]:
        """Prediction, target and weights; another example stands in for those of weight 0."""
        if not isinstance(target, tuple) or len(target) != 2:
            raise TypeError(
                f"{self.name}: expected target to be a tuple (target, weights), got "
                f"{type(target).__name__}"
            )
        inner, weights = target
        weights = jnp.asarray(weights)
        require_floating(self.name, "weights", weights)
        batch = batch_size(self.name, prediction)
        if weights.shape != (batch,):
            raise ValueError(
                f"{self.name}: expected weights to be one for each example, shape ({batch},), got "
                f"{weights.shape}"
            )
        known = known_values(weights)
        if known is not None and (known < 0).any():
            raise ValueError(f"{self.name}: expected weights of at least 0, got {known.min()}")
        return *of_those_present(self.loss, weights, prediction, inner), weights

    @staticmethod
    def _scaled(delta: Any, weights: Array) -> Any:
        return jax.tree.map(lambda a: like(a, a * over(weights, a.ndim)), delta)
