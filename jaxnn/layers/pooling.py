"""Pooling: the maximum or the mean of every window that slides over an input.

x is [batch, *spatial, channels] with 1 to 3 spatial dimensions; channels are kept. Windows may
overlap, leave gaps, be dilated and reach over the border. The derivative of a maximum goes to the
element that won, the derivative of a mean to all alike, so both backward passes are one sum: what
an input element receives is dy of the windows it lies in. `collect` writes it as a gather,

    dx[p] = Σ dy[o]   over the windows o with p = o · stride + e · dilation for an element e

(of a maximum: only if e won). Autodiff of the library's max-pool is a select-and-scatter, tens of
times slower on CPU, and keeps the whole input; here only the index of the winner is kept.
"""

import math
from dataclasses import KW_ONLY, replace
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.residuals import Static
from jaxnn.kernels import bins
from jaxnn.kernels.convolution.geometry import extent
from jaxnn.kernels.products import sum_dtype
from jaxnn.kernels.windows import (
    Windows,
    collect,
    first_maximum,
    gathered,
    indices,
    maximum,
    scattered,
    total,
)
from jaxnn.layers.windows import (
    Padding,
    Sizes,
    output_sizes,
    per_dimension,
    require_sizes,
    require_spatial,
    resolve_padding,
    spatial_dimensions,
)


class _Pool(ParameterFree):
    """Base of pooling layers over windows.

    Args:
        window: Its size in each dimension; an integer stands for all dimensions.
        strides: From window to window; those of windows side by side, the ``window``, unless given.
        padding: "VALID" (none), "SAME" (⌈size / stride⌉ outputs), (low, high) for each dimension,
            or one integer for all sides.
        dilation: From element to element within a window.
        ceil_mode: Whether a last window that reaches over the end of the padded input is kept, as
            long as it begins on the input or the padding before it, as in PyTorch.

    Raises:
        TypeError: x is not floating-point, or a size is not an integer.
        ValueError: x has another rank than the arguments, a size is below 1, the window does not
            fit into the padded input, or a window holds nothing but padding.
    """

    window: Sizes
    _: KW_ONLY
    strides: Sizes | None = None
    padding: Padding = "VALID"
    dilation: Sizes = 1
    ceil_mode: bool = False

    mixes = False

    def validate(self) -> None:
        _ = self.dimensions

    @property
    def dimensions(self) -> int | None:
        """How many spatial dimensions x must have; None for any number."""
        strides = self.window if self.strides is None else self.strides
        return spatial_dimensions(
            self.name,
            window=self.window,
            strides=strides,
            dilation=self.dilation,
            padding=self.padding,
        )

    def windows(self, x: Any) -> Windows:
        """The windows over x."""
        size = require_spatial(self.name, x, self.dimensions)
        window, dilation = (per_dimension(a, len(size)) for a in (self.window, self.dilation))
        strides = window if self.strides is None else per_dimension(self.strides, len(size))
        padding = resolve_padding(self.padding, size, window, strides, dilation)
        if self.ceil_mode:
            reach = extent(window, dilation)
            padding = tuple(map(_to_whole_windows, size, reach, strides, padding))
        output_size = output_sizes(self.name, size, window, strides, padding, dilation)
        windows = Windows(size, output_size, window, strides, padding, dilation)
        if windows.some_hold_padding_only():
            raise ValueError(
                f"{self.name}: expected every window to hold an element of the input, but of those "
                f"of size {window} and dilation {dilation} on an input of size {size} with padding "
                f"{padding} some hold nothing but padding"
            )
        return windows


