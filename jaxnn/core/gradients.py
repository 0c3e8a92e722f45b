"""Gradient functions: hand-derived, by autodiff and by differences, values with one signature.

    (params, state, x, target, key=None, weights=None) -> ((value, state), gradients)

The value is the weighted mean over the batch of each example's loss, Σ wᵢ lᵢ / Σ wᵢ, without
``weights`` the plain mean; ``state`` is the layer state after the step. Weights must have a
positive sum: the mean of nothing is NaN. An example of weight 0 counts as if it were not there,
whatever it holds, NaN too: another example stands in its place, of which nothing is used.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.captures import contract_for
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.networks import summing
from jaxnn.core.validation import require_floating, require_positive
from jaxnn.core.value import Value, checked
from jaxnn.kernels.products import sum_dtype


class BackwardPass(NamedTuple):
    """All that one pass forward and back through a network knows."""

    values: Array
    """[batch], each example's own loss; 0 for one of weight 0."""
    prediction: Any
    """What the network returned."""
    state: Any
    """The layer state after the forward pass."""
    captures: Any
    """The gradient of Σ wᵢ lᵢ, not yet contracted."""
    dx: Any
    """The gradient of Σ wᵢ lᵢ by the input."""


def backward_pass(network: Layer, loss: Loss) -> Callable[..., BackwardPass]:
    """(params, state, x, target, key=None, weights=None) -> `BackwardPass`.

    Example i enters with the gradient of its own loss times weights[i] (1 without ``weights``), not
    divided by the batch: what one example contributes does not depend on the others.
    """
    checked("backward_pass", "network", network, Layer)
    checked("backward_pass", "loss", loss, Loss)
    return pass_with(network, loss, _as_given)


class backprop(Value):
    """The hand-derived gradient: a backward pass with weights that sum to 1, then `contract`.

    It has the tree and the dtypes of the parameters.
    """

    network: Layer
    loss: Loss

    def __call__(self, params, state, x, target, key=None, weights=None):
        run = pass_with(summing(self.network), self.loss, shares)
        result = run(params, state, x, target, key, weights)
        value = weighted_mean(result.values, weights)
        return (value, result.state), contract_for(params, result.captures)


def pass_with(network: Layer, loss: Loss, factors: Callable) -> Callable[..., BackwardPass]:
    """`backward_pass`, where ``factors`` of (weights, values), as `shares`, multiply the deltas."""

    def run(params, state, x, target, key=None, weights=None):
        x, target = of_those_present(loss, weights, x, target)
        prediction, new_state, residuals = network.forward(params, state, x, key)
        shape = jax.eval_shape(loss.value, prediction, target)
        require_weights(weights, shape)
        values, delta = loss.weighted(prediction, target, factors(weights, shape))
        dx, captures = network.backward(params, residuals, delta)
        return BackwardPass(of_present(weights, values), prediction, new_state, captures, dx)

    return run


class autodiff(Value):
    """The gradient by `jax.value_and_grad` through the network's forward and the loss's value."""

    network: Layer
    loss: Loss

    def __call__(self, params, state, x, target, key=None, weights=None):
        mean_loss = _mean_loss(self.network, self.loss)
        return jax.value_and_grad(mean_loss, has_aux=True)(params, state, x, target, key, weights)


class numerical(Value):
    """The gradient by central differences, (L(θ + h) − L(θ − h)) / 2h for every parameter.

    Two loss evaluations for each parameter: for small networks only. The error is O(h²) from the
    third derivative and O(ε/h) from rounding; the default h = ε^(1/3), for the machine precision ε,
    balances them, which leaves about 1e-10 in float64 and 1e-4 in float32.
    """

    network: Layer
    loss: Loss
    step: Annotated[float, require_positive] | None = None

    def __call__(self, params, state, x, target, key=None, weights=None):
        mean_loss = _mean_loss(self.network, self.loss)
        flat, unravel = ravel_pytree(params)
        h = float(jnp.finfo(flat.dtype).eps) ** (1 / 3) if self.step is None else self.step

        def difference(index):
            high, low = (
                mean_loss(unravel(flat.at[index].add(s)), state, x, target, key, weights)[0]
                for s in (h, -h)
            )
            return (high - low) / (2 * h)

        if flat.size == 0:
            return mean_loss(params, state, x, target, key, weights), params
        slopes = jax.lax.map(difference, jnp.arange(flat.size), batch_size=64)
        return mean_loss(params, state, x, target, key, weights), unravel(slopes)


