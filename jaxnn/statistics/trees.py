"""What is done to whole trees of captures: weights for examples, and what must not be asked."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import map_captures
from jaxnn.core.contract import Capture
from jaxnn.kernels.products import sum_dtype


def scaled(captures: Any, factors: Array) -> Any:
    """The captures of Σ factors[b] l_b: the deltas of each example times its factor [batch].

    Contracting them is linear in the factors, which is how a weighted sum of per-example gradients
    is had without forming any, and its transpose how their products with one vector are.
    """

    def scale(deltas: Array):
        _require_one_each(factors, deltas)
        return deltas * _over(factors, deltas).astype(deltas.dtype)

    return map_captures(lambda capture: capture.map_deltas(scale), captures)


def weighted(captures: Any, weights: Array | None) -> Any:
    """The captures of Σ weights[b] l_b, or those given where there are no weights."""
    return captures if weights is None else scaled(captures, weights)


def shares_of(captures: Any, weights: Array | None) -> Array:
    """[batch], what each example counts in a mean: wᵢ / Σ w, or 1 / batch."""
    if weights is None:
        batch = batch_of(captures)
        return jnp.full(batch, 1 / max(batch, 1))
    return weights / jnp.sum(weights, dtype=sum_dtype(weights.dtype))


def batch_of(captures: Any) -> int:
    """How many examples the captures are of; 0 of a network without parameters.

    Raises:
        ValueError: one capture is of more examples than another.
    """
    sizes = set()

    def record(deltas: Array):
        sizes.add(deltas.shape[0])
        return deltas

    jax.eval_shape(lambda tree: map_captures(lambda c: c.map_deltas(record), tree), captures)
    if len(sizes) > 1:
        raise ValueError(f"captures: expected one batch size in all of them, got {sorted(sizes)}")
    return max(sizes, default=0)


def without(captures: Any, absent: Array) -> Any:
    """The captures with zeros in place of all that they hold of the examples in ``absent`` [batch]:
    whatever that is, infinite or NaN, nothing of it is left."""

    def clear(capture: Capture):
        capture.map_deltas(lambda deltas: _require_one_each(absent, deltas))
        return capture.without(absent)

    return map_captures(clear, captures)


def _require_one_each(factors: Array, deltas: Array) -> Array:
    if factors.shape != deltas.shape[:1]:
        raise ValueError(
            f"captures: expected one factor for each of {deltas.shape[0]} examples, "
            f"got shape {factors.shape}"
        )
    return deltas


def widened(captures: Any) -> Any:
    """The captures in the dtype of sums, in which they are then contracted."""

    def widen(a: Array):
        return a.astype(sum_dtype(a.dtype)) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(widen, captures)


def require_examples_apart(where: str, captures: Any) -> Any:
    """The captures; raises where an example's own gradient cannot be had of them.

    Raises:
        ValueError: a layer mixes the examples of a batch, or has contracted its gradient already.
    """
    places = jax.tree_util.tree_leaves_with_path(captures, lambda node: isinstance(node, Capture))
    for path, capture in places:
        if capture.mixes is not None:
            name, reason = capture.mixes, "mixes the examples of a batch in training"
            remedy = "; take in_inference_mode(network) in place of network"
        elif capture.summed_by is not None:
            name, reason, remedy = capture.summed_by, "gives its gradient summed over the batch", ""
        else:
            continue
        place = jax.tree_util.keystr(path, simple=True, separator=".")
        raise ValueError(
            f"{where}: expected every example to have a gradient of its own, but "
            f"{f'{place} {name}'.strip()} {reason}{remedy}"
        )
    return captures


def _over(factors: Array, a: Array) -> Array:
    """[batch] with as many more axes as ``a`` has."""
    return jnp.expand_dims(factors, tuple(range(1, a.ndim)))
