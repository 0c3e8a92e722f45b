"""When something is computed, and how often.

A compiler merges two computations of the same value into one, and so would quietly keep what was to
be computed again. On GPU and TPU `jax.lax.optimization_barrier` prevents that. XLA for CPU drops
barriers before it merges; there the input of the second computation is a choice whose condition
always holds, made of what it must come after.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.opaque import always


def after(dy: Any, tree: Any) -> Any:
    """``tree``, in a form that the compiler takes for something new that depends on dy."""
    leaves = [leaf for leaf in jax.tree.leaves(dy) if leaf.size]
    if not leaves:
        return tree  # of an empty batch
    # What is computed again does not depend on dy: it stays the same for all of a mapped dy.
    holds = always(leaves[0][(0,) * leaves[0].ndim])

    def choose(tree: Any):
        return jax.tree.map(lambda a: jnp.where(holds, a, jnp.zeros_like(a)), tree)

    def bar(tree: Any):
        return lax.optimization_barrier((tree, holds))[0]

    return lax.platform_dependent(tree, cpu=choose, default=bar)


def once(function: Callable, weight: Array, *operands: Array) -> Any:
    """function(*operands), whose results are held in memory.

    XLA for CPU computes a sum of a few arrays again in the loop of each that reads it. The result
    of a choice it does not; an element of ``weight``, which every device has, makes the condition.
    """
    shapes = jax.eval_shape(function, *operands)

    def never(*operands: Array) -> Any:
        return jax.tree.map(jnp.zeros_like, shapes)

    def chosen(weight: Array, *operands: Array) -> Any:
        return lax.cond(always(weight[(0,) * weight.ndim]), function, never, *operands)

    def at_once(weight: Array, *operands: Array) -> Any:
        return function(*operands)

    return lax.platform_dependent(weight, *operands, cpu=chosen, default=at_once)
