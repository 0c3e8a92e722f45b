"""Embedding: a table of vectors looked up by integer id, one by one or a bag at a time."""

from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

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
    require_floating,
    require_key,
    require_members,
    require_positive_integer,
    require_range,
    require_rank,
    widened,
)
from jaxnn.kernels.products import sum_dtype


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


class _Table(Layer):
    """Base of what looks up rows of ``weight`` [vocabulary, features] by ids."""

    vocabulary: Annotated[int, require_positive_integer]
    features: Annotated[int, require_positive_integer]
    _: KW_ONLY
    weight_init: Initializer = "normal(1.0)"
    dtype: Annotated[Any, _require_floating_dtype] = None

    def draw(self, key: Array | None) -> dict[str, Array]:
        """{"weight"}."""
        dtype = jax.dtypes.canonicalize_dtype(self.dtype or float)
        shape = (self.vocabulary, self.features)
        return {"weight": initializer(self.weight_init)(require_key(self.name, key), shape, dtype)}

    def look_up(self, params: dict, ids: Array) -> Array:
        """[*ids, features]; NaN for an id outside of the vocabulary, where none was refused."""
        rows = params["weight"].at[ids]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def require_ids(self, x: Any, rank: int = 1, padding_id: int | None = None) -> None:
        """Raise unless x holds integers of the vocabulary, or padding, as far as they are known."""
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
            given = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{self.name}: expected x to be an array of integer ids, got {given}")
        require_rank(self.name, "x", x, rank)
        if padding_id is not None and not isinstance(x, jax.ShapeDtypeStruct):
            x = jnp.where(widened(x) == padding_id, 0, widened(x))
        if isinstance(x, Tracer) and jnp.iinfo(x.dtype).bits < 32:
            x = x.astype(jnp.int32)  # the size of the vocabulary may have no place in 8 or 16 bits
        require_range(self.name, "ids", x, 0, self.vocabulary - 1)


class embedding(_Table):
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

    mixes = False

    def init(self, key: Array | None, x: Any):
        self.require_ids(x)
        return self.draw(key), ()

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        self.require_ids(x)
        # 8 bits do not hold the vocabulary, which ids are compared with.
        return self.look_up(params, x), state, widened(x)

    def backward(
        self, params: dict, residuals: Array, dy: Float[Array, "batch *positions features"]
    ):
        return None, EmbeddingCapture(residuals, dy, self.vocabulary)


