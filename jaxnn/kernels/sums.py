"""Sums and maps over examples whose intermediate arrays stay in the cache.

add_up(f, x) = Σ_i f(x[i]),
map_examples(f, bytes, x) = f(x) of an f that takes each example by itself,
sum_examples(f, bytes, x) = f(x) of an f that sums over the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks

CHUNK_BYTES = 4 * 2**20
"""How much the intermediate arrays of the examples worked off at a time may take."""


def add_up(function: Callable, tree: Any) -> Any:
    """Σ_i function(tree[i]) over the first axis of all arrays, one term after the other.

    XLA for CPU reduces a leading axis slowly, and would keep all terms; of this loop none is kept.
    """
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, one))

    def body(total: Any, term: Any):
        return jax.tree.map(jnp.add, total, function(term)), None

    return jax.lax.scan(body, zeros, tree)[0]


def map_examples(function: Callable, example_bytes: int, *trees: Any) -> Any:
    """function(*trees), which has the batch first in all arguments and results.

    Args:
        function: Of so many trees.
        example_bytes: What its intermediate arrays take for one example.
        trees: Trees of arrays.
    """
    return _in_chunks(map_chunks, function, example_bytes, trees)


def sum_examples(function: Callable, example_bytes: int, *trees: Any) -> Any:
    """function(*trees), which sums over the batch; the arguments are those of `map_examples`."""
    return _in_chunks(sum_chunks, function, example_bytes, trees)


def _in_chunks(run: Callable, function: Callable, example_bytes: int, trees: tuple) -> Any:
    leaves, treedef = jax.tree.flatten(trees)
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) > 1:
        raise ValueError(f"examples: expected the batch first in all arrays, got {sorted(sizes)}")

    def of_chunk(*leaves: Array):
        return function(*treedef.unflatten(leaves))

    return run(of_chunk, chunk_count(sizes.pop(), example_bytes, CHUNK_BYTES), *leaves)
