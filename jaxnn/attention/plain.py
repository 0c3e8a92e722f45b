"""Attention in its textbook form, with the backward pass through the softmax.

Heads stand in groups that share keys and values: queries are q [batch, group, head, time, depth],
keys and values k, v [batch, group, memory, depth]. Written for one head, with M true where a query
may see a key and N the noise of dropout (1 without it):

    S = q kᵀ / √depth       P = softmax of S over the keys that M shows       o = (P ∘ N) v

Backward, from do [time, depth], with the Jacobian diag(p) − p pᵀ of each row of the softmax:

    dv = (P ∘ N)ᵀ do        dP = N ∘ (do vᵀ)        dS = P ∘ (dP − Σ_keys P ∘ dP)
    dq = dS k / √depth      dk = dSᵀ q / √depth

A query that may see no key has P = 0 in place of 0/0: its o and all gradients through it are 0.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxnn.captures import accumulator


class Kept(NamedTuple):
    """What backward needs."""

    q: Array
    k: Array
    v: Array
    weights: Array
    """P, [batch, group, head, time, memory]."""
    noise: Array | None
    """N in the form of `thin`, or None."""


def attend(
    q: Float[Array, "batch group head time depth"],
    k: Float[Array, "batch group memory depth"],
    v: Float[Array, "batch group memory depth"],
    visible: Bool[Array, "#batch #group #head #time memory"] | None,
    rate: float,
    key: Any,
) -> tuple[Float[Array, "batch group head time depth"], Kept]:
    """(o, what backward needs); ``rate`` is that of dropout, ``key`` its randomness."""
    scores = scores_of(q, k)
    if visible is None:
        weights = jax.nn.softmax(scores)
    else:
        weights = _softmax(jnp.where(visible, scores, -jnp.inf))
    weights = weights.astype(q.dtype)
    noise = draw_noise(key, rate, weights.shape)
    o = jnp.einsum("bgrts,bgsd->bgrtd", thin(noise, rate, weights), v)
    return o, Kept(q, k, v, weights, noise)


def attend_backward(
    kept: Kept, rate: float, do: Float[Array, "batch group head time depth"]
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) by the formulas at the head of this file."""
    q, k, v, weights, noise = kept
    dv = jnp.einsum("bgrts,bgrtd->bgsd", thin(noise, rate, weights), do)
    dweights = thin(noise, rate, jnp.einsum("bgrtd,bgsd->bgrts", do, v))
    along = jnp.sum(weights * dweights, -1, keepdims=True)
    dscores = weights * (dweights - along) / math.sqrt(q.shape[-1])
    dq = jnp.einsum("bgrts,bgsd->bgrtd", dscores, k)
    dk = jnp.einsum("bgrts,bgrtd->bgsd", dscores, q)
    return dq, dk, dv


def scores_of(q: Array, k: Array) -> Array:
    """S, in at least float32: what goes into an exponential must not be rounded to half."""
    dtype = accumulator(q.dtype)
    scale = 1 / math.sqrt(q.shape[-1])
    return jnp.einsum("bgrtd,bgsd->bgrts", q * scale, k, preferred_element_type=dtype)


def draw_noise(key: Any, rate: float, shape: Any) -> Array | None:
    """Which weights dropout leaves, None where it leaves all."""
    return None if rate == 0 else jax.random.bernoulli(key, 1 - rate, shape)


def thin(noise: Array | None, rate: float, values: Array) -> Array:
    """N ∘ values: what dropout leaves, divided by 1 − rate so that the mean stays."""
    return values if noise is None else jnp.where(noise, values / (1 - rate), 0)


def _softmax(scores: Array) -> Array:
    """Over keys of which some, or all, have the score −∞."""
    # The softmax does not depend on what is subtracted: no derivative goes through it.
    largest = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True))
    powers = jnp.exp(scores - finite(largest))
    total = jnp.sum(powers, -1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)


def finite(largest: Array) -> Array:
    """What is subtracted in the exponent: the largest score, 0 where all are −∞."""
    return jnp.where(largest == -jnp.inf, 0, largest)
