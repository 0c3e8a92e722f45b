"""The Hessian of the mean loss: its product with a vector, its trace and its diagonal.

Of a network under a rule of feedback, or with a straight-through estimator, it is that of the plain
network: another gradient than that of the loss has no symmetric derivative.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backprop
from jaxnn.core.networks import plain
from jaxnn.core.validation import require_key, require_positive_integer
from jaxnn.kernels.products import sum_dtype


def hessian_vector_product(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(vector, params, state, x, target, key=None, weights=None) -> ∂²L/∂params² · v, as params.

    The derivative along v of the hand-derived gradient (Pearlmutter, 1994): forward-mode
    differentiation of a backward pass, about twice its time, and the Hessian is never formed.
    """
    gradient = backprop(plain(network), loss)

    def product(vector, params, *arguments, **named):
        def of(params: Any):
            return gradient(params, *arguments, **named)[1]

        return jax.jvp(of, (params,), (vector,))[1]

    return product


def hessian_diagonal(network: Layer, loss: Loss, *, samples: int) -> Callable[..., Any]:
    """(params, state, x, target, key, weights=None) -> the tree of params: diag ∂²L/∂params².

    E[z ∘ H z] over ``samples`` vectors z of independent random signs (Hutchinson, 1989; Bekas et
    al., 2007): without bias, of variance Σ_{j≠i} H_ij² / samples for element i. The key is split
    between the network and the signs.
    """
    return _hutchinson("hessian_diagonal", lambda z, hz: z * hz, network, loss, samples)


def hessian_trace(network: Layer, loss: Loss, *, samples: int) -> Callable[..., Array]:
    """(params, state, x, target, key, weights=None) -> tr ∂²L/∂params², in at least float32.

    E[zᵀ H z] over ``samples`` vectors z of independent random signs: without bias, of variance
    2 Σ_{i≠j} H_ij² / samples (Hutchinson, 1989). The key is split as for `hessian_diagonal`.
    """
    run = _hutchinson("hessian_trace", _dot, network, loss, samples)

    def trace(*arguments, **named):
        return reduce(jnp.add, jax.tree.leaves(run(*arguments, **named)))

    return trace


def _dot(z: Array, hz: Array) -> Array:
    return jnp.vdot(z, hz, preferred_element_type=sum_dtype(hz.dtype))


def _hutchinson(
    where: str, combine: Callable, network: Layer, loss: Loss, samples: int
) -> Callable:
    """The mean over random signs z of ``combine`` (z, H z), for each array of the parameters."""
    require_positive_integer(where, "samples", samples)
    product = hessian_vector_product(network, loss)

    def run(params, state, x, target, key=None, weights=None):
        network_key, sign_key = jax.random.split(require_key(where, key))
        leaves, treedef = jax.tree.flatten(params)

        def one(key: Array):
            keys = jax.random.split(key, len(leaves))
            signs = [
                jax.random.rademacher(k, p.shape, p.dtype)
                for k, p in zip(keys, leaves, strict=True)
            ]
            z = treedef.unflatten(signs)
            hz = product(z, params, state, x, target, network_key, weights)
            return jax.tree.map(combine, z, hz)

        # One after the other: a product needs the memory of a training step.
        each = jax.lax.map(one, jax.random.split(sign_key, samples))
        return jax.tree.map(lambda a: jnp.mean(a, 0), each)

    return run