class embedding_bag(_Table):
    """The vectors of all ids of a bag added up, averaged, or their maximum by feature.

    x holds ids [batch, *bags, positions], or is a tuple (ids, w) with a weight w of the same shape
    for each of them; y is [batch, *bags, features]. The only parameter is ``weight``
    [vocabulary, features]. With n ids in a bag, those that are ``padding_id`` not counted:

    - "sum": y = Σ_t w_t weight[id_t], where w is 1 unless given; position t adds w_t dy to the
      gradient of its row, and dw_t = weight[id_t] · dy;
    - "mean": y = Σ_t weight[id_t] / n, and position t adds dy / n;
    - "max": y_f = max_t weight[id_t, f], and dy_f goes to the first position that has it.

    y is 0 for an empty bag. Sums run in at least float32. Ids have no gradient, and those outside
    of the vocabulary are treated as `embedding` does.

    Args:
        vocabulary: The number of ids.
        features: The length of a vector.
        mode: "sum", "mean" or "max".
        padding_id: The id, of the vocabulary or not, that is passed over; its row has no gradient.
        weight_init: The initialiser of ``weight``.
        dtype: Of ``weight``; unless given, JAX's default, float32 (float64 where x64 is on).

    Raises:
        TypeError: ids are not integers, or weights are not of the dtype of ``weight``.
        ValueError: a concrete id lies outside of the vocabulary; weights have another shape than
            the ids, or are given in another mode than "sum".
    """

    mode: Literal["sum", "mean", "max"] = "mean"
    padding_id: int | None = None

    mixes = False

    def init(self, key: Array | None, x: Any):
        params = self.draw(key)
        self._require(params, x)
        return params, ()

    def forward(self, params: dict, state: Any, x: Any, key: Array | None):
        self._require(params, x)
        ids, weights = x if isinstance(x, tuple) else (x, None)
        ids = widened(ids)[..., None]
        known = jnp.broadcast_to(self.padding_id is None or ids != self.padding_id, ids.shape)
        if weights is not None:
            weights = jnp.where(known, weights[..., None], 0)
        rows = self._rows(params, ids, known)
        if self.mode == "max":
            y, winner = _first_largest(rows, known)
            return y.astype(params["weight"].dtype), state, (ids, known, weights, winner)
        total = jnp.sum(rows * self._shares(known, weights).astype(rows.dtype), -2)
        return total.astype(params["weight"].dtype), state, (ids, known, weights, None)

    def backward(self, params: dict, residuals: Any, dy: Float[Array, "batch *bags features"]):
        ids, known, weights, winner = residuals
        wide = dy[..., None, :].astype(sum_dtype(dy.dtype))
        if winner is not None:
            counted = known & (jnp.arange(ids.shape[-2])[:, None] == winner[..., None, :])
            deltas = jnp.where(counted, wide, 0)
        else:
            deltas = wide * self._shares(known, weights).astype(wide.dtype)
        nowhere = jnp.where(known, ids, -1)[..., 0]  # an id that no row has
        capture = EmbeddingCapture(nowhere, deltas.astype(dy.dtype), self.vocabulary)
        if weights is None:
            return None, capture
        dweights = jnp.sum(self._rows(params, ids, known) * wide, -1)
        return (None, dweights.astype(weights.dtype)), capture

    def _require(self, params: dict, x: Any) -> None:
        if isinstance(x, tuple):
            require_members("embedding_bag", x, 2)
        ids, weights = x if isinstance(x, tuple) else (x, None)
        self.require_ids(ids, 2, self.padding_id)
        if weights is None:
            return
        require_floating("embedding_bag", "the weights of the ids", weights)
        if self.mode != "sum":
            raise ValueError(
                f"embedding_bag: expected weights of the ids in mode 'sum' alone, got {self.mode!r}"
            )
        if tuple(weights.shape) != tuple(ids.shape):
            raise ValueError(
                "embedding_bag: expected one weight for each id, of shape "
                f"{tuple(ids.shape)}, got {tuple(weights.shape)}"
            )
        if weights.dtype != params["weight"].dtype:
            raise TypeError(
                "embedding_bag: expected the weights of the ids to be "
                f"{params['weight'].dtype} as its parameter is, got {weights.dtype}"
            )

    def _rows(self, params: dict, ids: Array, known: Array) -> Array:
        """[*bags, positions, features] in at least float32, 0 for padding."""
        rows = self.look_up(params, jnp.where(known, ids, 0)[..., 0])
        return jnp.where(known, rows, 0).astype(sum_dtype(rows.dtype))

    def _shares(self, known: Array, weights: Array | None) -> Array:
        """[*bags, positions, 1], what each vector counts in the sum."""
        if weights is not None:
            return weights
        if self.mode == "sum":
            return known
        return known / jnp.maximum(jnp.sum(known, -2, keepdims=True), 1)


def _first_largest(rows: Array, known: Array) -> tuple[Array, Array]:
    """The largest known number of each feature along positions, 0 where there is none, and the
    first position that has it."""
    if rows.shape[-2] == 0:
        shape = (*rows.shape[:-2], rows.shape[-1])
        return jnp.zeros(shape, rows.dtype), jnp.zeros(shape, jnp.int32)
    winner = jnp.argmax(jnp.where(known, rows, -jnp.inf), -2)
    return jnp.take_along_axis(rows, winner[..., None, :], -2)[..., 0, :], winner
