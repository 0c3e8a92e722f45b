"""The generalised Gauss-Newton matrix (GGN), and the Fisher information that it equals.

With the Jacobian J of the network by its parameters and the Hessian H = S Sᵀ of the loss by the
prediction, the GGN of the mean loss is E[Jᵀ H J] (Schraudolph, 2002). Backward is linear in dy, so
that Jᵀ S comes from mapping it over the columns of S. For a loss that is the negative
log-likelihood of a distribution in its natural parameters (softmax and sigmoid cross-entropy, half
the squared error) it is the Fisher information (Martens, 2020).

Jᵀ is that of the plain network: under a rule of feedback, backward is no transposed Jacobian.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.captures import contract, in_params, map_captures
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import present, require_weights, shares
from jaxnn.core.mixing import require_loss_apart
from jaxnn.core.networks import plain
from jaxnn.statistics import contractions
from jaxnn.statistics.columns import as_batch, hessian_root_captures
from jaxnn.statistics.examples import per_example_gradients
from jaxnn.statistics.quantities import own_captures, quantity
from jaxnn.statistics.trees import scaled, shares_of, widened


@quantity(captures_of=hessian_root_captures)
def diagonal_ggn(captures: Any, weights: Array | None = None) -> Any:
    """The tree of params: diag E[Jᵀ H J], in at least float32.

    The square of each element of Jᵀ S, summed over the columns of S and averaged over the examples
    (Dangel et al., 2020). There are as many columns as an example has outputs; all are held at
    once. With the option ``samples``, which needs a key, so many random combinations of the columns
    take the place of all: a Monte Carlo estimate without bias.

    Raises:
        ValueError: the loss has no ``hessian_root``; see also `per_example_gradients`.
    """
    shared = scaled(widened(captures), jnp.sqrt(shares_of(captures, weights)))
    return in_params(map_captures(contractions.sum_of_squares, shared), leading=0)


def ggn_vector_product(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(vector, params, state, x, target, key=None, weights=None) -> E[Jᵀ H J] v, as params.

    J v by forward-mode differentiation of the forward pass, H u as the derivative of the loss's
    gradient along u, Jᵀ by the backward pass: nothing is formed, and any loss and layer will do.
    """
    require_loss_apart("ggn_vector_product", loss)
    network = plain(network)

    def product(vector, params, state, x, target, key=None, weights=None):
        require_loss_apart("ggn_vector_product", loss, network, params, state, x, target, key)
        x, target = present(weights, (x, target))

        def forward(params: Any):
            prediction, _, residuals = network.forward(params, state, x, key)
            return prediction, residuals

        prediction, along, residuals = jax.jvp(forward, (params,), (vector,), has_aux=True)
        values = jax.eval_shape(loss.value, prediction, target)
        require_weights(weights, values)
        _, dy = jax.jvp(lambda y: loss.gradient(y, target), (prediction,), (along,))
        share = shares(weights, values)
        dy = jax.tree.map(lambda d: d * jnp.expand_dims(share, range(1, d.ndim)), dy)
        return contract(network.backward(params, residuals, dy)[1])

    return product


def _labelled_or_roots(
    where: str, network: Layer, loss: Loss, *, empirical: bool = False
) -> Callable:
    captures_of = own_captures if empirical else hessian_root_captures
    return captures_of(where, plain(network), loss)


@quantity(captures_of=_labelled_or_roots)
def fisher_information(captures: Any, weights: Array | None = None) -> Array:
    """[parameters, parameters], E[Jᵀ H J] as a matrix, in at least float32.

    It equals the Fisher information for the losses named at the head of this file; with the option
    ``empirical`` it is E[g gᵀ], that of the labels at hand, which is another matrix (Kunstner et
    al., 2019). Its rows follow `jax.flatten_util.ravel_pytree` of params. For small networks: the
    gradient of every example (and column) is formed, and parameters² numbers.

    Raises:
        ValueError: as `diagonal_ggn`; an empirical one needs no ``hessian_root``.
    """
    shared = scaled(widened(captures), jnp.sqrt(shares_of(captures, weights)))
    gradients = per_example_gradients.of(map_captures(as_batch, shared))
    rows = jax.vmap(lambda g: ravel_pytree(g)[0])(gradients)
    return rows.T @ rows
