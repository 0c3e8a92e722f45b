"""The empirical neural tangent kernel: how a step for one output moves another."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import in_params
from jaxnn.core.contract import Layer
from jaxnn.core.mixing import require_apart
from jaxnn.core.networks import plain
from jaxnn.kernels.products import add_all
from jaxnn.statistics import contractions
from jaxnn.statistics.columns import over_columns_of, pull_back, unit_columns
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
    unit_captures = _pulled_back("empirical_ntk", network, unit_columns)

    def kernel(params, state, x, others=None, key=None):
        first = unit_captures(params, state, x, key)
        second = first if others is None else unit_captures(params, state, others, key)
        return jnp.transpose(dot_products.of(first, others=second), (2, 0, 3, 1))

    return kernel


def ntk_diagonal(network: Layer) -> Callable[..., Array]:
    """(params, state, x, key=None) -> [batch, outputs], ‖∂y_bi/∂params‖², the diagonal of
    `empirical_ntk`, whose sum is its trace, without the matrix.

    Raises:
        ValueError: as `empirical_ntk`.
    """
    unit_captures = _pulled_back("ntk_diagonal", network, unit_columns)

    def diagonal(params, state, x, key=None):
        captures = unit_captures(params, state, x, key)
        norms = in_params(over_columns_of(contractions.squared_norms, captures), leading=None)
        leaves = jax.tree.leaves(norms)
        if not leaves:
            raise ValueError("ntk_diagonal: expected a network with parameters, got one without")
        return add_all(*leaves).T

    return diagonal


def pseudo_ntk(network: Layer) -> Callable[..., Array]:
    """(params, state, x, others=None, key=None) -> [batch, batch of others], the products of the
    Jacobians of Σ_i y_i / √outputs.

    One backward pass in the place of as many as there are outputs; it comes near to the kernel of
    each output as the network becomes wide (Mohamadi et al., 2023).

    Raises:
        ValueError: as `empirical_ntk`.
    """

    def mean_column(prediction: Array) -> Array:
        return jnp.full((1, *prediction.shape), math.prod(prediction.shape[1:]) ** -0.5)

    captures_of = _pulled_back("pseudo_ntk", network, mean_column)

    def kernel(params, state, x, others=None, key=None):
        first = captures_of(params, state, x, key)
        second = first if others is None else captures_of(params, state, others, key)
        return dot_products.of(first, others=second)[0, 0]

    return kernel


def _pulled_back(where: str, network: Layer, columns_of: Callable) -> Callable:
    """(params, state, x, key) -> the captures of columns of a prediction."""
    network = plain(network)

    def captures(params, state, x, key):
        require_apart(where, network, params, state, x, key)
        prediction, _, residuals = network.forward(params, state, x, key)
        columns = columns_of(prediction).astype(prediction.dtype)
        return pull_back(where, network, params, residuals, columns)

    return captures
