"""The one place where it is decided how products of per-example gradients are computed.

With inputs a [batch, positions, m] and deltas d [batch, positions, n], the gradient of example b is
G_b = Σ_t a_bt d_btᵀ, and the product of two of them

    ⟨G_b, G_c⟩ = Σ_tu (a_bt · a_cu) (d_bt · d_cu)

is known without forming either: the Gram form. It takes positions² · (m + n) multiplications where
a gradient takes positions · m · n. With one position it always wins; with the many positions of a
convolution it loses. Both forms are matrix products, so that the number of multiplications decides.
"""

import math
from typing import Any, NamedTuple

import jax

from jaxnn.core.captures import EmbeddingCapture, flat_positions
from jaxnn.core.contract import Capture
from jaxnn.core.tied import TiedCapture


def gram_for_norms(capture: Capture) -> bool:
    """Whether the squared norm of each example's gradient is taken in the Gram form."""
    sizes = _sizes(capture)
    return sizes is not None and sizes.positions * sizes.comparison <= sizes.gradient


def gram_for_pairs(first: Capture, second: Capture) -> bool:
    """Whether the dot products of all pairs of examples are taken in the Gram form."""
    a, b = _sizes(first), _sizes(second)
    if a is None or b is None:
        return False
    rows, columns = a.batch * a.positions, b.batch * b.positions
    return rows * columns * a.comparison <= (rows + columns + a.batch * b.batch) * a.gradient


def positions_of(capture: Capture) -> int | None:
    """At how many positions of an example its linear map acts; None of another capture."""
    sizes = _sizes(capture)
    return None if sizes is None else sizes.positions


def pair_bytes(capture: Capture, queries: int) -> int:
    """What it takes to hold one example, of which alone the capture is, against so many others."""
    sizes = _sizes(capture)
    linear = jax.eval_shape(lambda c: c.linear() or c, capture)
    if sizes is None or not gram_for_norms(capture):
        return 2 * _bytes(linear) + _bytes(jax.eval_shape(lambda c: c.gradient(), capture))
    itemsize = max(a.dtype.itemsize for a in jax.tree.leaves(linear))
    return 2 * _bytes(linear) + queries * itemsize * (2 * sizes.positions**2 + sizes.outputs)


def linear_bytes(capture: Capture) -> int:
    """What an example takes as a linear map sees it: the patches of a convolution are large."""
    linear = jax.eval_shape(lambda c: c.linear(), capture)
    batch = jax.tree.leaves(capture)[0].shape[0]
    return _bytes(capture if linear is None else linear) // max(batch, 1)


def gradient_bytes(capture: Capture) -> int:
    """What an example and its gradient take."""
    return linear_bytes(capture) + _bytes(jax.eval_shape(lambda c: c.gradient(), capture))


class _Sizes(NamedTuple):
    batch: int
    positions: int
    comparison: int
    """Multiplications that compare two positions: m + n."""
    gradient: int
    """Multiplications that add a position to a gradient: m · n."""
    outputs: int
    """n."""


def _sizes(capture: Any) -> _Sizes | None:
    if isinstance(capture, EmbeddingCapture):
        # A linear map of one-hot vectors, which are compared by their ids.
        batch, positions, features = jax.eval_shape(flat_positions, capture.deltas).shape
        return _Sizes(batch, positions, 1 + features, capture.vocabulary * features, features)
    if isinstance(capture, TiedCapture):
        every = [_sizes(use) for use in capture.uses] if capture.all_meet else []
        known = [sizes for sizes in every if sizes is not None]
        if not known or len(known) < len(every):
            return None
        return known[0]._replace(positions=sum(sizes.positions for sizes in known))
    linear = jax.eval_shape(lambda c: c.linear(), capture)
    if linear is None:
        return None
    inputs, deltas = jax.tree.leaves(linear)
    batch, positions, m = inputs.shape[-3:]
    n = deltas.shape[-1]
    return _Sizes(batch, positions, m + n, m * n, n)


def _bytes(tree: Any) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
