"""Attention weights of a forward pass, for looking at."""

from typing import Any

import jax
from jax import Array

from jaxnn.layers.attention.plain import Kept


def attention_maps(residuals: Any) -> list[Array]:
    """The weights of every attention layer, [batch, heads, time, memory], in the network's order.

    Args:
        residuals: What the network's ``forward`` returned. Layers that `repeat` has stacked come as
            one array with an axis of layers in front; those with ``block`` keep no weights, and are
            left out.
    """
    nodes = jax.tree.leaves(residuals, is_leaf=lambda node: isinstance(node, Kept))
    weights = [node.weights for node in nodes if isinstance(node, Kept)]
    return [w.reshape(*w.shape[:-4], w.shape[-4] * w.shape[-3], *w.shape[-2:]) for w in weights]