def _to_whole_windows(n: int, reach: int, stride: int, pair: tuple[int, int]) -> tuple[int, int]:
    """The padding of n elements with as much more at the end as a last window needs."""
    low, high = pair
    outputs = -(-max(n + low + high - reach, 0) // stride) + 1
    outputs -= (outputs - 1) * stride >= n + low
    return low, max((outputs - 1) * stride + reach - n - low, 0)


class max_pool(_Pool):
    """y[o] = max over the elements e of x[o · stride + e · dilation]; dy goes to the winner.

    x is [batch, *spatial, channels]. Of equal maxima the first in row-major window order wins, as
    in `jax.lax` and PyTorch. Padding never wins. A NaN is taken for the maximum, so y is NaN as in
    `jax.lax`, and the first NaN of the window receives dy. What is kept for backward is the index
    of the winner in its window, in the smallest unsigned integer type that holds it.
    """

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        windows = self.windows(x)
        y, winner = maximum(windows, x)
        return y, (winner, Static(windows))

    def pull_back(self, residuals: Any, dy: Float[Array, "batch *output channels"]):
        winner, windows = residuals
        return collect(windows.value, dy, winner)


class avg_pool(_Pool):
    """y[o] = 1/n Σ over the elements e of x[o · stride + e · dilation]; each receives dy[o] / n.

    x is [batch, *spatial, channels]; n is the number of elements of the window that lie on the
    input, or with ``count_include_pad`` on the padded input, whose padding is zeros; what only
    ``ceil_mode`` adds is never counted.
    """

    _: KW_ONLY
    count_include_pad: bool = False

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        windows = self.windows(x)
        return self._mean(windows, total(windows, x)).astype(x.dtype), Static(windows)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch *output channels"]):
        share = self._mean(residuals.value, dy.astype(sum_dtype(dy.dtype)))
        return collect(residuals.value, share).astype(dy.dtype)

    def _mean(self, windows: Windows, sums: Array) -> Array:
        if self.count_include_pad:
            facts = (windows.size, windows.window, windows.strides, windows.dilation)
            pairs = resolve_padding(self.padding, *facts)
            size = tuple(n + sum(pair) for n, pair in zip(windows.size, pairs, strict=True))
            windows = replace(windows, size=size, padding=((0, 0),) * len(size))
        return sums / windows.counts(sums.dtype)


def _require_output_size(where: str, name: str, value: Any) -> Any:
    if isinstance(value, tuple | list):
        sizes = require_sizes(where, name, [1 if size is None else size for size in value])
        return tuple(None if own is None else n for own, n in zip(value, sizes, strict=True))
    return None if value is None else require_sizes(where, name, value)


class _AdaptivePool(ParameterFree):
    """Base of pooling layers whose windows follow from the size of y.

    Args:
        output_size: The size of y in each spatial dimension; one stands for all of them. None is
            that of x.

    Raises:
        TypeError: x is not floating-point, or a size is not an integer.
        ValueError: x has another rank than ``output_size``, or a size is below 1.
    """

    output_size: Annotated[int | tuple[int | None, ...] | None, _require_output_size]

    mixes = False

    def sizes(self, x: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The spatial sizes of x and of y."""
        dimensions = spatial_dimensions(self.name, output_size=self.output_size)
        size = require_spatial(self.name, x, dimensions)
        wanted = per_dimension(self.output_size, len(size))
        return size, tuple(n if m is None else m for n, m in zip(size, wanted, strict=True))


class adaptive_max_pool(_AdaptivePool):
    """y[o] = max of x over bin o, of as many bins as y is to have elements; dy goes to the winner.

    x is [batch, *spatial, channels], y [batch, *output_size, channels]. Along an axis of n elements
    of x and m of y, bin o holds those from ⌊o n / m⌋ to ⌈(o + 1) n / m⌉, the last one excluded, as
    in PyTorch: bins may share an element, which then receives the sum of what it won. Ties and NaN
    are as in `max_pool`; the winner's position is kept.
    """

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        size, output_size = self.sizes(x)
        winner = bins.first_maxima(x, output_size)
        return gathered(x, winner), (winner, Static(size))

    def pull_back(self, residuals: Any, dy: Float[Array, "batch *output channels"]):
        winner, size = residuals
        return scattered(dy, winner, size.value)


class adaptive_avg_pool(_AdaptivePool):
    """y[o] = mean of x over bin o, of as many bins as y is to have elements.

    Shapes and bins are those of `adaptive_max_pool`. With n_o the number of elements of bin o,

        dx[p] = Σ dy[o] / n_o   over the bins o that hold p.

    Those are again a bin: p of n elements lies in bin o of m where the stretches [p, p + 1) / n and
    [o, o + 1) / m meet, which is the same the other way about. So backward is the sum over the n
    bins of m elements.
    """

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        size, output_size = self.sizes(x)
        sums = bins.sums(x.astype(sum_dtype(x.dtype)), output_size)
        return (sums / bins.counts(size, output_size)).astype(x.dtype), Static(size)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch *output channels"]):
        size = residuals.value
        share = dy.astype(sum_dtype(dy.dtype)) / bins.counts(size, dy.shape[1:-1])
        return bins.sums(share, size).astype(dy.dtype)


class global_max_pool(ParameterFree):
    """y = max over all positions, channel by channel: [batch, *spatial, channels] to one vector.

    y is [batch, channels]. dy goes to the winner; ties, NaN and what is kept are as in `max_pool`.
    """

    mixes = False

    def predict(self, params: Any, state: Any, x: Float[Array, "batch *spatial channels"]):
        return jnp.max(x, range(1, len(require_spatial("global_max_pool", x)) + 1))

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("global_max_pool", x)
        positions = x.reshape(x.shape[0], math.prod(sizes), x.shape[-1])
        y, winner = first_maximum(positions)
        return y, (winner, Static(sizes))

    def pull_back(self, residuals: Any, dy: Float[Array, "batch channels"]):
        winner, sizes = residuals
        dx = jnp.where(indices(math.prod(sizes.value)) == winner[:, None], dy[:, None], 0)
        return dx.reshape(dy.shape[0], *sizes.value, dy.shape[-1])


class global_avg_pool(ParameterFree):
    """y = mean over all positions, channel by channel: [batch, *spatial, channels] to one vector.

    y is [batch, channels]; of n positions, each receives dy / n.
    """

    mixes = False

    def apply(self, x: Float[Array, "batch *spatial channels"]):
        sizes = require_spatial("global_avg_pool", x)
        return jnp.mean(x, range(1, x.ndim - 1)), Static(sizes)

    def pull_back(self, residuals: Static, dy: Float[Array, "batch channels"]):
        sizes = residuals.value
        share = (dy.astype(sum_dtype(dy.dtype)) / math.prod(sizes)).astype(dy.dtype)
        share = jnp.expand_dims(share, range(1, len(sizes) + 1))
        return jnp.broadcast_to(share, (dy.shape[0], *sizes, dy.shape[-1]))
