"""When something is computed.

A compiler merges two computations of the same value into one, and so would quietly keep what was to
be computed again. On GPU and TPU `jax.lax.optimization_barrier` prevents that. XLA for CPU drops
barriers before it merges; there the input of the second computation is a choice whose condition
always holds, made of what it must come after.
"""

from typing import Any

import jax
import jax.numpy as jnp

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
        return jax.lax.optimization_barrier((tree, holds))[0]

    return jax.lax.platform_dependent(tree, cpu=choose, default=bar)
