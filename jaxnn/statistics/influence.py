"""Which training examples made a prediction what it is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.networks import plain
from jaxnn.core.validation import require_number, require_positive_integer
from jaxnn.statistics.examples import per_example_gradients, products_with
from jaxnn.statistics.gauss_newton import ggn_vector_product
from jaxnn.statistics.quantities import own_captures


def influence(
    network: Layer,
    loss: Loss,
    *,
    damping: float,
    tolerance: float = 1e-5,
    iterations: int = 100,
) -> Callable[..., Array]:
    """(params, state, x, target, queries, query_target, key=None, weights=None)
    -> [queries, batch], −∂l_qᵀ (G + λ I)⁻¹ ∂l_b.

    How fast the loss of query q changes as the weight of training example b grows in the mean loss
    whose minimum is at params (Koh and Liang, 2017): negative where b helps q, 0 for a b of weight
    0, which is not there. G, the Gauss-Newton matrix of the (weighted) training batch, stands for
    the Hessian, which away from the minimum is not positive definite (Bae et al., 2022). Each query
    takes one solution by conjugate gradients, in which G is a `ggn_vector_product`; no gradient of
    a training example is formed.

    Args:
        network: The network; one with batch norm or dropout, `in_inference_mode`.
        loss: The loss, of training examples and queries alike.
        damping: λ, more than 0: by how much the parameters are held to where they are.
        tolerance: Of the residual of the linear systems, relative to ∂l_q.
        iterations: The largest number of them for a query.

    Raises:
        ValueError: an option is out of range; see also `per_example_gradients`.
    """
    require_number("influence", "damping", damping, minimum=0, open_minimum=True)
    require_number("influence", "tolerance", tolerance, minimum=0)
    require_positive_integer("influence", "iterations", iterations)
    run = own_captures("influence", plain(network), loss)
    curvature = ggn_vector_product(network, loss)

    def compute(params, state, x, target, queries, query_target, key=None, weights=None):
        training = run(params, state, x, target, key, weights)
        asked = run(params, state, queries, query_target, key)

        def damped(vector: Any):
            product = curvature(vector, params, state, x, target, key, weights)
            return jax.tree.map(lambda p, v: p + damping * v, product, vector)

        def of_query(gradient: Any):
            solve = jax.scipy.sparse.linalg.cg
            solution, _ = solve(damped, gradient, tol=tolerance, maxiter=iterations)
            products = -products_with(training, solution)
            return products if weights is None else jnp.where(weights == 0, 0, products)

        return jax.lax.map(of_query, per_example_gradients.of(asked))

    return compute
