"""What runs on every device by itself, over its own examples of a batch.

The compiler splits a whole-array operation by the shardings of its arguments. A loop over the
examples it cannot split: it would gather the batch on every device, so that all do all the work.
Such loops are written for the examples at hand and called through these functions, which run them
on every device's own examples where the program is compiled under a mesh (`jax.set_mesh`).
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

DATA = "data"
"""The axis of a mesh over which batches are split."""


def data_parts() -> int:
    """Into how many parts the compiler may split batches here: 1 without a mesh around."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape[DATA] if types.get(DATA) == AxisType.Auto else 1


def parts_of(batch: int) -> int:
    """Into how many equal parts a batch of this size is split: 1 where it cannot be."""
    parts = data_parts()
    return 1 if batch % parts else parts


def on_each_part(function: Callable, *trees: Any) -> tuple[Any, Any]:
    """(mapped, summed) = function(*trees), computed by every device for its own examples.

    Args:
        function: Trees with the batch first to a pair: a tree with the batch first, whose every
            example depends on the same example of the arguments alone, and a tree of sums over the
            batch. It may use other arrays from around it, which are then whole on every device.
        trees: Trees of arrays with the batch first.
    """
    if parts_of(jax.tree.leaves(trees)[0].shape[0]) == 1:
        return function(*trees)

    def of_part(*trees: Any):
        mapped, summed = function(*trees)
        return mapped, lax.psum(summed, DATA)

    # Whether a value differs between devices is not tracked: a sum over no examples starts at a
    # constant, which does not, and goes on with what does.
    return jax.shard_map(
        of_part, in_specs=P(DATA), out_specs=(P(DATA), P()), axis_names={DATA}, check_vma=False
    )(*trees)


def map_parts(function: Callable, *trees: Any) -> Any:
    """function(*trees), which has the batch first in all arguments and results."""
    return on_each_part(lambda *trees: (function(*trees), ()), *trees)[0]


def sum_parts(function: Callable, *trees: Any) -> Any:
    """function(*trees), which sums over the batch."""
    return on_each_part(lambda *trees: ((), function(*trees)), *trees)[1]


def split_batch(tree: Any) -> Any:
    """The same arrays, batch first, each device of the mesh around having its own examples."""

    def split(a: jax.Array):
        return a if parts_of(a.shape[0]) == 1 else lax.with_sharding_constraint(a, P(DATA))

    return jax.tree.map(split, tree)


def whole(tree: Any) -> Any:
    """The same arrays, each whole on every device of the mesh around."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda a: lax.with_sharding_constraint(a, P()), tree)
