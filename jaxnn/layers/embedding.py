"""Embedding: a table of vectors looked up by integer id."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.captures import EmbeddingCapture
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.layer import Layer
from jaxnn.core.validation import require_positive_integer, require_range, require_rank


def embedding(
    vocabulary: int,
    features: int,
    *,
    weight_init: Initializer = "normal(1.0)",
    dtype: Any = None,
) -> Layer:
    """y = weight[id] at every position; ∂L/∂weight[v] = Σ dy over the positions whose id is v.

    The same as a dense layer without bias on one-hot vectors, which are never made. x holds integer
    ids [batch, *positions] in 0 … vocabulary − 1 and has no gradient (dx is None), y is
    [batch, *positions, features]. The only parameter is ``weight`` [vocabulary, features].

    Ids outside of the vocabulary, negative ones among them, are refused where their values are
    known. Inside `jax.jit` they are not: there such an id gives a vector of NaN, which shows in the
    loss, and adds nothing to the gradient of ``weight``; functions wrapped in
    `jax.experimental.checkify.checkify` report it.

    Args:
        vocabulary: The number of ids.
        features: The length of a vector.
        weight_init: The initialiser of ``weight``.
        dtype: Of ``weight``; unless given, JAX's default, float32 (float64 where x64 is on).

    Raises:
        TypeError: ids are not integers, ``vocabulary`` or ``features`` is not an integer, ``dtype``
            is not floating-point.
        ValueError: a concrete id lies outside of the vocabulary.
    """
    require_positive_integer("embedding", "vocabulary", vocabulary)
    require_positive_integer("embedding", "features", features)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"embedding: expected dtype to be floating-point, got {dtype}")
    init_weight = initializer(weight_init)

    def init(key: Array, x: Any):
        _require_ids(x, vocabulary)
        weight_dtype = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
        return {"weight": init_weight(key, (vocabulary, features), weight_dtype)}, ()

    def predict(params: dict, state: Any, x: Array):
        _require_ids(x, vocabulary)
        rows = params["weight"].at[x]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        return predict(params, state, x), state, x

    def backward(params: dict, ids: Array, dy: Float[Array, "batch *positions features"]):
        return None, EmbeddingCapture(ids, dy, vocabulary)

    return Layer(init, predict, forward, backward, "embedding")


def _require_ids(x: Any, vocabulary: int) -> None:
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
        given = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"embedding: expected x to be an array of integer ids, got {given}")
    require_rank("embedding", "x", x, 1)
    require_range("embedding", "ids", x, 0, vocabulary - 1)
