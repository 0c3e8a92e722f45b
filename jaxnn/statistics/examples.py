"""Per-example quantities: gradients, their norms, and their dot products.

Each is a function of captures, the ones of `jaxnn.backward_pass`, beside a function of (network,
loss) that makes the backward pass itself. Where several are wanted, the first kind takes them all
from one pass.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract, map_captures
from jaxnn.core.gradients import backward_pass
from jaxnn.core.layer import Layer, Loss
from jaxnn.statistics import contractions
from jaxnn.statistics.trees import batch_of, require_examples_apart, scaled


def per_example_gradients(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> params' tree, [batch, *parameter].

    The gradient of each example's own loss, not divided by the batch; times its weight where
    ``weights`` [batch] are given, here and in the other functions of this file.

    Raises:
        ValueError: a layer mixes the examples of a batch, as batch norm does in training, or gives
            its gradient already contracted. This holds for all quantities of single examples.
    """
    return _of_captures("per_example_gradients", gradients_of, network, loss)


def per_example_squared_norms(
    network: Layer, loss: Loss, *, per_parameter: bool = False
) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> [batch], ‖∂l_b/∂params‖².

    No gradient of an example is formed where its norm is known for less (Goodfellow, 2015): with
    one position ‖a dᵀ‖² = ‖a‖² ‖d‖². In at least float32.

    Args:
        network: The network.
        loss: The loss.
        per_parameter: Give the tree of params, with [batch] for each array, in place of their sum.
    """
    of = partial(squared_norms_of, per_parameter=per_parameter)
    return _of_captures("per_example_squared_norms", of, network, loss)


def dot_products(network: Layer, loss: Loss, *, per_parameter: bool = False) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> [batch, batch], ⟨∂l_b, ∂l_c⟩.

    How far a step along one example's gradient helps another. ``per_parameter`` as for
    `per_example_squared_norms`; in at least float32.
    """
    of = partial(dot_products_of, per_parameter=per_parameter)
    return _of_captures("dot_products", of, network, loss)


def gradients_of(captures: Any) -> Any:
    """The tree of the parameters, [batch, *parameter]: each example's gradient."""
    require_examples_apart("gradients_of", captures)
    return map_captures(contractions.per_example, captures)


def squared_norms_of(captures: Any, *, per_parameter: bool = False) -> Any:
    """[batch], the squared norm of each example's gradient; see `per_example_squared_norms`."""
    require_examples_apart("squared_norms_of", captures)
    norms = map_captures(contractions.squared_norms, captures)
    return norms if per_parameter else _total("squared_norms_of", norms)


def dot_products_of(captures: Any, others: Any = None, *, per_parameter: bool = False) -> Any:
    """[batch, batch of others], the products of all pairs of examples' gradients.

    Args:
        captures: Of one batch.
        others: Of another batch through the same network; the same one unless given.
        per_parameter: See `per_example_squared_norms`.
    """
    others = captures if others is None else others
    require_examples_apart("dot_products_of", (captures, others))
    products = map_captures(contractions.dot_products, captures, others)
    return products if per_parameter else _total("dot_products_of", products)


def products_with(captures: Any, vector: Any) -> Array:
    """[batch], ⟨∂l_b, v⟩ for a vector v in the tree of the parameters.

    The transpose of f ↦ Σ_b f_b ∂l_b, which `contract` computes without forming any ∂l_b.
    """
    require_examples_apart("products_with", captures)

    def weighted_sum(factors: Array):
        return contract(scaled(captures, factors))

    dtype = jnp.result_type(*jax.tree.leaves(vector))
    factors = jax.ShapeDtypeStruct((batch_of(captures),), dtype)
    return jax.linear_transpose(weighted_sum, factors)(vector)[0]


def _of_captures(where: str, function: Callable, network: Layer, loss: Loss) -> Callable:
    run = backward_pass(network, loss)

    def compute(params, state, x, target, key=None, weights=None):
        captures = run(params, state, x, target, key, weights).captures
        return function(require_examples_apart(where, captures))

    return compute


def _total(where: str, tree: Any) -> Array:
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise ValueError(f"{where}: expected a network with parameters, got one without")
    return reduce(jnp.add, leaves)
