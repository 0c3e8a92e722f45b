"""A random order, fast on every platform."""

import math

import jax
import jax.numpy as jnp
from jax import Array


def shuffle(key: Array, n: int) -> Array:
    """A random permutation of 0 … n−1, int32.

    A radix sort by random digits: every round prefixes each entry's position with fresh random bits
    and sorts. Since the position breaks ties, a round is a stable sort, and r rounds of b bits sort
    by a random key of r·b ≥ 3 log₂ n bits: the chance that any two keys are equal is below 1/(2n).

    Each round sorts plain unsigned integers, which XLA's CPU sort does several times faster than
    the pairs of key and value that `jax.random.permutation` sorts.
    """
    position_bits = max(n - 1, 1).bit_length()
    random_bits = 32 - position_bits
    rounds = math.ceil(3 * position_bits / random_bits)
    positions = jnp.arange(n, dtype=jnp.uint32)
    order = positions
    for digits in jax.random.bits(key, (rounds, n), jnp.uint32):
        prefixed = (digits << position_bits) | positions
        order = order[jnp.sort(prefixed) & ((1 << position_bits) - 1)]
    return order.astype(jnp.int32)
