"""Standard normal noise: the numbers of `jax.random.normal`, sooner.

On CPU JAX runs the rounds of its generator one after the other over the whole array, in memory; a
private step of a small network would take longer for its noise than for its gradient. Written out,
the rounds are one loop over the elements.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Independent numbers of N(0, 1), those of ``jax.random.normal(key, shape, dtype)``."""
    size = math.prod(shape)
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    if not is_threefry or dtype != jnp.float32 or not 0 < size < 2**32:
        return jax.random.normal(key, shape, dtype)
    high = jnp.zeros(shape, jnp.uint32)
    low = jax.lax.iota(jnp.uint32, size).reshape(shape)
    bits = jnp.bitwise_xor(*_threefry(jax.random.key_data(key), high, low))
    # 23 random bits behind the point of a number in [1, 2), then uniform in (−1, 1).
    mantissa = (bits >> 9) | np.uint32(0x3F800000)
    uniform = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1
    least = np.nextafter(np.float32(-1), np.float32(0))
    inside = jnp.maximum(least, uniform * (1 - least) + least)
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(inside)


def _threefry(key: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Threefry-2×32 with 20 rounds (Salmon et al., 2011): the counters (x, y) encrypted."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y
