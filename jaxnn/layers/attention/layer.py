"""The attention layer: four projections around softmax(q kᵀ) v."""

import dataclasses
from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import EmbeddingCapture, LinearCapture
from jaxnn.core.contract import Capture, Layer
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import (
    require_features,
    require_key,
    require_positive,
    require_positive_integer,
    require_rate,
)
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.attention.bias import Bias, of_alibi
from jaxnn.layers.attention.dot_products import Meeting, dot_products
from jaxnn.layers.attention.inputs import bias_of, gradient, read_inputs, visible_keys
from jaxnn.layers.attention.rotary import BASE, WHOLE, Turning, require_turnable, rotate


class attention(Layer):
    """Multi-head attention, y = concat_h(softmax(q_h k_hᵀ / √depth) v_h) W + b.

    (Vaswani et al., 2017.) With x [batch, time, features], q, k and v are linear in x; y has the
    shape of x. The derivation of the backward pass stands in `jaxnn.layers.attention.plain`, that
    of the form that saves memory in `jaxnn.layers.attention.blocks`.

    x may be a tuple (queries[, memory][, mask][, bias]):

    - memory [batch, memory, features of its own], floating-point: cross-attention, keys and values
      are linear in it;
    - mask: integer lengths [batch], where the positions of memory from its length on are padding;
      or booleans, True where a key may be seen, [batch, memory], [batch, time, memory] or
      [batch, heads, time, memory];
    - bias, floating-point, [batch, heads, time, memory] with 1 in place of any but the batch: added
      to the scores of every pair, see `jaxnn.layers.attention.bias`. It has a gradient.

    Positions, for ``causal``, ``rotary``, ``alibi`` and ``relative``, are those in the memory, of
    which the queries are the last: with a memory that begins with what was before x, query t stands
    at position memory − time + t. A query before the memory sees nothing of it where it is causal.

    dx has the form of x, with None for the mask. A query that may see no key gets 0 in place of the
    weighted mean of nothing, and gives no gradient. Padding of x itself is not cleared in y: what
    comes behind must not look at it, or be masked too.

    The parameters are four dicts, ``query``, ``key``, ``value`` and ``output``, each with
    ``weight`` and ``bias`` as a dense layer has them, and four linear captures; beside them,
    where it is asked for, ``relative`` with ``weight`` [2 relative + 1, heads].

    Args:
        heads: How many softmaxes look into the memory side by side.
        groups: How many heads of keys and values there are, each shared by heads / groups heads of
            queries (Ainslie et al., 2023); ``heads`` unless given.
        depth: The features of one head; those of the queries divided by ``heads`` unless given.
        causal: Whether position t sees the positions 0 … t alone.
        rotary: Whether queries and keys are turned by their position (Su et al., 2021).
        rotary_features: How many features of a head are turned, the first ones; all unless given.
        interleaved: Whether neighbouring features are turned with each other, x₂ᵢ with x₂ᵢ₊₁, or
            those of both halves, xᵢ with xᵢ₊ₙ.
        rotary_base: The angles at position t are t · rotary_base^(−i / n), i = 0 … n − 1.
        alibi: Whether −m |t − s| is added to the score of query t and key s, with a slope m for
            each head (Press et al., 2022).
        relative: The largest distance R of learned relative positions: weight[R + s − t] is added,
            for each head; beyond R either way it is that of R. Initially 0.
        softcap: c, by which scores S become c tanh(S / c), before anything is added.
        dropout: The share of attention weights that training sets to 0, see `jaxnn.dropout`.
        block: How many queries meet how many keys at once. Where given, neither forward nor
            backward ever holds an array of time × memory; the weights are computed twice.
        use_bias: Whether the four projections have a bias.
        weight_init: The initialiser of the four weights.

    Raises:
        ValueError: ``groups`` does not divide ``heads``; ``heads`` does not divide the features
            where no ``depth`` is given; an odd number of features is to be turned, or more than
            there are, or options of ``rotary`` are given without it; an empty sequence; a mask or a
            bias whose shape does not fit; lengths that are negative or longer than the memory
            (inside `jax.jit`, where they are not known, they count as 0 and as all of it).
    """

    heads: Annotated[int, require_positive_integer]
    _: KW_ONLY
    groups: Annotated[int, require_positive_integer] | None = None
    depth: Annotated[int, require_positive_integer] | None = None
    causal: bool = False
    rotary: bool = False
    rotary_features: Annotated[int, require_positive_integer] | None = None
    interleaved: bool = False
    rotary_base: Annotated[float, require_positive] = BASE
    alibi: bool = False
    relative: Annotated[int, require_positive_integer] | None = None
    softcap: Annotated[float, require_positive] | None = None
    dropout: Annotated[float, require_rate] = 0.0
    block: Annotated[int, require_positive_integer] | None = None
    use_bias: bool = True
    weight_init: Initializer = "glorot"

    mixes = False

    def validate(self) -> None:
        """Raise unless the groups divide the heads, and rotary goes with its options."""
        if self.heads % self._groups:
            raise ValueError(
                f"attention: expected groups to divide the {self.heads} heads, got {self.groups}"
            )

        if not self.rotary and self._turning != WHOLE:
            raise ValueError(
                "attention: expected rotary_features, interleaved and rotary_base where rotary is "
                "set, got one without it"
            )

    def at_rest(self) -> Layer:
        return dataclasses.replace(self, dropout=0.0) if self.dropout else self

    def init(self, key: Array | None, x: Any):
        inputs, _ = read_inputs(x)
        # A mask or bias that does not fit is refused here.
        jax.eval_shape(
            lambda mask: visible_keys(inputs._replace(mask=mask), self.heads), inputs.mask
        )
        bias_of(inputs, self.heads)
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
        if self.relative is not None:
            shape = (2 * self.relative + 1, self.heads)
            params["relative"] = {"weight": jnp.zeros(shape, dtype)}
        return params, ()

    def predict(self, params: dict, state: Any, x: Any):
        return self.at_rest().forward(params, state, x, None)[0]

    def forward(self, params: dict, state: Any, x: Any, key: Array | None):
        inputs, form = read_inputs(x)
        for a, name in ((inputs.queries, "query"), (inputs.memory, "key")):
            weight = params[name]["weight"]
            require_features("attention", a, weight.shape[0], weight.dtype)
        time, memory = inputs.queries.shape[1], inputs.memory.shape[1]
        q, k, v = self.projected(params, inputs.queries, inputs.memory, memory - time, 0)
        visible = _by_groups(visible_keys(inputs, self.heads), self._groups)
        bias = Bias(
            _by_groups(bias_of(inputs, self.heads), self._groups),
            self.of_distance(params, jnp.arange(1 - time, memory) - (memory - time)),
        )
        o, _, kept = self._products.forward((), (), Meeting(q, k, v, visible, bias), key)
        o = self.merged(o)
        y = project(params["output"], o)
        return y, state, (Static(form), inputs.queries, inputs.memory, o, kept)

    def projected(
        self, params: dict, queries: Array, memory: Array, start: Any, first: Any
    ) -> tuple[Array, Array, Array]:
        """q [batch, group, head, time, depth], k and v [batch, group, memory, depth], turned by the
        positions that begin at ``start`` and ``first``."""
        heads, groups = self.heads, self._groups
        q = _split(project(params["query"], queries), heads)
        k, v = (_split(project(params[n], memory), groups) for n in ("key", "value"))
        if self.rotary:
            q, k = rotate(q, 1, self._turning, start), rotate(k, 1, self._turning, first)
        return q.reshape(q.shape[0], groups, heads // groups, *q.shape[2:]), k, v

    def merged(self, o: Array) -> Array:
        """[batch, group, head, time, depth] as [batch, time, heads · depth]."""
        return _merge(o.reshape(o.shape[0], self.heads, *o.shape[3:]))

    def of_distance(self, params: dict, distance: Array) -> Array | None:
        """[group, head, …], what is added at distances s − t of key and query, or None."""
        total = None
        if self.alibi:
            total = of_alibi(self.heads, distance)
        if self.relative is not None:
            weight = params["relative"]["weight"]
            own = jnp.moveaxis(weight[self._clipped(distance)], -1, 0)
            own = own.astype(sum_dtype(weight.dtype))
            total = own if total is None else total + own
        if total is None:
            return None
        return total.reshape(self._groups, self.heads // self._groups, *distance.shape)

    def _clipped(self, distance: Array) -> Array:
        """The row of ``relative`` for each distance."""
        assert self.relative is not None
        return jnp.clip(distance, -self.relative, self.relative) + self.relative

    def _relative_capture(self, by_distance: Array, time: int, memory: int, dtype: Any) -> Capture:
        """Of the sums along the diagonals, those that share a row of the table added."""
        assert self.relative is not None
        rows = 2 * self.relative + 1
        row = self._clipped(jnp.arange(1 - time, memory) - (memory - time))
        sums = by_distance.reshape(len(by_distance), self.heads, len(row))
        deltas = jnp.swapaxes(sums @ jax.nn.one_hot(row, rows, dtype=sums.dtype), 1, 2)
        ids = jnp.broadcast_to(jnp.arange(rows), deltas.shape[:2])
        return EmbeddingCapture(ids, deltas.astype(dtype), rows)

    def backward(self, params: dict, residuals: Any, dy: Array):
        form, queries, memory, o, kept = residuals
        heads, groups = self.heads, self._groups
        do, output = _project_backward(params["output"], o, dy)
        do = _split(do.astype(dy.dtype), heads)
        do = do.reshape(do.shape[0], groups, heads // groups, *do.shape[2:])
        times = (queries.shape[1], memory.shape[1])
        (dq, dk, dv, _, dbias), _ = self._products.backward((), kept, do)
        dq = dq.reshape(dq.shape[0], heads, *dq.shape[3:])
        if self.rotary:
            dq = rotate(dq, -1, self._turning, times[1] - times[0])
            dk = rotate(dk, -1, self._turning)
        dqueries, query = _project_backward(params["query"], queries, _merge(dq))
        by_key, key = _project_backward(params["key"], memory, _merge(dk))
        by_value, value = _project_backward(params["value"], memory, _merge(dv))
        captures: dict = {"query": query, "key": key, "value": value, "output": output}
        if self.relative is not None and dbias.by_distance is not None:
            captures["relative"] = self._relative_capture(dbias.by_distance, *times, dy.dtype)
        given = dbias.given
        if given is not None:  # groups and their heads as one axis again
            given = given.reshape(given.shape[0], given.shape[1] * given.shape[2], *given.shape[3:])
        return gradient(form.value, dy.dtype, dqueries, by_key + by_value, given), captures

    @property
    def _products(self) -> dot_products:
        return dot_products(
            causal=self.causal, softcap=self.softcap, dropout=self.dropout, block=self.block
        )

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
        if self.rotary:
            require_turnable(self.name, "rotary_features", self.rotary_features, depth)
        return depth

    @property
    def _turning(self) -> Turning:
        return Turning(self.rotary_features, self.interleaved, self.rotary_base)


def project(params: dict, x: Array) -> Array:
    """x W + b, of one of the four dicts of parameters."""
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
