"""Means over data that are too many for one pass."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.validation import batch_size, require_positive_integer
from jaxnn.kernels.products import sum_dtype


def over_batches(compute: Callable) -> Callable[..., Any]:
    """(params, state, batches, key=None, **named) -> the mean of ``compute`` over all examples.

        mean = over_batches(kronecker(network, loss))(params, state, blocks(x, target, 1000))

    Of what is itself a mean over examples (`kronecker`, `ekfac`, `kfac_factors`, `diagonal_ggn`,
    `gradient_second_moment`, `fisher_information`): means of batches, each weighted by the sum of
    its weights, or by its size. One batch is held at a time, and one program compiled for each
    shape of them.

    Args:
        compute: (params, state, x, target, key, weights, **named) -> a tree of arrays.

    The function returned takes ``batches``, an iterable of (x, target) or (x, target, weights),
    such as `blocks` or what shows progress around it; ``key``, of which each batch gets one of its
    own; and what else is given to ``compute`` by name.

    Raises:
        ValueError: there are no examples.
    """
    program = jax.jit(compute)

    @jax.jit
    def together(mean: Any, new: Any, share: Any):
        # Exactly the old where both agree, as the eigenvectors of `ekfac` do.
        return jax.tree.map(lambda a, b: (a + share * (b - a)).astype(a.dtype), mean, new)

    def run(params, state, batches: Iterable, key=None, **named):
        mean, total = None, 0.0
        for index, (x, target, *rest) in enumerate(batches):
            weights = rest[0] if rest else None
            count = total_weight("over_batches", x, weights)
            if count == 0:
                continue
            total += count
            own = None if key is None else jax.random.fold_in(key, index)
            new = program(params, state, x, target, own, weights, **named)
            mean = new if mean is None else together(mean, new, count / total)
        if mean is None:
            raise ValueError("over_batches: expected at least one example of weight above 0")
        return mean

    return run


def total_weight(where: str, x: Any, weights: Any) -> float:
    """Σ w, or how many examples there are; half precision does not count so far."""
    if weights is None:
        return batch_size(where, x)
    return float(jnp.sum(weights, dtype=sum_dtype(jnp.result_type(weights))))


def blocks(x: Any, target: Any, size: int, weights: Any = None) -> Iterator[tuple]:
    """(x, target, weights) of so many examples at a time, in their order.

    The last block is filled up with its first example at weight 0, which is not there for any
    quantity, so that all have one shape. Arrays may be mapped from a file. Weights that are not
    given are 1, in the dtype of x where it is floating.

    Raises:
        ValueError: x, target and weights are not of equally many examples.
    """
    require_positive_integer("blocks", "size", size)
    count = batch_size("blocks", x)
    for name, other in (("target", target), ("weights", weights)):
        if other is not None and batch_size("blocks", other) != count:
            raise ValueError(
                f"blocks: expected {name} of the {count} examples of x, "
                f"got {batch_size('blocks', other)}"
            )
    return _blocks(x, target, min(size, max(count, 1)), weights, count)


def _blocks(x: Any, target: Any, size: int, weights: Any, count: int) -> Iterator[tuple]:
    if weights is None:
        dtypes = (jnp.asarray(leaf[:0]).dtype for leaf in jax.tree.leaves(x))
        floating = (dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))
        weights = np.ones(count, next(floating, jnp.ones(()).dtype))
    weights = np.asarray(weights)
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        there = rows < count
        rows = np.where(there, rows, start)
        part = jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), (x, target))
        yield *part, jnp.asarray(np.where(there, weights[rows], weights.dtype.type(0)))
