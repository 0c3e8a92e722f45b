"""The empirical neural tangent kernel: how a step for one output moves another."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.mixing import require_apart
from jaxnn.core.networks import plain
from jaxnn.statistics.columns import pull_back, unit_columns
from jaxnn.statistics.examples import dot_products


def empirical_ntk(network: Layer) -> Callable[..., Array]:
    """(params, state, x, others=None, key=None) -> [batch, outputs, batch of others, outputs].

    The products of the Jacobians of two predictions, ⟨∂y_bi/∂params, ∂y_cj/∂params⟩, of x with
    itself or with ``others`` (Jacot et al., 2018); outputs are the elements of one example's
    prediction, in row-major order. From the captures of every output's unit vector, as products of
    inputs and of deltas where that is cheaper than forming Jacobians.

    Raises:
        ValueError: a layer mixes the examples of a batch, or gives its gradient already contracted.
    """

    network = plain(network)

    def kernel(params, state, x, others=None, key=None):
        def unit_captures(x: Any):
            require_apart("empirical_ntk", network, params, state, x, key)
            prediction, _, residuals = network.forward(params, state, x, key)
            columns = unit_columns(prediction)
            return pull_back("empirical_ntk", network, params, residuals, columns)

        first = unit_captures(x)
        second = first if others is None else unit_captures(others)
        return jnp.transpose(dot_products.of(first, others=second), (2, 0, 3, 1))

    return kernel
