"""Recomputation: a layer's residuals are computed again when backward needs them, and not kept.

A compiler merges two computations of the same value into one, and so would quietly keep what was
to be forgotten. On GPU and TPU `jax.lax.optimization_barrier` prevents that. XLA for CPU drops
barriers before it merges; there the second forward pass is given its input through a choice whose
condition always holds, made of dy. That also puts it where it belongs in time, after the backward
pass of what comes later.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import inside, require_layers
from jaxnn.core.layer import Layer
from jaxnn.kernels.opaque import always


def recompute(layer: Layer) -> Layer:
    """The same layer, whose forward keeps its input alone; backward first runs forward again.

    Between the two only params, state, x and key are held, of which x and the key are all that
    would not be there anyway; one more forward pass is the price (Chen et al., 2016). Around every
    block of a deep network it leaves the inputs of the blocks, and the residuals of the one block
    that backward is in: `summarize` shows the bytes that each layer saves.

    Gradients, statistics and rules of feedback are those of the layer itself. It is about the
    backward pass by hand: `jaxnn.autodiff` keeps what it keeps.
    """
    require_layers("recompute", (layer,))

    def init(key: Array | None, x: Any):
        with inside("recompute", 0, layer):
            params, state = layer.init(key, x)
        return (params,), (state,)

    def predict(params: Any, state: Any, x: Any):
        with inside("recompute", 0, layer):
            return layer.predict(params[0], state[0], x)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        with inside("recompute", 0, layer):
            y, new_state, _ = layer.forward(params[0], state[0], x, key)
        return y, (new_state,), ((params[0], state[0], x, key),)

    def backward(params: Any, residuals: Any, dy: Any):
        # Not the params given here: a rule may propagate over others than forward was run with.
        kept_params, state, x, key = residuals[0]
        with inside("recompute", 0, layer):
            x, key = _after(dy, (x, key))
            _, _, residuals = layer.forward(kept_params, state, x, key)
            dx, captures = layer.backward(params[0], residuals, dy)
        return dx, (captures,)

    return Layer(init, predict, forward, backward, "recompute", (layer,), recompute)


def _after(dy: Any, tree: Any) -> Any:
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
