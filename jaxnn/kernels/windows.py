"""Windows that slide over an input, as programs that a compiler makes one loop of.

What depends on the position is computed from it rather than read from a table: a table would have
to be loaded for every element, which keeps the CPU from vectorising.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.kernels.convolution.geometry import Pairs, extent
from jaxnn.kernels.products import sum_dtype


@dataclass(frozen=True)
class Windows:
    """The windows over an input of known size: one number for each spatial dimension.

    Element e of window o meets the position o · strides + e · dilation of the padded input.
    """

    size: tuple[int, ...]
    output_size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    def elements(self, x: Array, fill: float) -> Iterator[Array]:
        """For each element of the window, row-major, what it meets: [batch, *output, channels].

        Padding holds ``fill``. Every element is one strided slice, so nothing is copied where XLA
        fuses it.
        """
        edges = [(0, 0, 0), *((low, high, 0) for low, high in self.padding), (0, 0, 0)]
        padded = lax.pad(x, jnp.array(fill, x.dtype), edges)
        for element in itertools.product(*map(range, self.window)):
            start = [e * d for e, d in zip(element, self.dilation, strict=True)]
            counts = zip(start, self.output_size, self.strides, strict=True)
            stop = [first + (n - 1) * stride + 1 for first, n, stride in counts]
            yield lax.slice(
                padded, (0, *start, 0), (len(x), *stop, x.shape[-1]), (1, *self.strides, 1)
            )

    def on_input(self, index: int) -> Any:
        """[*output, 1]: whether that element of every window lies on the input, not on padding.

        True where no such element lies on padding.
        """
        return functools.reduce(
            operator.and_,
            (
                self._on_input(axis, self._starts(axis), element)
                for axis, element in enumerate(np.unravel_index(index, self.window))
                if not self._on_input(axis, np.arange(self.output_size[axis]), element).all()
            ),
            True,
        )

    def counts(self, dtype: Any) -> Any:
        """[*output, 1]: how many elements of every window lie on the input."""
        return math.prod(
            sum(
                self._on_input(axis, self._starts(axis), element).astype(dtype)
                for element in range(elements)
            )
            for axis, elements in enumerate(self.window)
        )

    def some_hold_padding_only(self) -> bool:
        """Whether there is a window none of whose elements lies on the input."""
        return any(
            not self._on_input(axis, np.arange(n)[:, None], np.arange(w)).any(axis=1).all()
            for axis, (n, w) in enumerate(zip(self.output_size, self.window, strict=True))
        )

    def _starts(self, axis: int) -> Array:
        return lax.broadcasted_iota(int, (*self.output_size, 1), axis)

    def _on_input(self, axis: int, start: Any, element: Any) -> Any:
        position = start * self.strides[axis] + element * self.dilation[axis]
        position = position - self.padding[axis][0]
        return (position >= 0) & (position < self.size[axis])


def collect(windows: Windows, dy: Array, winner: Array | None = None) -> Array:
    """dx[p] = Σ dy[o] over the windows o in which p lies; with ``winner``, which it won.

    dy is [batch, *output, channels], as is ``winner``, the row-major index of an element; dx is
    [batch, *size, channels]. Half-precision numbers are summed in float32.

    In each dimension the padded input is cut into blocks as long as the stride. What position r of
    block q receives comes from the windows q, q − 1, …: of window q − j it is the element at
    distance j · stride + r. So the sum runs over j alone, and its terms are slices of dy, spread
    over blocks and compared with the index of an element: XLA fuses all to one loop without
    scatter. Windows side by side are the case of a single term.
    """
    reach = extent(windows.window, windows.dilation)
    shifts = [-(-r // s) for r, s in zip(reach, windows.strides, strict=True)]
    ends = [size + low for size, (low, _) in zip(windows.size, windows.padding, strict=True)]
    blocks = [-(-end // s) for end, s in zip(ends, windows.strides, strict=True)]
    edges = [
        (0, 0, 0),
        *((j - 1, q - n, 0) for j, q, n in zip(shifts, blocks, windows.output_size, strict=True)),
        (0, 0, 0),
    ]

    def of_window(values: Array, shift: tuple[int, ...]) -> Array:
        """What the window ``shift`` before each block holds: [batch, q, 1, …, channels]."""
        padded = lax.pad(values, jnp.zeros((), values.dtype), edges)
        starts = [j - 1 - back for j, back in zip(shifts, shift, strict=True)]
        inside = [slice(start, start + q) for start, q in zip(starts, blocks, strict=True)]
        return jnp.expand_dims(padded[:, *inside], range(2, 2 * len(shifts) + 1, 2))

    terms = []
    for shift in itertools.product(*map(range, shifts)):
        index, exists = _element_of_block(windows, shift)
        if winner is not None:
            exists &= of_window(winner, shift) == index.astype(winner.dtype)
        terms.append(jnp.where(exists, of_window(dy, shift), 0))
    if len(terms) > 1:
        terms = [term.astype(sum_dtype(dy.dtype)) for term in terms]
    lengths = (q * s for q, s in zip(blocks, windows.strides, strict=True))
    dx = functools.reduce(jnp.add, terms).astype(dy.dtype)
    dx = dx.reshape(dy.shape[0], *lengths, dy.shape[-1])
    inside = (slice(low, end) for (low, _), end in zip(windows.padding, ends, strict=True))
    return dx[:, *inside]


def _element_of_block(windows: Windows, shift: tuple[int, ...]) -> tuple[Array, Array]:
    """Which element of the window ``shift`` before a block each position of the block is.

    Its row-major index and whether there is one, both [1, stride, 1, stride, …, 1].
    """
    shape = (*itertools.chain(*((1, stride) for stride in windows.strides)), 1)
    index, exists = jnp.zeros(shape, int), jnp.ones(shape, bool)
    facts = zip(shift, windows.strides, windows.window, windows.dilation, strict=True)
    for axis, (back, stride, elements, dilation) in enumerate(facts):
        distance = back * stride + lax.broadcasted_iota(int, shape, 2 * axis + 1)
        element = distance // dilation
        index = index * elements + element
        exists &= (element < elements) & (distance % dilation == 0)
    return index, exists


def first_maximum(positions: Array) -> tuple[Array, Array]:
    """The first maximum of [batch, positions, channels] over the positions, and its index.

    A NaN is taken for the maximum. Both are [batch, channels], the index in the smallest type that
    holds it; the derivative of the maximum is that of the element with this index.
    """
    count = positions.shape[1]
    maximum = lax.stop_gradient(jnp.max(positions, axis=1, keepdims=True))
    won = (positions == maximum) | jnp.isnan(positions)
    index = jnp.min(jnp.where(won, indices(count), count - 1), axis=1, keepdims=True)
    element = jnp.take_along_axis(positions, index.astype(int), axis=1)
    # Never the maximum itself. Used nowhere but in the comparison, it would be written out for
    # every position by XLA's CPU compiler.
    return jnp.where(maximum < element, maximum, element)[:, 0], index[:, 0]


def indices(count: int) -> Array:
    """[count, 1]: 0, 1, 2 …, in the smallest type that holds them."""
    return lax.broadcasted_iota(np.min_scalar_type(count - 1), (count, 1), 0)
