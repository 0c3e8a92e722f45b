"""Embedding: a table of vectors looked up by integer id."""

from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from jaxnn.core.captures import EmbeddingCapture
from jaxnn.core.contract import Layer
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.validation import (
    brief,
    require_key,
    require_positive_integer,
    require_range,
    require_rank,
    widened,
)


def _require_floating_dtype(where: str, name: str, value: Any) -> str | None:
    """The name of the dtype, so that a layer prints as what builds it."""
    if value is None:
        return None
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{where}: expected {name} to be floating-point, got {brief(value)}")
    return dtype.name


class embedding(Layer):
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

    vocabulary: Annotated[int, require_positive_integer]
    features: Annotated[int, require_positive_integer]
    _: KW_ONLY
    weight_init: Initializer = "normal(1.0)"
    dtype: Annotated[Any, _require_floating_dtype] = None

    mixes = False

    def init(self, key: Array | None, x: Any):
        self._require_ids(x)
        dtype = jax.dtypes.canonicalize_dtype(self.dtype or float)
        shape = (self.vocabulary, self.features)
        key = require_key("embedding", key)
        return {"weight": initializer(self.weight_init)(key, shape, dtype)}, ()

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        self._require_ids(x)
        rows = params["weight"].at[x]
        y = rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        # 8 bits do not hold the vocabulary, which ids are compared with.
        return y, state, widened(x)

    def backward(
        self, params: dict, residuals: Array, dy: Float[Array, "batch *positions features"]
    ):
        return None, EmbeddingCapture(residuals, dy, self.vocabulary)

    def _require_ids(self, x: Any) -> None:
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
            given = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"embedding: expected x to be an array of integer ids, got {given}")
        require_rank("embedding", "x", x, 1)
        if isinstance(x, Tracer) and jnp.iinfo(x.dtype).bits < 32:
            x = x.astype(jnp.int32)  # the size of the vocabulary may have no place in 8 or 16 bits
        require_range("embedding", "ids", x, 0, self.vocabulary - 1)
