"""The attention layer: four projections around softmax(q kᵀ) v."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import LinearCapture
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.layer import Layer, Static
from jaxnn.core.validation import (
    require_boolean,
    require_features,
    require_key,
    require_number,
    require_positive_integer,
)
from jaxnn.layers.attention import blocks, plain
from jaxnn.layers.attention.inputs import gradient, read_inputs, visible_keys
from jaxnn.layers.attention.rotary import rotate


def attention(
    heads: int,
    *,
    groups: int | None = None,
    depth: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    dropout: float = 0.0,
    block: int | None = None,
    use_bias: bool = True,
    weight_init: Initializer = "glorot",
) -> Layer:
    """Multi-head attention, y = concat_h(softmax(q_h k_hᵀ / √depth) v_h) W + b.

    (Vaswani et al., 2017.) With x [batch, time, features], q, k and v are linear in x; y has the
    shape of x. The derivation of the backward pass stands in `jaxnn.layers.attention.plain`, that of the
    form that saves memory in `jaxnn.layers.attention.blocks`.

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
    _require_options(heads, groups, depth, causal, rotary, dropout, block, use_bias)
    groups = heads if groups is None else groups
    init_weight = initializer(weight_init)

    def read(x: Any):
        inputs, form = read_inputs(x)
        if form.crosses and (causal or rotary):
            raise ValueError(
                "attention: expected no memory beside queries where causal or rotary is set: "
                "positions of two sequences cannot be compared"
            )
        return inputs, form

    def init(key: Array | None, x: Any):
        inputs, _ = read(x)
        # A mask that does not fit is refused here.
        jax.eval_shape(lambda mask: visible_keys(inputs._replace(mask=mask), heads), inputs.mask)
        features, of_memory = inputs.queries.shape[-1], inputs.memory.shape[-1]
        size = _depth(heads, features, depth, rotary)
        shapes = {
            "query": (features, heads * size),
            "key": (of_memory, groups * size),
            "value": (of_memory, groups * size),
            "output": (heads * size, features),
        }
        keys = jax.random.split(require_key("attention", key), len(shapes))
        dtype = inputs.queries.dtype
        params = {
            name: {"weight": init_weight(k, shape, dtype)}
            | ({"bias": jnp.zeros(shape[1:], dtype)} if use_bias else {})
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return params, ()

    def forward_with(rate: float, params: dict, state: Any, x: Any, key: Array | None):
        inputs, form = read(x)
        for a, name in ((inputs.queries, "query"), (inputs.memory, "key")):
            weight = params[name]["weight"]
            require_features("attention", a, weight.shape[0], weight.dtype)
        visible = _by_groups(visible_keys(inputs, heads), groups)
        q = _split(_project(params["query"], inputs.queries), heads)
        k, v = (_split(_project(params[n], inputs.memory), groups) for n in ("key", "value"))
        if rotary:
            q, k = rotate(q), rotate(k)
        q = q.reshape(q.shape[0], groups, heads // groups, *q.shape[2:])
        o, kept = attend(q, k, v, visible, rate, key)
        o = _merge(o.reshape(o.shape[0], heads, *o.shape[3:]))
        y = _project(params["output"], o)
        return y, state, (Static(form), inputs.queries, inputs.memory, o, kept)

    def attend(q: Array, k: Array, v: Array, visible: Array | None, rate: float, key: Any):
        if rate:
            key = require_key("attention", key)
        if block is None:
            if causal:
                past = jnp.tril(jnp.ones((q.shape[3], k.shape[2]), bool))[None, None, None]
                visible = past if visible is None else visible & past
            return plain.attend(q, k, v, visible, rate, key)
        return blocks.attend(q, k, v, visible, geometry(q.shape[3], k.shape[2]), rate, key)

    def geometry(time: int, memory: int):
        assert block is not None
        return blocks.Geometry(time, memory, min(block, time), min(block, memory), causal)

    def backward_with(rate: float, params: dict, residuals: Any, dy: Array):
        form, queries, memory, o, kept = residuals
        do, output = _project_backward(params["output"], o, dy)
        do = _split(do, heads)
        do = do.reshape(do.shape[0], groups, heads // groups, *do.shape[2:])
        if block is None:
            dq, dk, dv = plain.attend_backward(kept, rate, do)
        else:
            cut = geometry(queries.shape[1], memory.shape[1])
            dq, dk, dv = blocks.attend_backward(kept, cut, rate, do)
        dq = dq.reshape(dq.shape[0], heads, *dq.shape[3:])
        if rotary:
            dq, dk = rotate(dq, -1), rotate(dk, -1)
        dqueries, query = _project_backward(params["query"], queries, _merge(dq))
        by_key, key = _project_backward(params["key"], memory, _merge(dk))
        by_value, value = _project_backward(params["value"], memory, _merge(dv))
        captures = {"query": query, "key": key, "value": value, "output": output}
        return gradient(form.value, dqueries, by_key + by_value), captures

    def predict(params: dict, state: Any, x: Any):
        return forward_with(0.0, params, state, x, None)[0]

    def passes(rate: float):
        return functools.partial(forward_with, rate), functools.partial(backward_with, rate)

    inference = Layer(init, predict, *passes(0.0), "attention")
    if dropout == 0:
        return inference
    return Layer(init, predict, *passes(dropout), "attention", inference=inference)


def _project(params: dict, x: Array) -> Array:
    y = x @ params["weight"]
    return y + params["bias"] if "bias" in params else y


def _project_backward(params: dict, x: Array, dy: Array) -> tuple[Array, LinearCapture]:
    return dy @ params["weight"].T, LinearCapture(x, dy, "bias" in params)


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


def _depth(heads: int, features: int, depth: int | None, rotary: bool) -> int:
    if depth is None and features % heads:
        raise ValueError(
            f"attention: expected heads to divide the {features} features of the queries, or "
            f"depth to be given, got {heads}"
        )
    depth = depth or features // heads
    if rotary and depth % 2:
        raise ValueError(f"attention: expected an even depth where rotary is set, got {depth}")
    return depth


def _require_options(
    heads: Any,
    groups: Any,
    depth: Any,
    causal: Any,
    rotary: Any,
    dropout: Any,
    block: Any,
    use_bias: Any,
) -> None:
    require_positive_integer("attention", "heads", heads)
    for name, value in (("groups", groups), ("depth", depth), ("block", block)):
        if value is not None:
            require_positive_integer("attention", name, value)
    if groups is not None and heads % groups:
        raise ValueError(f"attention: expected groups to divide the {heads} heads, got {groups}")
    flags = {"causal": causal, "rotary": rotary, "use_bias": use_bias}
    for name, value in flags.items():
        require_boolean("attention", name, value)
    require_number("attention", "dropout", dropout, minimum=0, maximum=1, open_maximum=True)