def _mean_loss(network: Layer, loss: Loss) -> Callable:
    def mean_loss(params, state, x, target, key=None, weights=None):
        x, target = of_those_present(loss, weights, x, target)
        prediction, new_state, _ = network.forward(params, state, x, key)
        values = loss.value(prediction, target)
        require_weights(weights, values)
        return weighted_mean(of_present(weights, values), weights), new_state

    return mean_loss


def present(weights: Array | None, tree: Any) -> Any:
    """The tree, batch first, with the first example of a weight other than 0 in place of those that
    have the weight 0."""
    if weights is None:
        return tree
    require_floating("gradient function", "weights", weights)
    if weights.ndim != 1 or weights.shape[0] == 0:
        return tree
    absent = weights == 0
    # Where all are absent, zeros stand in their place.
    first = (jnp.arange(weights.shape[0]) == jnp.argmin(absent)) & ~absent

    def filled(a: Array):
        if jnp.shape(a)[:1] != weights.shape:
            return a
        over = tuple(range(1, jnp.ndim(a)))
        # A sum, which devices that share the batch add up; an index would gather all of it.
        own = jnp.sum(jnp.where(jnp.expand_dims(first, over), a, 0), 0, dtype=a.dtype)
        return jnp.where(jnp.expand_dims(absent, over), own, a)

    return jax.tree.map(filled, tree)


def of_those_present(loss: Loss, weights: Array | None, x: Any, target: Any) -> tuple[Any, Any]:
    """x and target; one example stands in for those of weight 0, which count for no other."""
    x, target = present(weights, (x, target))
    return x, target if weights is None else loss.leaving_out(target, weights == 0)


def of_present(weights: Array | None, values: Array) -> Array:
    """The values, 0 for an example of weight 0."""
    return values if weights is None else jnp.where(weights == 0, 0, values)


def weighted_mean(values: Array, weights: Array | None) -> Array:
    """Σ wᵢ lᵢ / Σ wᵢ, the plain mean without weights, in the dtype of the values."""
    if weights is None:
        return jnp.mean(values)
    wide = sum_dtype(values.dtype)  # half precision holds neither a large sum nor a long one
    mean = jnp.sum(values.astype(wide) * weights) / jnp.sum(weights, dtype=wide)
    return mean.astype(values.dtype)


def shares(weights: Array | None, values: Any) -> Array:
    """[batch], what each example's loss counts in the weighted mean: wᵢ / Σ w, or 1 / batch."""
    if weights is None:
        return jnp.full(values.shape, 1 / max(values.size, 1), values.dtype)
    share = weights / jnp.sum(weights, dtype=sum_dtype(weights.dtype))
    return share.astype(weights.dtype)


def _as_given(weights: Array | None, values: Any) -> Array:
    return jnp.ones(values.shape, values.dtype) if weights is None else weights


def require_weights(weights: Any, values: Any, where: str = "gradient function") -> None:
    """Raise unless ``weights`` is None or one number for each of the examples' values."""
    if weights is None:
        return
    require_floating(where, "weights", weights)
    if weights.shape != values.shape or weights.dtype != values.dtype:
        raise ValueError(
            f"{where}: expected weights to be one {values.dtype} for each example, "
            f"shape {values.shape}, got {weights.dtype} of shape {weights.shape}"
        )
