"""A condition that always holds, which no compiler finds out.

XLA for CPU drops `jax.lax.optimization_barrier` before it merges, fuses and orders operations. A
choice by such a condition is what it keeps.
"""

import jax
import jax.numpy as jnp
from jax import Array


def always(number: Array) -> Array:
    """True: n (n + 1) is even, for the integer n made of the bits of this scalar.

    Mapped by `jax.vmap`, one number stands for all: a choice by it stays a choice.
    """
    number = jax.lax.stop_gradient(number)
    bits = jnp.dtype(f"int{8 * number.dtype.itemsize}")
    return _is_even_product(jax.lax.bitcast_convert_type(number, bits))


@jax.custom_batching.custom_vmap
def _is_even_product(n: Array) -> Array:
    return n * (n + 1) % 2 == 0


@_is_even_product.def_vmap
def _of_the_first(axis_size: int, in_batched: list, n: Array):
    return _is_even_product(n[0] if in_batched[0] else n), False
