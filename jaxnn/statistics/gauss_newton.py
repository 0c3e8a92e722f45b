"""The generalised Gauss-Newton matrix (GGN), and the Fisher information that it equals.

With the Jacobian J of the network by its parameters and the Hessian H = S Sᵀ of the loss by the
prediction, the GGN of the mean loss is E[Jᵀ H J] (Schraudolph, 2002). Backward is linear in dy, so
that Jᵀ S comes from mapping it over the columns of S. For a loss that is the negative
log-likelihood of a distribution in its natural parameters (softmax and sigmoid cross-entropy, half
the squared error) it is the Fisher information (Martens, 2020).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.captures import contract, map_captures
from jaxnn.core.gradients import backward_pass, require_weights, shares
from jaxnn.core.layer import Layer, Loss
from jaxnn.statistics import contractions
from jaxnn.statistics.columns import as_batch, hessian_root_captures
from jaxnn.statistics.examples import gradients_of
from jaxnn.statistics.trees import require_examples_apart, scaled


def diagonal_ggn(network: Layer, loss: Loss, *, samples: int | None = None) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> the tree of params: diag E[Jᵀ H J].

    The square of each element of Jᵀ S, summed over the columns of S and averaged over the examples
    (Dangel et al., 2020). There are as many columns as an example has outputs; all are held at
    once. In at least float32.

    Args:
        network: The network.
        loss: A loss with ``hessian_root``.
        samples: For a Monte Carlo estimate without bias, how many random combinations of the
            columns take the place of all; it needs a key.

    Raises:
        ValueError: the loss has no ``hessian_root``; see also `per_example_gradients`.
    """
    run = hessian_root_captures("diagonal_ggn", network, loss, samples)

    def diagonal(params, state, x, target, key=None, weights=None):
        return diagonal_of(*run(params, state, x, target, key, weights))

    return diagonal


def diagonal_of(captures: Any, shares: Array) -> Any:
    """diag E[Jᵀ H J] from the captures of `hessian_root_captures`; see `diagonal_ggn`."""
    return map_captures(contractions.sum_of_squares, scaled(captures, jnp.sqrt(shares)))


def ggn_vector_product(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(vector, params, state, x, target, key=None, weights=None) -> E[Jᵀ H J] v, as params.

    J v by forward-mode differentiation of the forward pass, H u as the derivative of the loss's
    gradient along u, Jᵀ by the backward pass: nothing is formed, and any loss and layer will do.
    """

    def product(vector, params, state, x, target, key=None, weights=None):
        def forward(params: Any):
            prediction, _, residuals = network.forward(params, state, x, key)
            return prediction, residuals

        prediction, along, residuals = jax.jvp(forward, (params,), (vector,), has_aux=True)
        values = loss.value(prediction, target)
        require_weights(weights, values)
        _, dy = jax.jvp(lambda y: loss.gradient(y, target), (prediction,), (along,))
        dy = dy * jnp.expand_dims(shares(weights, values), range(1, dy.ndim))
        return contract(network.backward(params, residuals, dy)[1])

    return product


def fisher_information(
    network: Layer, loss: Loss, *, empirical: bool = False
) -> Callable[..., Array]:
    """(params, state, x, target, key=None, weights=None) -> [parameters, parameters].

    E[Jᵀ H J] as a matrix, which equals the Fisher information for the losses named at the head of
    this file; with ``empirical`` E[g gᵀ], that of the labels at hand, which is another matrix
    (Kunstner et al., 2019). Its rows follow `jax.flatten_util.ravel_pytree` of params. For small
    networks: the gradient of every example (and column) is formed, and parameters² numbers.

    Raises:
        ValueError: as `diagonal_ggn`; an empirical one needs no ``hessian_root``.
    """

    def labelled(params, state, x, target, key=None, weights=None):
        result = backward_pass(network, loss)(params, state, x, target, key)
        require_weights(weights, result.values)
        require_examples_apart("fisher_information", result.captures)
        return scaled(result.captures, jnp.sqrt(shares(weights, result.values)))

    def expected(*arguments, **named):
        captures, of = roots(*arguments, **named)
        return map_captures(as_batch, scaled(captures, jnp.sqrt(of)))

    if empirical:
        run = labelled
    else:
        roots = hessian_root_captures("fisher_information", network, loss)
        run = expected

    def matrix(*arguments, **named):
        gradients = gradients_of(run(*arguments, **named))
        rows = jax.vmap(lambda g: ravel_pytree(g)[0])(gradients)
        return rows.T @ rows

    return matrix
