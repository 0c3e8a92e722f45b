"""Attention in its textbook form, with the backward pass through the softmax.

Heads stand in groups that share keys and values: queries are q [batch, group, head, time, depth],
keys are k [batch, group, memory, depth], values v [batch, group, memory, a depth of their own].
Written for one head, with M true where a query may see a key and N the noise of dropout (1 without
it):

    S = q kᵀ / √depth       E = e^(S − max S) over the keys that M shows, 0 elsewhere
    l = Σ_keys E            P = E / l             o = (P ∘ N) v = (E ∘ N) v / l

Backward, from do [time, depth], with the Jacobian diag(p) − p pᵀ of each row of the softmax:

    dv = (P ∘ N)ᵀ do        dP = N ∘ (do vᵀ)        dS = P ∘ (dP − Σ_keys P ∘ dP)
    dq = dS k / √depth      dk = dSᵀ q / √depth

Of time × memory, E alone is kept. P is never made of it: do / l takes the place of do, and the sum
Σ_keys P ∘ dP = Σ_keys P ∘ N ∘ (do vᵀ) is do · o.

A query that may see no key has l = 1 in place of 0: its P and o and all gradients through it are 0.
A bias and a softcap change S, and what is done with dS: see `jaxnn.layers.attention.bias`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.attention.bias import NO_BIAS, Bias, add_bias, cap, pull_back


class Kept(NamedTuple):
    """What backward needs."""

    q: Array
    k: Array
    v: Array
    o: Array
    powers: Array
    """E, [batch, group, head, time, memory]."""
    total: Array
    """l, [batch, group, head, time, 1]."""
    noise: Array | None
    """N in the form of `thin`, or None."""
    bias: Bias = NO_BIAS
    slope: Array | None = None
    """The slope of the softcap, [batch, group, head, time, memory], or None."""

    @property
    def weights(self) -> Array:
        """P, [batch, group, head, time, memory]."""
        return (self.powers / self.total).astype(self.powers.dtype)


def attend(
    q: Float[Array, "batch group head time depth"],
    k: Float[Array, "batch group memory depth"],
    v: Float[Array, "batch group memory own"],
    visible: Bool[Array, "#batch #group #head #time memory"] | None,
    rate: float,
    key: Any,
    bias: Bias = NO_BIAS,
    softcap: float | None = None,
) -> tuple[Float[Array, "batch group head time own"], Kept]:
    """(o, what backward needs); ``rate`` is that of dropout, ``key`` its randomness."""
    scores, slope = cap(scores_of(q, k), softcap)
    scores = add_bias(scores, bias)
    if visible is not None:
        scores = jnp.where(visible, scores, -jnp.inf)
    # The softmax does not depend on what is subtracted: no derivative goes through it.
    largest = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True))
    powers = jnp.exp(scores - finite(largest))
    total = jnp.sum(powers, -1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    powers = powers.astype(q.dtype)
    noise = draw_noise(key, rate, powers.shape)
    o = (over_keys(thin(noise, rate, powers), v) / total).astype(v.dtype)
    return o, Kept(q, k, v, o, powers, total, noise, bias, slope)


def attend_backward(
    kept: Kept, rate: float, do: Float[Array, "batch group head time depth"]
) -> tuple[Array, Array, Array, Bias]:
    """(dq, dk, dv, the gradient by the bias) by the formulas at the head of this file."""
    q, k, v, o, powers, total, noise, bias, slope = kept
    scale = 1 / math.sqrt(q.shape[-1])
    along = jnp.sum(o.astype(total.dtype) * do / total, -1, keepdims=True)
    do = (do / total).astype(do.dtype)
    dpowers = thin(noise, rate, with_keys(do, v))
    dscores = powers * (dpowers - along)
    dbias = pull_back(dscores, bias)
    dscores = (dscores if slope is None else dscores * slope).astype(q.dtype)
    dq = over_keys(dscores, k * scale)
    dk = over_queries(q * scale, dscores).mT
    dv = over_queries(do, thin(noise, rate, powers)).mT
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), dbias


def with_keys(
    a: Float[Array, "batch group head time depth"], b: Float[Array, "batch group memory depth"]
) -> Float[Array, "batch group head time memory"]:
    """a bᵀ, every query with every key, in at least float32."""
    return _like(a, _product(_rows(a), b.mT))


def over_keys(
    a: Float[Array, "batch group head time memory"], b: Float[Array, "batch group memory depth"]
) -> Float[Array, "batch group head time depth"]:
    """a b, a sum over keys for every query, in at least float32."""
    return _like(a, _product(_rows(a), b))


def over_queries(
    a: Float[Array, "batch group head time depth"],
    b: Float[Array, "batch group head time memory"],
) -> Float[Array, "batch group depth memory"]:
    """aᵀ b, a sum over the queries of all heads of a group, in at least float32.

    Its transpose is what is looked for. But bᵀ a takes nearly twice the time on CPU, where b, much
    the larger one, is copied to be transposed.
    """
    return _product(_rows(a).mT, _rows(b))


def _rows(a: Array) -> Array:
    """Heads and time as one axis: a product of matrices, of which XLA need not copy the result."""
    batch, group, head, time, last = a.shape
    return a.reshape(batch, group, head * time, last)


def _like(a: Array, rows: Array) -> Array:
    """The inverse of `_rows`, for an a of this shape but for the last axis."""
    return rows.reshape(*a.shape[:-1], rows.shape[-1])


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=sum_dtype(a.dtype))


def scores_of(q: Array, k: Array) -> Array:
    """S, in at least float32: what goes into an exponential must not be rounded to half."""
    return with_keys(q * (1 / math.sqrt(q.shape[-1])), k)


def draw_noise(key: Any, rate: float, shape: Any) -> Array | None:
    """Which weights dropout leaves, None where it leaves all."""
    return None if rate == 0 else jax.random.bernoulli(key, 1 - rate, shape)


def thin(noise: Array | None, rate: float, values: Array) -> Array:
    """N ∘ values: what dropout leaves, divided by 1 − rate so that the mean stays."""
    return values if noise is None else jnp.where(noise, values / (1 - rate), 0)


def finite(largest: Array) -> Array:
    """What is subtracted in the exponent: the largest score, 0 where all are −∞."""
    return jnp.where(largest == -jnp.inf, 0, largest)
