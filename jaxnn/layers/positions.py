"""Positions: where in a sequence a vector stands, added to it."""

import math
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.captures import EmbeddingCapture
from jaxnn.core.contract import Layer
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.validation import (
    require_features,
    require_floating,
    require_key,
    require_positive_integer,
    require_rank,
)


class positional_embedding(Layer):
    """y = x + p, with a vector p_t for every position t of x [batch, time, features].

    In both kinds dx = dy. Rotary positions, which turn queries and keys, are an option of
    `attention`.

    Args:
        kind: "sinusoidal", p_t = sin(t ω_i) and cos(t ω_i), one after the other, with the
            frequencies ω_i = 10000^(−2i / features) (Vaswani et al., 2017), without parameters and
            for any length; or "learned", p_t = weight[t], with ``weight`` [length, features]: as
            for `embedding`, ∂L/∂weight[t] is the sum of dy over the examples, and positions that no
            example has receive 0.
        length: For learned positions, the longest sequence.
        weight_init: For learned positions.

    Raises:
        ValueError: ``kind`` is unknown, ``length`` is given without learned positions or missing
            with them, x is longer than ``length`` or not [batch, time, features].
    """

    kind: Literal["sinusoidal", "learned"] = "sinusoidal"
    length: Annotated[int, require_positive_integer] | None = None
    _: KW_ONLY
    weight_init: Initializer = "normal(0.02)"

    mixes = False

    def validate(self) -> None:
        if self.kind == "learned":
            require_positive_integer("positional_embedding", "length", self.length)
        elif self.length is not None:
            raise ValueError(
                "positional_embedding: expected length for learned positions alone, "
                f"got {self.length}"
            )

    def init(self, key: Array | None, x: Any):
        self._require_sequence(x)
        if self.length is None:
            return (), ()
        key = require_key("positional_embedding", key)
        shape = (self.length, x.shape[2])
        return {"weight": initializer(self.weight_init)(key, shape, x.dtype)}, ()

    def forward(self, params: Any, state: Any, x: Array, key: Array | None):
        self._require_sequence(x)
        return x + self.vectors(params, x.shape[1], x), state, ()

    def vectors(self, params: Any, length: int, x: Array) -> Float[Array, "length features"]:
        """p_t of the positions 0 … length − 1, for an x [batch, time, features]."""
        if self.length is None:
            return sinusoids(length, x.shape[2], x.dtype)
        weight = params["weight"]
        require_features("positional_embedding", x, weight.shape[1], weight.dtype)
        return weight[:length]

    def backward(self, params: Any, residuals: Any, dy: Float[Array, "batch time features"]):
        if self.length is None:
            return dy, ()
        # A table looked up by the ids 0, 1, 2 …, the same in every example.
        ids = jnp.broadcast_to(jnp.arange(dy.shape[1]), dy.shape[:2])
        return dy, EmbeddingCapture(ids, dy, self.length)

    def _require_sequence(self, x: Any) -> None:
        require_floating("positional_embedding", "x", x)
        require_rank("positional_embedding", "x", x, 3)
        if len(x.shape) != 3:
            raise ValueError(
                "positional_embedding: expected x to be [batch, time, features], "
                f"got shape {tuple(x.shape)}"
            )
        if self.length is not None and x.shape[1] > self.length:
            raise ValueError(
                f"positional_embedding: expected sequences of at most {self.length} positions, "
                f"got {x.shape[1]}"
            )


def sinusoids(length: int, features: int, dtype: Any) -> Float[Array, "length features"]:
    """The vectors of the sinusoidal positions 0 … length − 1."""
    angles = rotation_angles(length, features, 10000.0)
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
    return pairs.reshape(length, 2 * angles.shape[1])[:, :features].astype(dtype)


def rotation_angles(length: int, features: int, base: float, start: Any = 0) -> Array:
    """t · base^(−2i / features), t from ``start``, in at least float32.

    [length, ⌈features / 2⌉].
    """
    dtype = jax.dtypes.canonicalize_dtype(float)
    exponents = jnp.arange(0, features, 2, dtype=dtype) / features
    frequencies = jnp.exp(-math.log(base) * exponents)
    return (start + jnp.arange(length)).astype(dtype)[:, None] * frequencies
