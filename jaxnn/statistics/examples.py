"""Per-example quantities: gradients, their norms, and their dot products.

``weights`` [batch], where given, multiply each example's loss, and so its gradient.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract, in_params, map_captures
from jaxnn.statistics import contractions
from jaxnn.statistics.quantities import quantity
from jaxnn.statistics.trees import batch_of, require_examples_apart, scaled, weighted


@quantity
def per_example_gradients(captures: Any, weights: Array | None = None) -> Any:
    """The tree of params, [batch, *parameter]: the gradient of each example's own loss, not divided
    by the batch."""
    gradients = map_captures(contractions.per_example, weighted(captures, weights))
    return in_params(gradients, leading=1)


@quantity
def per_example_squared_norms(
    captures: Any, weights: Array | None = None, *, per_parameter: bool = False
) -> Any:
    """[batch], ‖∂l_b/∂params‖², in at least float32.

    No gradient of an example is formed where its norm is known for less (Goodfellow, 2015): with
    one position ‖a dᵀ‖² = ‖a‖² ‖d‖².

    Args:
        captures: Of each example's own loss.
        weights: What each example's loss is multiplied by.
        per_parameter: Give the tree of params, with [batch] for each array, in place of their sum.
    """
    norms = map_captures(contractions.squared_norms, weighted(captures, weights))
    norms = in_params(norms, leading=None)
    return norms if per_parameter else _total("per_example_squared_norms", norms)


@quantity
def dot_products(
    captures: Any,
    weights: Array | None = None,
    *,
    others: Any = None,
    per_parameter: bool = False,
) -> Any:
    """[batch, batch], ⟨∂l_b, ∂l_c⟩, in at least float32.

    How far a step along one example's gradient helps another.

    Args:
        captures: Of each example's own loss.
        weights: What each example's loss is multiplied by.
        others: Captures of another batch through the same network, that of c; the same one unless
            given.
        per_parameter: As for `per_example_squared_norms`.
    """
    captures = weighted(captures, weights)
    others = captures if others is None else require_examples_apart("dot_products", others)
    products = map_captures(contractions.dot_products, captures, others)
    products = in_params(products, leading=None)
    return products if per_parameter else _total("dot_products", products)


def products_with(captures: Any, vector: Any) -> Array:
    """[batch], ⟨∂l_b, v⟩ for a vector v in the tree of the parameters.

    The transpose of f ↦ Σ_b f_b ∂l_b, which `contract` computes without forming any ∂l_b.
    """
    require_examples_apart("products_with", captures)

    def weighted_sum(factors: Array):
        return contract(scaled(captures, factors))

    if not jax.tree.leaves(vector):
        raise ValueError("products_with: expected a network with parameters, got one without")
    dtype = jnp.result_type(*jax.tree.leaves(vector))
    _, transposed = jax.vjp(weighted_sum, jnp.zeros(batch_of(captures), dtype))
    return transposed(vector)[0]


def _total(where: str, tree: Any) -> Array:
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise ValueError(f"{where}: expected a network with parameters, got one without")
    return reduce(jnp.add, leaves)
