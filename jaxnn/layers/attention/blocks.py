"""Attention block by block: the same numbers, and never an array of time × memory.

Queries and keys are cut into blocks, and a scan goes through the pairs (i, j) of them, leaving out
those that a causal mask hides as a whole. Forward carries for each query, beside the output, the
largest score m and the sum l of exponentials so far; a larger m rescales what came before it
(Milakov and Gimelshein, 2018; Dao et al., 2022):

    m' = max(m, max_j S_ij)     l' = l e^(m − m') + Σ_j e^(S_ij − m')
    a' = a e^(m − m') + (e^(S_ij − m') ∘ N) v_j                    at the end o = a / l

What is kept is q, k, v, o and L = m + log l. Backward computes P_ij = e^(S_ij − L_i) again, one
pair at a time, and needs the row sums of P ∘ dP before it has seen a whole row. These are

    Σ_keys P ∘ dP = Σ_keys P ∘ N ∘ (do vᵀ) = do · o,

known from the start. The rest is that of `jaxnn.layers.attention.plain`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxnn.layers.attention.bias import NO_BIAS, Bias, add_bias, cap, pull_back
from jaxnn.layers.attention.plain import (
    draw_noise,
    finite,
    over_keys,
    over_queries,
    scores_of,
    thin,
    with_keys,
)
from jaxnn.layers.attention.tiles import Geometry, add_tile, pad_bias, tile, unpad_bias


class Kept(NamedTuple):
    """What backward needs, in blocks along the first axis."""

    q: Array
    k: Array
    v: Array
    visible: Array | None
    o: Array
    log_sum: Array
    """L, [blocks, batch, group, head, block]."""
    key: Any
    bias: Bias


def attend(
    q: Float[Array, "batch group head time depth"],
    k: Float[Array, "batch group memory depth"],
    v: Float[Array, "batch group memory own"],
    visible: Bool[Array, "#batch #group #head #time memory"] | None,
    geometry: Geometry,
    rate: float,
    key: Any,
    bias: Bias = NO_BIAS,
    softcap: float | None = None,
) -> tuple[Float[Array, "batch group head time own"], Kept]:
    """(o, what backward needs); ``visible`` comes without the causal mask."""
    visible, padded = _pad_visible(visible, geometry), pad_bias(bias, geometry)
    q, k, v = _cut(q, geometry.rows), _cut(k, geometry.columns), _cut(v, geometry.columns)

    def body(carry: tuple, step: tuple):
        number, (i, j) = step
        own = tile(padded, geometry, i, j)
        scores, _ = _scores(q[i], k[j], own, softcap, visible, geometry, i, j)
        o, largest, total = (a[i] for a in carry)
        # The result does not depend on what is subtracted: no derivative goes through it.
        new_largest = jax.lax.stop_gradient(jnp.maximum(largest, jnp.max(scores, -1)))
        shift = finite(new_largest)
        powers = jnp.exp(scores - shift[..., None])
        rescale = jnp.exp(largest - shift)
        noise = _noise(key, number, rate, powers.shape)
        added = over_keys(thin(noise, rate, powers).astype(v.dtype), v[j])
        o = o * rescale[..., None] + added
        total = total * rescale + jnp.sum(powers, -1)
        new = (o, new_largest, total)
        return tuple(a.at[i].set(b) for a, b in zip(carry, new, strict=True)), None

    wide = jax.eval_shape(scores_of, q[0], k[0]).dtype
    start = (
        jnp.zeros((*q.shape[:-1], v.shape[-1]), wide),
        jnp.full(q.shape[:-1], -jnp.inf, wide),
        jnp.zeros(q.shape[:-1], wide),
    )
    (o, largest, total), _ = jax.lax.scan(body, start, _steps(geometry))
    seen = jnp.where(total == 0, 1, total)  # 0 where a query may see no key: o is 0, and so is P
    o = (o / seen[..., None]).astype(v.dtype)
    log_sum = finite(largest) + jnp.log(seen)
    return _join(o, geometry.time), Kept(q, k, v, visible, o, log_sum, key, bias)


def attend_backward(
    kept: Kept,
    geometry: Geometry,
    rate: float,
    do: Float[Array, "batch group head time depth"],
    softcap: float | None = None,
) -> tuple[Array, Array, Array, Bias]:
    """(dq, dk, dv, the gradient by the bias): P once more, block by block."""
    q, k, v, visible, o, log_sum, key, bias = kept
    do = _cut(do, geometry.rows)
    along = jnp.sum(o.astype(log_sum.dtype) * do, -1)
    scale, padded = 1 / math.sqrt(q.shape[-1]), pad_bias(bias, geometry)

    def body(carry: tuple, step: tuple):
        number, (i, j) = step
        dq, dk, dv, dbias = carry
        own = tile(padded, geometry, i, j)
        scores, slope = _scores(q[i], k[j], own, softcap, visible, geometry, i, j)
        weights = jnp.exp(scores - log_sum[i][..., None])
        noise = _noise(key, number, rate, weights.shape)
        thinned = thin(noise, rate, weights).astype(v.dtype)
        dweights = thin(noise, rate, with_keys(do[i], v[j]))
        dscores = weights * (dweights - along[i][..., None])
        dbias = add_tile(dbias, pull_back(dscores, own), geometry, i, j)
        dscores = (dscores if slope is None else dscores * slope).astype(q.dtype)
        dq = dq.at[i].add(over_keys(dscores, k[j] * scale))
        dk = dk.at[j].add(over_queries(q[i] * scale, dscores))
        dv = dv.at[j].add(over_queries(do[i], thinned))
        return (dq, dk, dv, dbias), None

    def zeros(shape: tuple):
        return jnp.zeros(shape, log_sum.dtype)

    given, table = padded
    start_bias = Bias(
        None if given is None else zeros(given.shape),
        None if table is None else zeros((do.shape[1], *table.shape)),
    )
    start = (zeros(q.shape), zeros(k.mT.shape), zeros(v.mT.shape), start_bias)
    (dq, dk, dv, dbias), _ = jax.lax.scan(body, start, _steps(geometry))
    dk, dv = dk.mT, dv.mT
    lengths = (geometry.time, geometry.memory, geometry.memory)
    dq, dk, dv = (
        _join(a, n).astype(b.dtype)
        for a, n, b in zip((dq, dk, dv), lengths, (q, k, v), strict=True)
    )
    return dq, dk, dv, unpad_bias(dbias, bias, geometry)


def _steps(geometry: Geometry) -> tuple[Array, Array]:
    pairs = geometry.pairs()
    return jnp.arange(len(pairs)), jnp.asarray(pairs)


def _scores(
    q: Array,
    k: Array,
    bias: Bias,
    softcap: float | None,
    visible: Array | None,
    geometry: Geometry,
    i: Array,
    j: Array,
) -> tuple[Array, Array | None]:
    """S_ij, −∞ where a key is hidden, and the slope of the softcap."""
    scores, slope = cap(scores_of(q, k), softcap)
    scores = add_bias(scores, bias)
    if visible is not None:
        rows = visible[j] if visible.shape[4] == 1 else _rows_of(visible[j], i, geometry.rows)
        scores = jnp.where(rows, scores, -jnp.inf)
    if geometry.causal:
        row = geometry.offset + i * geometry.rows + jnp.arange(geometry.rows)
        column = j * geometry.columns + jnp.arange(geometry.columns)
        scores = jnp.where(row[:, None] >= column, scores, -jnp.inf)
    return scores, slope


def _rows_of(a: Array, i: Array, rows: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(a, i * rows, rows, 3)


def _noise(key: Any, number: Array, rate: float, shape: Any) -> Array | None:
    return None if rate == 0 else draw_noise(jax.random.fold_in(key, number), rate, shape)


def _pad_visible(visible: Array | None, geometry: Geometry) -> Array | None:
    """[key blocks, batch, group, head, time or 1, block]: keys added to fill a block are hidden."""
    missing_rows, missing_columns = geometry.missing
    if visible is None:
        if missing_columns == 0:
            return None
        visible = jnp.ones((1, 1, 1, 1, geometry.memory), bool)
    rows = missing_rows if visible.shape[3] > 1 else 0
    visible = jnp.pad(visible, [(0, 0)] * 3 + [(0, rows), (0, missing_columns)])
    number = visible.shape[-1] // geometry.columns
    blocks = visible.reshape(*visible.shape[:-1], number, geometry.columns)
    return jnp.moveaxis(blocks, -2, 0)


def _cut(a: Array, block: int) -> Array:
    """[…, time, depth] as [blocks, …, block, depth], filled up with zeros."""
    padded = jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, -a.shape[-2] % block), (0, 0)])
    number = padded.shape[-2] // block
    return jnp.moveaxis(padded.reshape(*a.shape[:-2], number, block, a.shape[-1]), -3, 0)


def _join(blocks: Array, length: int) -> Array:
    """The inverse of `_cut`."""
    joined = jnp.moveaxis(blocks, 0, -3)
    rows = joined.shape[-3] * joined.shape[-2]
    return joined.reshape(*joined.shape[:-3], rows, joined.shape[-1])[..., :length, :]
