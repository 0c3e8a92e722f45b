"""Windows that slide over an input: sums and maxima over them, and what their elements receive.

A small window is written out, element by element, as a program that a compiler makes one loop of.
What depends on the position is computed from it rather than read from a table: a table would have
to be loaded for every element, which keeps the CPU from vectorising. Of a large window that program
would be as long as the window; it is taken one axis after the other, by programs of a fixed length.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.kernels.convolution.geometry import Pairs, extent
from jaxnn.kernels.products import sum_dtype

MOST_WRITTEN_OUT = 16
"""The most elements of a window, or windows over an element, that are terms of one program."""
LONG_WINDOW = 4
"""A maximum is found by doubling where a stride of a window holds less than the window by so many
times the number of its doublings."""


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
        padded = lax.pad(x, jnp.array(fill, x.dtype), _around(self.padding))
        for element in itertools.product(*map(range, self.window)):
            start = [e * d for e, d in zip(element, self.dilation, strict=True)]
            counts = zip(start, self.output_size, self.strides, strict=True)
            stop = [first + (n - 1) * stride + 1 for first, n, stride in counts]
            yield lax.slice(
                padded, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *self.strides, 1)
            )

    def on_input(self, index: int) -> Any:
        """[*output, 1]: whether that element of every window lies on the input, not on padding.

        True where no such element lies on padding.
        """
        return functools.reduce(
            operator.and_,
            (
                self._on_input(axis, self._outputs(axis), element)
                for axis, element in enumerate(np.unravel_index(index, self.window))
                if not self._on_input(axis, np.arange(self.output_size[axis]), element).all()
            ),
            True,
        )

    def positions(self, index: Array) -> Array:
        """Where on the input the element with that index in each window lies, row-major.

        Both are [batch, *output, channels], integers.
        """
        position = jnp.zeros((), int)
        elements = jnp.unravel_index(index.astype(int), self.window)
        for axis, element in enumerate(elements):
            at = self._position(axis, self._outputs(axis), element)
            position = position * self.size[axis] + at
        return position

    def indices(self, position: Array) -> Array:
        """The inverse of `positions`: the index in its window of what lies there on the input."""
        index = jnp.zeros((), int)
        for axis, at in enumerate(jnp.unravel_index(position, self.size)):
            element = (at - self._position(axis, self._outputs(axis), 0)) // self.dilation[axis]
            index = index * self.window[axis] + element
        return index

    def counts(self, dtype: Any) -> Any:
        """[*output, 1]: how many elements of every window lie on the input; one number where they
        are as many in every window."""
        counts = 1
        for axis, plainly in enumerate(self._plain_counts()):
            same = plainly.min() == plainly.max()
            counts *= int(plainly[0]) if same else self._count(jnp, axis, self._outputs(axis))
        return jnp.asarray(counts, dtype)

    def some_hold_padding_only(self) -> bool:
        """Whether there is a window none of whose elements lies on the input."""
        return not all(counts.all() for counts in self._plain_counts())

    def _plain_counts(self) -> Iterator[np.ndarray]:
        """For each axis, how many elements of each window along it lie on the input."""
        for axis, outputs in enumerate(self.output_size):
            yield self._count(np, axis, np.arange(outputs))

    def _outputs(self, axis: int) -> Array:
        return lax.broadcasted_iota(int, (*self.output_size, 1), axis)

    def _position(self, axis: int, output: Any, element: Any) -> Any:
        start = output * self.strides[axis] - self.padding[axis][0]
        return start + element * self.dilation[axis]

    def _on_input(self, axis: int, output: Any, element: Any) -> Any:
        position = self._position(axis, output, element)
        return (position >= 0) & (position < self.size[axis])

    def _count(self, numpy: Any, axis: int, output: Any) -> Any:
        """How many elements along an axis lie on the input: those that begin before its end, less
        those that begin before its start."""
        start, dilation = self._position(axis, output, 0), self.dilation[axis]
        before = (-((start - bound) // dilation) for bound in (self.size[axis], 0))
        end, first = (numpy.clip(n, 0, self.window[axis]) for n in before)
        return end - first


def total(windows: Windows, x: Array) -> Array:
    """y[o] = Σ x over the elements of window o, padding counted as 0; in the dtype of sums."""
    x = x.astype(sum_dtype(x.dtype))
    if math.prod(windows.window) <= MOST_WRITTEN_OUT:
        return functools.reduce(jnp.add, windows.elements(x, 0))
    return _sums(windows, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def maximum(windows: Windows, x: Array) -> tuple[Array, Array]:
    """The first maximum of every window in row-major order, and its index in the window.

    A NaN is taken for the maximum; padding never wins. Both are [batch, *output, channels], the
    index in the smallest type that holds it. The derivative is that of the element that won.
    """
    if math.prod(windows.window) > MOST_WRITTEN_OUT:
        return _maximum_by_axes(windows, x)
    elements = list(enumerate(windows.elements(x, -jnp.inf)))
    last, y = elements.pop()
    winner = jnp.full(y.shape, last, np.min_scalar_type(last))
    for index, element in reversed(elements):
        # Beside -inf, padding would win but for the last condition.
        won = ((element >= y) | jnp.isnan(element)) & windows.on_input(index)
        y = jnp.where(won, element, y)
        winner = jnp.where(won, winner.dtype.type(index), winner)
    return y, winner


@maximum.defjvp
def _maximum_jvp(windows: Windows, primals: tuple, tangents: tuple) -> tuple:
    y, index = maximum(windows, *primals)
    no_tangent = np.zeros(index.shape, jax.dtypes.float0)
    return (y, index), (gathered(tangents[0], windows.positions(index)), no_tangent)


def _maximum_by_axes(windows: Windows, x: Array) -> tuple[Array, Array]:
    """`maximum` of pairs of a value and its position on the input, one axis after the other: of
    equal values the one that comes first is greater, so that the order of comparisons is free."""

    def first_of(a: tuple, b: tuple) -> tuple:
        (value, at), (other, its_place) = a, b
        is_nan, other_is_nan = jnp.isnan(value), jnp.isnan(other)
        equal = (value == other) | (is_nan & other_is_nan)
        stays = (value > other) | (is_nan & ~other_is_nan) | (equal & (at < its_place))
        return jnp.where(stays, value, other), jnp.where(stays, at, its_place)

    positions = jnp.arange(math.prod(windows.size), dtype=jnp.int32)
    positions = jnp.broadcast_to(positions.reshape(*windows.size, 1), x.shape)
    best = (x, positions)
    # Padding is less than all: behind any element of -inf.
    least = (x.dtype.type(-jnp.inf), positions.dtype.type(jnp.iinfo(positions.dtype).max))
    for axis in reversed(range(1, x.ndim - 1)):
        window, stride = windows.window[axis - 1], windows.strides[axis - 1]
        if window > LONG_WINDOW * stride * window.bit_length():
            best = _doubled(best, least, first_of, axis, windows)
        else:
            best = lax.reduce_window(best, least, first_of, **_along(axis, windows))
    value, positions = best
    kept = np.min_scalar_type(math.prod(windows.window) - 1)
    return value, windows.indices(positions).astype(kept)


def _doubled(best: tuple, least: tuple, better: Callable, axis: int, windows: Windows) -> tuple:
    """The best of the elements of every window along one axis of [batch, *size, channels].

    Of 2k elements in a row it is the better one of the best of the first k and of those behind;
    of any number, of two such stretches that may overlap. So log₂ of the window comparisons do.
    """
    spatial, size = axis - 1, best[0].shape[axis]
    count, dilation = windows.window[spatial], windows.dilation[spatial]
    low, high = windows.padding[spatial]

    def padded(a: Array, fill: Any, low: int, high: int) -> Array:
        return lax.pad(a, fill, [(low, high, 0) if i == axis else (0, 0, 0) for i in range(a.ndim)])

    def step(_: Any, carry: tuple) -> tuple:
        best, known = carry
        further = jnp.minimum(known, count - known)
        behind = (padded(a, fill, 0, count * dilation) for a, fill in zip(best, least, strict=True))
        later = (
            lax.dynamic_slice_in_dim(a, further * dilation, low + size + high, axis) for a in behind
        )
        return better(best, tuple(later)), known + further

    best = tuple(padded(a, fill, low, high) for a, fill in zip(best, least, strict=True))
    best, _ = lax.fori_loop(0, (count - 1).bit_length(), step, (best, 1))
    stride = windows.strides[spatial]
    end = (windows.output_size[spatial] - 1) * stride + 1
    return tuple(lax.slice_in_dim(a, 0, end, stride, axis) for a in best)


def _sums(windows: Windows, x: Array) -> Array:
    """Σ over the elements of every window, one axis after the other."""
    # XLA's windows would take in the padding, and ask of every element whether it is.
    x = lax.optimization_barrier(lax.pad(x, x.dtype.type(0), _around(windows.padding)))
    whole = replace(windows, padding=((0, 0),) * len(windows.size))
    for axis in reversed(range(1, x.ndim - 1)):
        x = lax.reduce_window(x, x.dtype.type(0), lax.add, **_along(axis, whole))
    return x


def _along(axis: int, windows: Windows) -> dict[str, Any]:
    """The windows along one axis of [batch, *size, channels], as `lax.reduce_window` takes them."""

    def only(value: Any, others: Any) -> tuple:
        return tuple(value[axis - 1] if i == axis else others for i in range(len(value) + 2))

    return {
        "window_dimensions": only(windows.window, 1),
        "window_strides": only(windows.strides, 1),
        "padding": only(windows.padding, (0, 0)),
        "window_dilation": only(windows.dilation, 1),
    }


def _around(pairs: Pairs) -> list[tuple[int, int, int]]:
    """The padding of [batch, *spatial, channels], as `lax.pad` takes it."""
    return [(0, 0, 0), *((low, high, 0) for low, high in pairs), (0, 0, 0)]


def gathered(x: Array, positions: Array) -> Array:
    """y[o] = x[positions[o]] of x [batch, *size, channels], row-major positions on the input.

    Positions and y are [batch, *output, channels].
    """
    y = jnp.take_along_axis(_flat(x), _flat(positions), 1, mode="promise_in_bounds")
    return y.reshape(positions.shape)


def scattered(dy: Array, positions: Array, size: tuple[int, ...]) -> Array:
    """dx[p] = Σ dy[o] over the o with positions[o] = p, [batch, *size, channels]: the adjoint of
    `gathered`. Half-precision numbers are summed in float32."""
    batch, channels = dy.shape[0], dy.shape[-1]
    dx = jnp.zeros((batch, math.prod(size), channels), sum_dtype(dy.dtype))
    at = (jnp.arange(batch)[:, None, None], _flat(positions), jnp.arange(channels))
    dx = dx.at[at].add(_flat(dy).astype(dx.dtype), mode="promise_in_bounds")
    return dx.astype(dy.dtype).reshape(batch, *size, channels)


def _flat(a: Array) -> Array:
    """[batch, positions, channels]."""
    return a.reshape(a.shape[0], math.prod(a.shape[1:-1]), a.shape[-1])


def collect(windows: Windows, dy: Array, winner: Array | None = None) -> Array:
    """dx[p] = Σ dy[o] over the windows o in which p lies; with ``winner``, which it won.

    dy is [batch, *output, channels], as is ``winner``, the row-major index of an element; dx is
    [batch, *size, channels]. Half-precision numbers are summed in float32.

    In each dimension the padded input is cut into blocks as long as the stride. What position r of
    block q receives comes from the windows q, q − 1, …: of window q − j it is the element at
    distance j · stride + r. So the sum runs over j alone, and its terms are slices of dy, spread
    over blocks and compared with the index of an element: XLA fuses all to one loop without
    scatter. Windows side by side are the case of a single term.

    Of more terms than are written out, a winner is scattered; and a sum over all windows is a sum
    over windows of the same size, of dy with zeros between its elements, as far apart as windows.
    """
    reach = extent(windows.window, windows.dilation)
    shifts = [-(-r // s) for r, s in zip(reach, windows.strides, strict=True)]
    if math.prod(shifts) > MOST_WRITTEN_OUT:
        if winner is not None:
            return scattered(dy, windows.positions(winner), windows.size)
        return _collect_all(windows, dy)
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


def _collect_all(windows: Windows, dy: Array) -> Array:
    """dx[p] = Σ_e dy[(p + low − e · dilation) / stride], of the e where that is a window."""
    ones = (1,) * len(windows.size)
    wide = dy.astype(sum_dtype(dy.dtype))
    between = [(0, 0, stride - 1) for stride in windows.strides]
    spread = lax.pad(wide, wide.dtype.type(0), [(0, 0, 0), *between, (0, 0, 0)])
    size = spread.shape[1:-1]
    facts = zip(
        extent(windows.window, windows.dilation), windows.size, size, windows.padding, strict=True
    )
    padding = tuple((r - 1 - low, n + low - inner) for r, n, inner, (low, _) in facts)
    back = Windows(size, windows.size, windows.window, ones, padding, windows.dilation)
    return _sums(back, spread).astype(dy.dtype)


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
