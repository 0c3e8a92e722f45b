"""Attention and positions one token after the other: layers whose state is what came before.

For decoding alone. A cache has room for a fixed number of positions; what has not come yet is
hidden, so that whatever it holds does not count.
"""

from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Around
from jaxnn.core.contract import Layer
from jaxnn.core.validation import check_traced, require_features, require_positive_integer
from jaxnn.layers.attention.bias import NO_BIAS, Bias
from jaxnn.layers.attention.layer import attention, project
from jaxnn.layers.attention.plain import attend
from jaxnn.layers.positions import positional_embedding


class Continued(Around):
    """Base of layers that go on where the call before stopped: forward is given what comes next.

    The state is a dict of arrays, ``position`` among them: how many positions there have been.
    """

    _: KW_ONLY
    size: Annotated[int, require_positive_integer]
    """For how many positions there is room."""

    mixes = False

    def init(self, key: Array | None, x: Any):
        params, _ = self.layer.init(key, x)
        return params, {"position": jnp.zeros((), jnp.int32)}

    def backward(self, params: Any, residuals: Any, dy: Any):
        raise NotImplementedError(f"{self.name}: a layer with a cache is for decoding alone")


class attention_with_cache(Continued):
    """A causal `attention`: keys and values, turned already, stay in the state.

    Queries x [batch, time, features] see all that came before and each other, as in the sequence as
    a whole. The state has ``keys`` and ``values`` [batch, groups, size, depth].

    Raises:
        ValueError: the attention is not causal: what was said would change with what comes.
    """

    layer: attention  # pyright: ignore[reportIncompatibleVariableOverride]

    def validate(self) -> None:
        if not self.layer.causal:
            raise ValueError(f"{self.name}: expected causal attention where there is a cache")

    def init(self, key: Array | None, x: Any):
        params, state = super().init(key, x)
        _, k, v = jax.eval_shape(lambda p, x: self.layer.projected(p, x, x, 0, 0), params, x)
        room = (*k.shape[:2], self.size, k.shape[3])
        keys, values = jnp.zeros(room, k.dtype), jnp.zeros(room, v.dtype)
        return params, state | {"keys": keys, "values": values}

    def predict(self, params: dict, state: Any, x: Array):
        return self.forward(params, state, x, None)[0]

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        layer, start = self.layer, state["position"]
        weight = params["query"]["weight"]
        require_features(self.name, x, weight.shape[0], weight.dtype)
        after = start + x.shape[1]
        room = f"{self.name}: expected at most {self.size} positions, for which there is room"
        check_traced(after, lambda after: after <= self.size, room)
        q, k, v = layer.projected(params, x, x, start, start)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(state[name], new, start, 2)
            for name, new in (("keys", k), ("values", v))
        )
        distance = jnp.arange(self.size) - start - jnp.arange(x.shape[1])[:, None]
        added = layer.of_distance(params, distance)
        bias = NO_BIAS if added is None else Bias(given=added[None])
        past = distance[None, None, None] <= 0
        o, _ = attend(q, keys, values, past, 0.0, None, bias, layer.softcap)
        y = project(params["output"], layer.merged(o))
        return y, {"position": after, "keys": keys, "values": values}, ()


class positions_with_cache(Continued):
    """A `positional_embedding` that adds the vectors of the positions that come next.

    Raises:
        ValueError: learned positions are fewer than ``size``.
    """

    layer: positional_embedding  # pyright: ignore[reportIncompatibleVariableOverride]

    def validate(self) -> None:
        if self.layer.length is not None and self.layer.length < self.size:
            raise ValueError(
                f"{self.name}: expected at most {self.layer.length} positions, as many as "
                f"are learned, got {self.size}"
            )

    def predict(self, params: Any, state: Any, x: Array):
        return self.forward(params, state, x, None)[0]

    def forward(self, params: Any, state: Any, x: Array, key: Array | None):
        start, time = state["position"], x.shape[1]
        every = self.layer.vectors(params, self.size, x)
        own = jax.lax.dynamic_slice_in_dim(every, start, time, 0)
        return x + own, {"position": start + time}, ()


def with_cache(layer: Layer, size: int) -> Layer:
    """The layer with a cache, where it is one that needs it; itself otherwise."""
    match layer:
        case attention():
            return attention_with_cache(layer, size=size)
        case positional_embedding():
            return positions_with_cache(layer, size=size)
        case _:
            return layer
