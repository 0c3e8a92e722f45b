"""Checksums of arrays: the same on every device and however an array is sharded."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def checksums(tree: Any) -> list[int]:
    """For every leaf a number of 32 bits that any change of one element changes.

    Σ_i h(w_i, i) mod 2³², where w_i is the i-th word of the leaf's bits and h(·, i) is invertible,
    so that one changed word always changes the sum, and other changes do but once in about 2³²
    times. An integer sum does not depend on its order: devices add up the parts that they hold.
    """
    return [int(number) for number in _checksums(jax.tree.leaves(tree))]


@jax.jit
def _checksums(leaves: list[Array]) -> list[Array]:
    return [_checksum(leaf) for leaf in leaves]


def _checksum(leaf: Array) -> Array:
    words = _words(leaf)
    return jnp.sum(_mix(words ^ _mix(_positions(words.shape))), dtype=jnp.uint32)


def _words(leaf: Array) -> Array:
    """The bits as uint32; two words for an element of 64 bits."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    width = min(leaf.dtype.itemsize, 4)
    return jax.lax.bitcast_convert_type(leaf, f"uint{8 * width}").astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> Array:
    """1 + the place of every element in row-major order, mod 2³², without flattening."""
    positions = jnp.ones(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        positions += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return positions


def _mix(words: Array) -> Array:
    """An invertible map of 32 bits in which every bit depends on all: MurmurHash3's finaliser."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
