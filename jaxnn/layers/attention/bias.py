"""What is added to the scores of attention: S = c tanh(q kᵀ / (c √depth)) + B, before the mask.

B is the sum of what is given for every pair of query and key, and of what depends on their distance
alone, B_ts = b(s − t). Backward, from dS:

    d(given) = dS, summed along the axes in which it was broadcast
    db(d)    = Σ_{s − t = d} dS_ts, a sum along each diagonal
    d(q kᵀ / √depth) = dS (1 − tanh²)                                   of the softcap c

A tile of b is a slice of it, so that the form that goes block by block never holds B.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class Bias(NamedTuple):
    """What is added; also the gradient by it, which has a batch in front of distances."""

    given: Array | None = None
    """[batch, 1 or group, 1 or head, 1 or time, 1 or memory]."""
    by_distance: Array | None = None
    """[group, head, time + memory − 1], b at the distances s − t = 1 − time … memory − 1."""


NO_BIAS = Bias()


def cap(scores: Array, softcap: float | None) -> tuple[Array, Array | None]:
    """c tanh(S / c) and its slope; S itself and None without a softcap."""
    if softcap is None:
        return scores, None
    inner = jnp.tanh(scores / softcap)
    return softcap * inner, 1 - inner * inner


def add_bias(scores: Array, bias: Bias) -> Array:
    """S + B, for scores [batch, group, head, time, memory]."""
    if bias.given is not None:
        scores = scores + bias.given.astype(scores.dtype)
    if bias.by_distance is not None:
        scores = scores + spread(bias.by_distance, *scores.shape[-2:]).astype(scores.dtype)
    return scores


def pull_back(dscores: Array, bias: Bias) -> Bias:
    """The gradient by the bias of what `add_bias` added."""
    given = bias.given
    return Bias(
        None if given is None else sum_to(dscores, given.shape),
        None if bias.by_distance is None else along_diagonals(dscores),
    )


def spread(by_distance: Array, time: int, memory: int) -> Array:
    """B_ts = b(s − t), [..., time, memory]."""
    index = jnp.arange(memory) - jnp.arange(time)[:, None] + time - 1
    return by_distance[..., index]


def along_diagonals(a: Array) -> Array:
    """Σ_{s − t = d} a_ts for every d, [..., time + memory − 1]: the transpose of `spread`.

    Rows are filled up with zeros to the length w + 1, w = time + memory − 1, and the last of them
    comes first: read w at a time, each row stands one place further to the right than the one
    before it, and what was on a diagonal is one column.
    """
    *lead, time, memory = a.shape
    width = time + memory - 1
    padded = jnp.pad(jnp.flip(a, -2), [(0, 0)] * (a.ndim - 1) + [(0, time)])
    flat = padded.reshape(*lead, time * (width + 1))[..., : time * width]
    return jnp.sum(flat.reshape(*lead, time, width), -2)


def sum_to(a: Array, shape: Any) -> Array:
    """The sum along the axes that are 1 in ``shape``."""
    return jnp.sum(a, [i for i, n in enumerate(shape) if n == 1], keepdims=True)


def of_alibi(heads: int, distance: Array) -> Array:
    """−m |d| for each head, [heads, …], with its slope m (Press et al., 2022).

    The slopes of n heads, n a power of 2, are 2^(−8 h / n), h = 1 … n; of another number, those of
    the power of 2 below it, and every second one of twice as many.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
    return -jnp.abs(distance) * jnp.asarray(slopes).reshape(-1, *(1,) * distance.ndim)
