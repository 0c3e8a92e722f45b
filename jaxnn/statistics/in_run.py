"""What each training example does for a validation loss, measured while the network is trained."""

from collections.abc import Callable
from typing import Any

from jax import Array

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backprop
from jaxnn.core.networks import in_inference_mode
from jaxnn.core.validation import batch_size, brief
from jaxnn.statistics.examples import products_with
from jaxnn.statistics.quantities import Quantity, own_captures
from jaxnn.statistics.trees import (
    require_examples_apart,
    shares_of,
    widened,
    without,
)


class InRunValues(Quantity):
    """A quantity of captures beside which the gradient of a validation loss stands."""

    def of(self, captures: Any, weights: Array | None = None, **options: Any) -> Any:
        """What the function says of (captures of each example's own loss, a gradient)."""
        own, gradient = captures
        require_examples_apart(self.__name__, own)
        if weights is not None:
            own = without(own, weights == 0)
        return self._function((own, gradient), weights, **options)

    @property
    def source(self) -> tuple:
        """Its own: validation examples cannot be compared."""
        return (self,)


def _with_validation(where: str, network: Layer, loss: Loss, *, validation: Any = None) -> Callable:
    if not isinstance(validation, tuple) or len(validation) != 2:
        raise TypeError(
            f"{where}: expected validation to be a tuple (x, target), got {brief(validation)}: "
            f"{where}.with_options(validation=(x, target))"
        )
    if batch_size(where, validation) == 0:
        raise ValueError(f"{where}: expected validation to hold at least one example, got none")
    # What training is to lower is the loss of predictions, without noise.
    descend = backprop(in_inference_mode(network), loss)
    run = own_captures(where, network, loss)

    def captures(params, state, x, target, key=None, weights=None):
        own = run(params, state, x, target, key, weights)
        return own, descend(params, state, *validation)[1]

    return captures


def _in_run_values(captures: Any, weights: Array | None = None) -> Array:
    """[batch], sᵦ ⟨∂lᵦ, ∂L⟩ for the gradient ∂L of the mean loss of validation examples, in
    inference mode, and what an example counts in the mean of the batch, sᵦ = wᵦ / Σ w.

    Times the learning rate it is, to first order, by how much the example lowers the validation
    loss in a step of gradient descent: positive where it helps. Summed over the steps of a training
    it is the example's Shapley value in that run (Wang et al., 2024, "Data Shapley in one training
    run", of first order): what all of a batch have add up to ⟨∂L_batch, ∂L⟩. No gradient of an
    example is formed.

        values = in_run_values.with_options(validation=(x_held_out, target_held_out))
        train(…, measure={"values": values})     # in epoch.measures, [steps, batch]

    Args:
        captures: (Of each example's own loss, the gradient ∂L).
        weights: What each example counts.

    Options:
        validation: (x, target) of the validation examples, in one block.

    Raises:
        TypeError: validation is not such a tuple.
        ValueError: it is empty; as of a `Quantity`.
    """
    own, gradient = captures
    products = products_with(widened(own), widened(gradient))
    return products * shares_of(own, weights).astype(products.dtype)


_in_run_values.__name__ = "in_run_values"
in_run_values = InRunValues(_in_run_values, _with_validation, {})
