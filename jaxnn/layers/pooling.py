"""Pooling: the maximum or the mean of every window that slides over an input.

x is [batch, *spatial, channels] with 1 to 3 spatial dimensions; channels are kept. Windows may
overlap, leave gaps, be dilated and reach over the border. The derivative of a maximum goes to the
element that won, the derivative of a mean to all alike, so both backward passes are one sum: what
an input element receives is dy of the windows it lies in. `_collect` writes it as a gather,

    dx[p] = Σ dy[o]   over the windows o with p = o · stride + e · dilation for an element e

(of a maximum: only if e won). Autodiff of the library's max-pool is a select-and-scatter, tens of
times slower on CPU, and keeps the whole input; here only the index of the winner is kept.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxnn.core.layer import Arguments, Layer, Static, parameter_free
from jaxnn.core.validation import require_boolean
from jaxnn.layers.windows import (
    Padding,
    Pairs,
    Sizes,
    extent,
    output_sizes,
    per_dimension,
    require_padding,
    require_sizes,
    require_spatial,
    resolve_padding,
    spatial_dimensions,
    window_elements,
)


def max_pool(
    window: Sizes, *, strides: Sizes | None = None, padding: Padding = "VALID", dilation: Sizes = 1
) -> Layer:
    """y[o] = max over the elements e of x[o · stride + e · dilation]; dy goes to the winner.

    x is [batch, *spatial, channels]. Of equal maxima the first in row-major window order wins, as
    in `jax.lax` and PyTorch. Padding never wins. A NaN is taken for the maximum, so y is NaN as in
    `jax.lax`, and the first NaN of the window receives dy. What is kept for backward is the index
    of the winner in its window, in the smallest unsigned integer type that holds it.

    Args:
        window: Its size in each dimension; an integer stands for all dimensions.
        strides: From window to window; those of windows side by side, the ``window``, unless given.
        padding: "VALID" (none), "SAME" (⌈size / stride⌉ outputs), (low, high) for each dimension,
            or one integer for all sides.
        dilation: From element to element within a window.

    Raises:
        TypeError: x is not floating-point, or a size is not an integer.
        ValueError: x has another rank than the arguments, a size is below 1, the window does not
            fit into the padded input, or a window holds nothing but padding.
    """
    windows_over = _windows("max_pool", window, strides, padding, dilation)

    def forward(x: Float[Array, "batch *spatial channels"]):
        windows = windows_over(x)
        elements = list(windows.elements(x, -jnp.inf))
        y = functools.reduce(jnp.maximum, elements)
        winner = jnp.zeros(y.shape, np.min_scalar_type(len(elements) - 1))
        for index, element in reversed(list(enumerate(elements))):
            # Beside -inf, padding would win but for the last condition.
            won = ((element == y) | jnp.isnan(element)) & windows.on_input(index)
            winner = jnp.where(won, winner.dtype.type(index), winner)
        return y, (winner, Static(windows))

    def backward(residuals: Any, dy: Float[Array, "batch *output channels"]):
        winner, windows = residuals
        return _collect(windows.value, dy, winner)

    layer = parameter_free("max_pool", forward, backward)
    given = {"window": window, "strides": strides, "padding": padding, "dilation": dilation}
    return layer._replace(arguments=Arguments(given))


def avg_pool(
    window: Sizes,
    *,
    strides: Sizes | None = None,
    padding: Padding = "VALID",
    dilation: Sizes = 1,
    count_include_pad: bool = False,
) -> Layer:
    """y[o] = 1/n Σ over the elements e of x[o · stride + e · dilation]; each receives dy[o] / n.

    n is the number of elements of the window that lie on the input, or with ``count_include_pad``
    of all its elements, padding (zeros) among them. Arguments, shapes and errors are those of
    `max_pool`.
    """
    windows_over = _windows("avg_pool", window, strides, padding, dilation)
    require_boolean("avg_pool", "count_include_pad", count_include_pad)

    def mean(windows: Windows, total: Array):
        count = math.prod(windows.window) if count_include_pad else windows.counts(total.dtype)
        return total / count

    def forward(x: Float[Array, "batch *spatial channels"]):
        windows = windows_over(x)
        return mean(windows, functools.reduce(jnp.add, windows.elements(x, 0))), Static(windows)

    def backward(windows: Static, dy: Float[Array, "batch *output channels"]):
        return _collect(windows.value, mean(windows.value, dy))

    return parameter_free("avg_pool", forward, backward)


def global_max_pool() -> Layer:
    """y = max over all positions, channel by channel: [batch, *spatial, channels] to one vector.

    y is [batch, channels]. dy goes to the winner; ties, NaN and what is kept are as in `max_pool`.
    """

    def forward(x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("global_max_pool", x)
        positions = x.reshape(x.shape[0], math.prod(sizes), x.shape[-1])
        y = jnp.max(positions, axis=1)
        won = (positions == y[:, None]) | jnp.isnan(positions)
        winner = jnp.min(jnp.where(won, indices(sizes), math.prod(sizes) - 1), axis=1)
        return y, (winner, Static(sizes))

    def backward(residuals: Any, dy: Float[Array, "batch channels"]):
        winner, sizes = residuals
        dx = jnp.where(indices(sizes.value) == winner[:, None], dy[:, None], 0)
        return dx.reshape(dy.shape[0], *sizes.value, dy.shape[-1])

    def indices(sizes: tuple[int, ...]):
        count = math.prod(sizes)
        return lax.broadcasted_iota(np.min_scalar_type(count - 1), (count, 1), 0)

    return parameter_free("global_max_pool", forward, backward)


def global_avg_pool() -> Layer:
    """y = mean over all positions, channel by channel: [batch, *spatial, channels] to one vector.

    y is [batch, channels]; of n positions, each receives dy / n.
    """

    def forward(x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("global_avg_pool", x)
        return jnp.mean(x, range(1, x.ndim - 1)), Static(sizes)

    def backward(sizes: Static, dy: Float[Array, "batch channels"]):
        share = jnp.expand_dims(dy / math.prod(sizes.value), range(1, len(sizes.value) + 1))
        return jnp.broadcast_to(share, (dy.shape[0], *sizes.value, dy.shape[-1]))

    return parameter_free("global_avg_pool", forward, backward)


@dataclass(frozen=True)
class Windows:
    """The windows over an input of known size: one number for each spatial dimension.

    What depends on the position is computed from it rather than read from a table: a table would
    have to be loaded for every element, which keeps the CPU from vectorising (8 times slower).
    """

    size: tuple[int, ...]
    output_size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    def elements(self, x: Array, fill: float) -> Iterator[Array]:
        """For each element of the window, row-major, what it meets: [batch, *output, channels]."""
        edges = [(0, 0, 0), *((low, high, 0) for low, high in self.padding), (0, 0, 0)]
        padded = lax.pad(x, jnp.array(fill, x.dtype), edges)
        return window_elements(padded, self.output_size, self.window, self.strides, self.dilation)

    def on_input(self, index: int) -> Any:
        """[*output, 1]: whether that element of every window lies on the input, not on padding."""
        return math.prod(
            self._on_input(axis, self._starts(axis), element)
            for axis, element in enumerate(np.unravel_index(index, self.window))
            if not self._on_input(axis, np.arange(self.output_size[axis]), element).all()
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


def _windows(
    where: str, window: Sizes, strides: Sizes | None, padding: Padding, dilation: Sizes
) -> Callable[[Any], Windows]:
    """Check the arguments of a layer; the result finds the windows over an input x."""
    strides = window if strides is None else strides
    arguments = {"window": window, "strides": strides, "dilation": dilation}
    for name, value in arguments.items():
        require_sizes(where, name, value)
    require_padding(where, padding)
    dimensions = spatial_dimensions(where, **arguments, padding=padding)

    def windows_over(x: Any) -> Windows:
        size = require_spatial(where, x, dimensions)
        each, step, spread = (per_dimension(value, len(size)) for value in arguments.values())
        pairs = resolve_padding(padding, size, each, step, spread)
        output_size = output_sizes(where, size, each, step, pairs, spread)
        windows = Windows(size, output_size, each, step, pairs, spread)
        if windows.some_hold_padding_only():
            raise ValueError(
                f"{where}: expected every window to hold an element of the input, but of those of "
                f"size {each} and dilation {spread} on an input of size {size} with padding "
                f"{pairs} some hold nothing but padding"
            )
        return windows

    return windows_over


def _collect(windows: Windows, dy: Array, winner: Array | None = None) -> Array:
    """dx: the sum of dy over the windows an element lies in, or over those that it won.

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
    lengths = (q * s for q, s in zip(blocks, windows.strides, strict=True))
    dx = functools.reduce(jnp.add, terms).reshape(dy.shape[0], *lengths, dy.shape[-1])
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
