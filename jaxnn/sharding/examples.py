"""A data set on a mesh: every device, and so every process, holds its own part of the examples.

A step takes its examples from wherever they are, in the order that one device would take them in:
every device looks up those of the batch that it holds, and one reduce-scatter brings each to the
device that works on it. It moves (n − 1)/n of the bytes of the batch, little beside the gradients,
and it is the price for holding the data set once on all devices together instead of once on each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnn.kernels.parts import data_parts, parts_of
from jaxnn.sharding.mesh import DATA


def place_examples(tree: Any, mesh: Mesh) -> Any:
    """Arrays with the examples first, as arrays split over the data axis of a mesh.

    Where the examples cannot be split evenly, the last one is repeated until they can; who takes
    examples by `take_examples` never asks for these.

    A process reads no other examples than those that its devices hold: an array may be a
    `numpy.memmap` larger than the memory.
    """
    parts = mesh.shape[DATA]

    def place(a: Any):
        a = a if isinstance(a, np.ndarray) else np.asarray(a)
        dtype = jax.dtypes.canonicalize_dtype(a.dtype)
        length = -(-len(a) // parts) * parts

        def rows(index: Any):
            start, stop, _ = index[0].indices(length)
            found = np.asarray(a[start:stop], dtype)
            missing = stop - start - len(found)
            return np.concatenate([found, np.repeat(a[-1:], missing, 0)]) if missing else found

        shape = (length, *a.shape[1:])
        return jax.make_array_from_callback(shape, NamedSharding(mesh, P(DATA)), rows, dtype=dtype)

    return jax.tree.map(place, tree)


def own_columns(batch: int, mesh: Mesh | None) -> np.ndarray:
    """Which examples of every batch of this size the devices of this process work on."""
    columns = np.arange(batch)
    if mesh is None:
        return columns
    parts = _sharding_of_batches(batch, mesh).addressable_devices_indices_map((1, batch))
    own = [columns[index[1]] for index in parts.values() if index is not None]
    return np.unique(np.concatenate(own))


def join_columns(tree: Any, batch: int, mesh: Mesh | None) -> Any:
    """Arrays [steps, batch, …] on the mesh, of which each process gives its `own_columns`.

    Batches that cannot be split evenly are whole on every device.
    """
    if mesh is None:
        return tree
    sharding = _sharding_of_batches(batch, mesh)

    def join(a: np.ndarray):
        shape = (a.shape[0], batch, *a.shape[2:])
        return jax.make_array_from_process_local_data(sharding, a, shape)

    return jax.tree.map(join, tree)


def _sharding_of_batches(batch: int, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P() if batch % mesh.shape[DATA] else P(None, DATA))


def take_examples(tree: Any, batch: Array) -> Any:
    """The examples with these indices [batch] of each array, inside of a compiled program.

    Under a mesh the arrays are those of `place_examples`, and the result is split in the same way
    where the batch can be split evenly; otherwise all of it is on every device.
    """
    if data_parts() == 1:
        return jax.tree.map(lambda a: a[batch], tree)
    is_even = parts_of(batch.shape[0]) > 1

    def of_part(tree: Any, batch: Array):
        first = lax.axis_index(DATA) * jax.tree.leaves(tree)[0].shape[0]
        return jax.tree.map(lambda a: bring(a, batch - first), tree)

    def bring(a: Array, place: Array):
        here = (place >= 0) & (place < a.shape[0])
        here = jnp.expand_dims(here, range(1, a.ndim))
        rows = jnp.where(here, a[jnp.clip(place, 0, a.shape[0] - 1)], jnp.zeros((), a.dtype))
        summable = rows.astype(jnp.uint8) if a.dtype == bool else rows
        # All but one of the devices have 0 here.
        total = (
            lax.psum_scatter(summable, DATA, tiled=True) if is_even else lax.psum(summable, DATA)
        )
        return total.astype(a.dtype)

    return jax.shard_map(
        of_part,
        in_specs=(P(DATA), P()),
        out_specs=P(DATA) if is_even else P(),
        axis_names={DATA},
        check_vma=False,
    )(tree, batch)
