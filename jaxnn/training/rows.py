"""Steps of the rows of an embedding that a batch looked up, and of no other.

The gradient of a table of vectors is 0 but in the rows that were looked up, and an optimiser that
works element by element can be given these rows alone: of the parameters, of the sums of deltas,
and of all that it remembers of each element. A step then reads and writes as many rows as the batch
has ids, whatever the size of the table. An optimiser that would move an element without a gradient
(by its momentum, or by decay) moves a row only in the steps that look it up.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import EmbeddingCapture
from jaxnn.kernels.products import rows_of, sum_dtype


class Rows(NamedTuple):
    """The rows of a table that were looked up: one entry for each position of the batch."""

    ids: Array
    """[positions]: the row, at the last position that looked it up; elsewhere the number of rows,
    which is no row."""
    sums: Array
    """[positions, features]: the gradient of that row, the sum of the deltas of its positions."""
    vocabulary: int

    def take(self, tree: Any) -> Any:
        """The rows of all arrays that have the table's shape; the others as they are."""
        return jax.tree.map(lambda a: a.at[self.ids].get(mode="clip") if self._has(a) else a, tree)

    def put(self, tree: Any, new: Any) -> Any:
        """With the rows of ``new`` exchanged; what does not have the table's shape is the new."""

        def exchanged(a: Array, own: Array) -> Array:
            return a.at[self.ids].set(own.astype(a.dtype), mode="drop") if self._has(a) else own

        return jax.tree.map(exchanged, tree, new)

    def _has(self, a: Any) -> bool:
        return jnp.shape(a) == (self.vocabulary, self.sums.shape[-1])


def rows_looked_up(capture: EmbeddingCapture) -> Rows:
    """Of a batch, without an array of the table's size; ids that no row has are passed over."""
    ids, deltas, none = capture.ids.reshape(-1), rows_of(capture.deltas), capture.vocabulary
    ids = jnp.where((ids >= 0) & (ids < none), ids, none)
    positions = jnp.arange(len(ids), dtype=jnp.int32)
    last = jnp.zeros(none + 1, jnp.int32).at[ids].max(positions)[ids]
    add = partial(jax.ops.segment_sum, segment_ids=last, num_segments=len(ids))
    sums = add(deltas.astype(sum_dtype(deltas.dtype))).astype(deltas.dtype)
    return Rows(jnp.where(last == positions, ids, none), sums, none)
