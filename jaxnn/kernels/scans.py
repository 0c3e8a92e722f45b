"""Scans that write where they read."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


@partial(jax.custom_jvp, nondiff_argnums=(0, 5))
def scan_in_place(
    function: Callable,
    constants: Any,
    carry: Any,
    xs: Array,
    beside: Any,
    reverse: bool = False,
) -> tuple[Any, Array, Any]:
    """`jax.lax.scan` of a function whose y is like its x: the ys take the memory of the xs.

    No array has to be filled for them before, and what is written lies in the cache, since it was
    just read there. The next x is read from the array as written, so that nothing needs the array
    as it was before: XLA then copies it at no step.

    Args:
        function: (constants, carry, x, other) -> (carry, y, kept), pure, of nothing else that
            derivatives are wanted of.
        constants: A tree, the same at every step.
        carry: A tree, that of the step before.
        xs: Of every step, at least one.
        beside: A tree, the others of every step.
        reverse: Go from the last step to the first.

    Returns:
        (the last carry, the ys, all that was kept, stacked).
    """
    last = len(xs) - 1

    def body(carried: tuple, inputs: Any):
        carry, written, x = carried
        step, other = inputs
        carry, y, kept = function(constants, carry, x, other)
        written = lax.dynamic_update_index_in_dim(written, y, step, 0)
        following = jnp.maximum(step - 1, 0) if reverse else jnp.minimum(step + 1, last)
        x = lax.dynamic_index_in_dim(written, following, keepdims=False)
        return (carry, written, x), kept

    carried, inputs = (carry, xs, xs[-1 if reverse else 0]), (jnp.arange(last + 1), beside)
    (carry, ys, _), kept = lax.scan(body, carried, inputs, reverse=reverse)
    return carry, ys, kept


@scan_in_place.defjvp
def _differentiated(function: Callable, reverse: bool, primals: tuple, tangents: tuple):
    """By JAX, of a scan that overwrites nothing.

    Back through the one above, reading each step would add an array of all steps.
    """

    def run(constants: Any, carry: Any, xs: Array, beside: Any):
        def body(carry: Any, inputs: Any):
            carry, y, kept = function(constants, carry, *inputs)
            return carry, (y, kept)

        carry, (ys, kept) = lax.scan(body, carry, (xs, beside), reverse=reverse)
        return carry, ys, kept

    return jax.jvp(run, primals, tangents)
