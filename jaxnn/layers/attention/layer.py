"""The attention layer: four projections around softmax(q kᵀ) v."""

import dataclasses
from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import LinearCapture
from jaxnn.core.contract import Layer
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import (
    require_features,
    require_key,
    require_positive_integer,
    require_rate,
)
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.attention import blocks, plain
from jaxnn.layers.attention.inputs import gradient, read_inputs, visible_keys
from jaxnn.layers.attention.rotary import rotate


class attention(Layer):
    """Multi-head attention, y = concat_h(softmax(q_h k_hᵀ / √depth) v_h) W + b.

    (Vaswani et al., 2017.) With x [batch, time, features], q, k and v are linear in x; y has the
    shape of x. The derivation of the backward pass stands in `jaxnn.layers.attention.plain`, that
    of the form that saves memory in `jaxnn.layers.attention.blocks`.

    x may be a tuple (queries[, memory][, mask]):

    - memory [batch, memory, features of its own], floating-point: cross-attention, keys and values
      are linear in it;
    - mask: integer lengths [batch], where the positions of memory from its length on are padding;
      or booleans, True where a key may be seen, [batch, memory], [batch, time, memory] or
      [batch, heads, time, memory].

    dx has the form of x, with None for the mask. A query that may see no key gets 0 in place of the
    weighted mean of nothing, and gives no gradient. Padding of x itself is not cleared in y: what
    comes behind must not look at it, or be masked too.

    The parameters are four dicts, ``query``, ``key``, ``value`` and ``output``, each with
    ``weight`` and ``bias`` as a dense layer has them, and four linear captures.

    Args:
        heads: How many softmaxes look into the memory side by side.
        groups: How many heads of keys and values there are, each shared by heads / groups heads of
            queries (Ainslie et al., 2023); ``heads`` unless given.
        depth: The features of one head; those of the queries divided by ``heads`` unless given.
        causal: Whether position t sees the positions 0 … t alone. For self-attention.
        rotary: Whether queries and keys are turned by their position. For self-attention.
        dropout: The share of attention weights that training sets to 0, see `jaxnn.dropout`.
        block: How many queries meet how many keys at once. Where given, neither forward nor
            backward ever holds an array of time × memory; the weights are computed twice.
        use_bias: Whether the four projections have a bias.
        weight_init: The initialiser of the four weights.

    Raises:
        ValueError: ``groups`` does not divide ``heads``; ``heads`` does not divide the features
            where no ``depth`` is given; ``rotary`` with an odd depth; a causal or rotary layer is
            given a memory; an empty sequence; a mask whose shape does not fit; lengths that are
            negative or longer than the memory (inside `jax.jit`, where they are not known, they
            count as 0 and as all of it).
    """

    heads: Annotated[int, require_positive_integer]
    _: KW_ONLY
    groups: Annotated[int, require_positive_integer] | None = None
    depth: Annotated[int, require_positive_integer] | None = None
    causal: bool = False
    rotary: bool = False
    dropout: Annotated[float, require_rate] = 0.0
    block: Annotated[int, require_positive_integer] | None = None
    use_bias: bool = True
    weight_init: Initializer = "glorot"

    mixes = False

    def validate(self) -> None:
        """Raise unless the groups divide the heads."""
        if self.heads % self._groups:
            raise ValueError(
                f"attention: expected groups to divide the {self.heads} heads, got {self.groups}"
            )

    def at_rest(self) -> Layer:
        return dataclasses.replace(self, dropout=0.0) if self.dropout else self

    def init(self, key: Array | None, x: Any):
        inputs, _ = self._read(x)
        # A mask that does not fit is refused here.
        jax.eval_shape(
            lambda mask: visible_keys(inputs._replace(mask=mask), self.heads), inputs.mask
        )
        features, of_memory = inputs.queries.shape[-1], inputs.memory.shape[-1]
        size = self._depth(features)
        shapes = {
            "query": (features, self.heads * size),
            "key": (of_memory, self._groups * size),
            "value": (of_memory, self._groups * size),
            "output": (self.heads * size, features),
        }
        keys = jax.random.split(require_key("attention", key), len(shapes))
        dtype, init_weight = inputs.queries.dtype, initializer(self.weight_init)
        params = {
            name: {"weight": init_weight(k, shape, dtype)}
            | ({"bias": jnp.zeros(shape[1:], dtype)} if self.use_bias else {})
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return params, ()

    def predict(self, params: dict, state: Any, x: Any):
        return self.at_rest().forward(params, state, x, None)[0]

    def forward(self, params: dict, state: Any, x: Any, key: Array | None):
        inputs, form = self._read(x)
        for a, name in ((inputs.queries, "query"), (inputs.memory, "key")):
            weight = params[name]["weight"]
            require_features("attention", a, weight.shape[0], weight.dtype)
        heads, groups = self.heads, self._groups
        visible = _by_groups(visible_keys(inputs, heads), groups)
        q = _split(_project(params["query"], inputs.queries), heads)
        k, v = (_split(_project(params[n], inputs.memory), groups) for n in ("key", "value"))
        if self.rotary:
            q, k = rotate(q), rotate(k)
        q = q.reshape(q.shape[0], groups, heads // groups, *q.shape[2:])
        o, kept = self._attend(q, k, v, visible, key)
        o = _merge(o.reshape(o.shape[0], heads, *o.shape[3:]))
        y = _project(params["output"], o)
        return y, state, (Static(form), inputs.queries, inputs.memory, o, kept)

    def backward(self, params: dict, residuals: Any, dy: Array):
        form, queries, memory, o, kept = residuals
        heads, groups = self.heads, self._groups
        do, output = _project_backward(params["output"], o, dy)
        do = _split(do.astype(dy.dtype), heads)
        do = do.reshape(do.shape[0], groups, heads // groups, *do.shape[2:])
        if self.block is None:
            dq, dk, dv = plain.attend_backward(kept, self.dropout, do)
        else:
            cut = self._geometry(queries.shape[1], memory.shape[1])
            dq, dk, dv = blocks.attend_backward(kept, cut, self.dropout, do)
        dq = dq.reshape(dq.shape[0], heads, *dq.shape[3:])
        if self.rotary:
            dq, dk = rotate(dq, -1), rotate(dk, -1)
        dqueries, query = _project_backward(params["query"], queries, _merge(dq))
        by_key, key = _project_backward(params["key"], memory, _merge(dk))
        by_value, value = _project_backward(params["value"], memory, _merge(dv))
        captures = {"query": query, "key": key, "value": value, "output": output}
        return gradient(form.value, dy.dtype, dqueries, by_key + by_value), captures

    @property
    def _groups(self) -> int:
        return self.heads if self.groups is None else self.groups

    def _depth(self, features: int) -> int:
        if self.depth is None and features % self.heads:
            raise ValueError(
                f"attention: expected heads to divide the {features} features of the queries, or "
                f"depth to be given, got {self.heads}"
            )
        depth = self.depth or features // self.heads
        if self.rotary and depth % 2:
            raise ValueError(f"attention: expected an even depth where rotary is set, got {depth}")
        return depth

    def _read(self, x: Any):
        inputs, form = read_inputs(x)
        if form.crosses and (self.causal or self.rotary):
            raise ValueError(
                "attention: expected no memory beside queries where causal or rotary is set: "
                "positions of two sequences cannot be compared"
            )
        return inputs, form

    def _attend(self, q: Array, k: Array, v: Array, visible: Array | None, key: Any):
        time, memory = q.shape[3], k.shape[2]
        if self.dropout:
            key = require_key("attention", key)
        if self.block is not None:
            cut = self._geometry(time, memory)
            return blocks.attend(q, k, v, visible, cut, self.dropout, key)
        if self.causal:
            past = jnp.tril(jnp.ones((time, memory), bool))[None, None, None]
            visible = past if visible is None else visible & past
        return plain.attend(q, k, v, visible, self.dropout, key)

    def _geometry(self, time: int, memory: int):
        block = self.block
        assert block is not None
        return blocks.Geometry(time, memory, min(block, time), min(block, memory), self.causal)


def _project(params: dict, x: Array) -> Array:
    y = x @ params["weight"]
    return y + params["bias"] if "bias" in params else y


def _project_backward(params: dict, x: Array, dy: Array) -> tuple[Array, LinearCapture]:
    """dx in at least float32, in which those of several projections are added, and the capture."""
    dx = jnp.matmul(dy, params["weight"].T, preferred_element_type=sum_dtype(dy.dtype))
    return dx, LinearCapture(x, dy, "bias" in params)


def _split(x: Array, heads: int) -> Array:
    """[batch, time, heads · depth] as [batch, heads, time, depth]."""
    return jnp.swapaxes(x.reshape(*x.shape[:2], heads, x.shape[2] // heads), 1, 2)


def _merge(x: Array) -> Array:
    """The inverse of `_split`."""
    batch, heads, time, depth = x.shape
    return jnp.swapaxes(x, 1, 2).reshape(batch, time, heads * depth)


def _by_groups(visible: Array | None, groups: int) -> Array | None:
    """[batch, 1 or heads, …] as [batch, 1 or groups, 1 or heads of a group, …]."""
    if visible is None:
        return None
    batch, heads = visible.shape[:2]
    groups = min(groups, heads)
    return visible.reshape(batch, groups, heads // groups, *visible.shape[2:])
