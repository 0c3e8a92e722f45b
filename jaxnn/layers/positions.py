"""Positions: where in a sequence a vector stands, added to it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.captures import EmbeddingCapture
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.layer import Layer, parameter_free
from jaxnn.core.validation import (
    require_features,
    require_floating,
    require_key,
    require_positive_integer,
    require_rank,
    unknown_name,
)

_KINDS = ("learned", "sinusoidal")


def positional_embedding(
    kind: str = "sinusoidal",
    length: int | None = None,
    *,
    weight_init: Initializer = "normal(0.02)",
) -> Layer:
    """y = x + p, with a vector p_t for every position t of x [batch, time, features].

    - ``"sinusoidal"``: p_t = sin(t ω_i) and cos(t ω_i), one after the other, with the frequencies
      ω_i = 10000^(−2i / features) (Vaswani et al., 2017); no parameters, any length;
    - ``"learned"``: p_t = weight[t], with ``weight`` [length, features]. As for `embedding`,
      ∂L/∂weight[t] is the sum of dy over the examples; positions that no example has receive 0.

    In both dx = dy. Rotary positions, which turn queries and keys, are an option of `attention`.

    Args:
        kind: See above.
        length: For learned positions, the longest sequence.
        weight_init: For learned positions.

    Raises:
        ValueError: ``kind`` is unknown, ``length`` is given without learned positions or missing
            with them, x is longer than ``length`` or not [batch, time, features].
    """
    if kind not in _KINDS:
        raise ValueError(f"positional_embedding: {unknown_name('kind', kind, _KINDS)}")
    if kind == "sinusoidal":
        if length is not None:
            raise ValueError(
                f"positional_embedding: expected length for learned positions alone, got {length}"
            )
        return parameter_free("positional_embedding", _add_sinusoids, lambda _, dy: dy)
    require_positive_integer("positional_embedding", "length", length)
    assert length is not None
    return _learned(length, initializer(weight_init))


def sinusoids(length: int, features: int, dtype: Any) -> Float[Array, "length features"]:
    """The vectors of the sinusoidal positions 0 … length − 1."""
    angles = rotation_angles(length, features, 10000.0)
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
    return pairs.reshape(length, 2 * angles.shape[1])[:, :features].astype(dtype)


def rotation_angles(length: int, features: int, base: float) -> Array:
    """t · base^(−2i / features), [length, ⌈features / 2⌉], in at least float32."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    exponents = jnp.arange(0, features, 2, dtype=dtype) / features
    frequencies = jnp.exp(-math.log(base) * exponents)
    return jnp.arange(length, dtype=dtype)[:, None] * frequencies


def _add_sinusoids(x: Array) -> tuple[Array, tuple]:
    _require_sequence(x)
    return x + sinusoids(x.shape[1], x.shape[2], x.dtype), ()


def _learned(length: int, init_weight: Any) -> Layer:
    def require_fits(x: Any):
        _require_sequence(x)
        if x.shape[1] > length:
            raise ValueError(
                f"positional_embedding: expected sequences of at most {length} positions, "
                f"got {x.shape[1]}"
            )

    def init(key: Array | None, x: Any):
        require_fits(x)
        key = require_key("positional_embedding", key)
        return {"weight": init_weight(key, (length, x.shape[2]), x.dtype)}, ()

    def predict(params: dict, state: Any, x: Array):
        require_fits(x)
        weight = params["weight"]
        require_features("positional_embedding", x, weight.shape[1], weight.dtype)
        return x + weight[: x.shape[1]]

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        return predict(params, state, x), state, ()

    def backward(params: dict, residuals: Any, dy: Float[Array, "batch time features"]):
        # A table looked up by the ids 0, 1, 2 …, the same in every example.
        ids = jnp.broadcast_to(jnp.arange(dy.shape[1]), dy.shape[:2])
        return dy, EmbeddingCapture(ids, dy, length)

    return Layer(init, predict, forward, backward, "positional_embedding")


def _require_sequence(x: Any) -> None:
    require_floating("positional_embedding", "x", x)
    require_rank("positional_embedding", "x", x, 3)
    if len(x.shape) != 3:
        raise ValueError(
            "positional_embedding: expected x to be [batch, time, features], "
            f"got shape {tuple(x.shape)}"
        )
