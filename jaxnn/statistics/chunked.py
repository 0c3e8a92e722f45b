"""Quantities of a capture worked off a few examples at a time.

The unfolded patches of a convolution, and the gradients of single examples, are large; those of a
few examples stay in the cache and are never kept.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks
from jaxnn.statistics.choosing import linear_form

CHUNK_BYTES = 4 * 2**20


def map_examples(function: Callable, capture: Any) -> Any:
    """``function`` of the capture, whose results have the batch first; it forms their gradients."""
    gradient = jax.eval_shape(lambda c: c.gradient(), capture)
    leaves, treedef = jax.tree.flatten(capture)

    def of_chunk(*leaves: Array):
        return function(treedef.unflatten(leaves))

    return map_chunks(of_chunk, _chunks(capture, _bytes(gradient)), *leaves)


def sum_examples(function: Callable, capture: Any, shares: Array) -> Any:
    """``function`` of the capture and of ``shares`` [batch], which sums over the batch."""
    leaves, treedef = jax.tree.flatten(capture)

    def of_chunk(shares: Array, *leaves: Array):
        return function(treedef.unflatten(leaves), shares)

    return sum_chunks(of_chunk, _chunks(capture, 0), shares, *leaves)


def _chunks(capture: Any, further_bytes: int) -> int:
    """How many, for what an example takes as a linear layer sees it, and ``further_bytes``."""
    batch, *_ = jax.tree.leaves(capture)[0].shape
    unfolded = jax.eval_shape(linear_form, capture) or capture
    return chunk_count(batch, _bytes(unfolded) // max(batch, 1) + further_bytes, CHUNK_BYTES)


def _bytes(tree: Any) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
