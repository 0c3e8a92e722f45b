"""What an attention layer does between its projections: softmax(q kᵀ) v."""

from dataclasses import KW_ONLY
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import (
    require_key,
    require_positive,
    require_positive_integer,
    require_rate,
)
from jaxnn.layers.attention import blocks, plain
from jaxnn.layers.attention.bias import NO_BIAS, Bias


class Meeting(NamedTuple):
    """The queries, keys and values that meet, heads in groups that share keys and values."""

    q: Any
    """[batch, group, head, time, depth]."""
    k: Any
    """[batch, group, memory, depth]."""
    v: Any
    """[batch, group, memory, depth of its own]."""
    visible: Any = None
    """Booleans [batch, group, head, time, memory], 1 in place of any: which key a query may see."""
    bias: Bias = NO_BIAS


class dot_products(Layer):
    """o = softmax(q kᵀ / √depth) v of every head: `attention` without its projections.

    x is a `Meeting`, and so is dx, None in place of what is visible; o is [batch, group, head,
    time, depth of v]. In its textbook form it is derived in `jaxnn.layers.attention.plain`, in the
    form that saves memory in `jaxnn.layers.attention.blocks`.

    Args:
        causal: Whether position t sees the positions 0 … t alone.
        softcap: c, by which scores S become c tanh(S / c), before anything is added.
        dropout: The share of attention weights that is set to 0.
        block: How many queries meet how many keys at once. Where given, neither forward nor
            backward ever holds an array of time × memory; the weights are computed twice.
    """

    _: KW_ONLY
    causal: bool = False
    softcap: Annotated[float, require_positive] | None = None
    dropout: Annotated[float, require_rate] = 0.0
    block: Annotated[int, require_positive_integer] | None = None

    mixes = False

    @property
    def name(self) -> str:
        return "attention"

    def forward(self, params: Any, state: Any, x: Meeting, key: Array | None):
        q, k, v, visible, bias = x
        time, memory = q.shape[3], k.shape[2]
        if self.dropout:
            key = require_key(self.name, key)
        if self.block is not None:
            cut = self._geometry(self.block, time, memory)
            o, kept = blocks.attend(q, k, v, visible, cut, self.dropout, key, bias, self.softcap)
            return o, state, (kept, Static((time, memory)))
        if self.causal:
            past = jnp.tril(jnp.ones((time, memory), bool), memory - time)[None, None, None]
            visible = past if visible is None else visible & past
        o, kept = plain.attend(q, k, v, visible, self.dropout, key, bias, self.softcap)
        return o, state, (kept, Static((time, memory)))

    def backward(self, params: Any, residuals: Any, dy: Array):
        kept, times = residuals
        if self.block is None:
            dq, dk, dv, dbias = plain.attend_backward(kept, self.dropout, dy)
        else:
            cut = self._geometry(self.block, *times.value)
            dq, dk, dv, dbias = blocks.attend_backward(kept, cut, self.dropout, dy, self.softcap)
        if dbias.given is not None:
            dbias = dbias._replace(given=dbias.given.astype(dy.dtype))
        return Meeting(dq, dk, dv, None, dbias), ()

    def _geometry(self, block: int, time: int, memory: int) -> blocks.Geometry:
        return blocks.Geometry(time, memory, min(block, time), min(block, memory), self.causal)
