"""What every algorithm of a convolution must know beside the arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

Pairs: TypeAlias = tuple[tuple[int, int], ...]
"""(low, high) for each spatial dimension: how much is added before and after."""


def extent(window: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How far a window reaches when its elements stand ``dilation`` apart."""
    return tuple((w - 1) * d + 1 for w, d in zip(window, dilation, strict=True))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Geometry:
    """A convolution of inputs [batch, *size, channels] that are padded with zeros."""

    size: tuple[int, ...]
    """Of the input, in each spatial dimension."""
    output_size: tuple[int, ...]
    """Of the output, in each spatial dimension."""
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int

    @property
    def dimensions(self) -> int:
        """How many spatial dimensions there are."""
        return len(self.size)

    @property
    def taps(self) -> int:
        """How many elements a kernel has for one channel."""
        return math.prod(self.kernel_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """How far a kernel reaches, dilation included."""
        return extent(self.kernel_size, self.dilation)

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """The axes 1, 2, … of an array [batch, *size, channels]."""
        return tuple(range(1, self.dimensions + 1))

    @property
    def spread_size(self) -> tuple[int, ...]:
        """Of the output when its elements stand a stride apart, as `spread` sets them."""
        pairs = zip(self.output_size, self.strides, strict=True)
        return tuple((n - 1) * stride + 1 for n, stride in pairs)

    @property
    def transposed(self) -> "Geometry":
        """The convolution that takes spread deltas back to the input, with `transposed_kernel`.

        It has stride 1; its padding is negative where this one pads more than a kernel reaches.
        """
        padding = tuple(
            (reach - 1 - low, size + low - spread)
            for reach, size, (low, _), spread in zip(
                self.extent, self.size, self.padding, self.spread_size, strict=True
            )
        )
        return Geometry(
            size=self.spread_size,
            output_size=self.size,
            kernel_size=self.kernel_size,
            strides=(1,) * self.dimensions,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )


def pad(x: Array, padding: Pairs, interior: tuple[int, ...] | None = None) -> Array:
    """Zeros around the spatial axes, and ``interior`` many between neighbours.

    A negative number cuts off as many.
    """
    between = interior or (0,) * len(padding)
    *outer, last = [(low, high, n) for (low, high), n in zip(padding, between, strict=True)]
    zero = jnp.zeros((), x.dtype)
    if last[2]:
        return jax.lax.pad(x, zero, [(0, 0, 0), *outer, last, (0, 0, 0)])
    # Columns and channels as one axis, a stretch of memory: the loop is compiled in a quarter of
    # the time.
    *_, columns, channels = x.shape
    joined = x.reshape(*x.shape[:-2], columns * channels)
    low, high, _ = last
    padded = jax.lax.pad(joined, zero, [(0, 0, 0), *outer, (low * channels, high * channels, 0)])
    return padded.reshape(*padded.shape[:-1], low + columns + high, channels)


def spread(dy: Array, geometry: Geometry) -> Array:
    """dy with zeros between its elements, which then stand where their windows begin."""
    between = tuple(stride - 1 for stride in geometry.strides)
    return pad(dy, ((0, 0),) * geometry.dimensions, between)


def to_groups(a: Array, groups: int) -> Array:
    """[..., channels] as [..., groups, channels of a group]."""
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)


def transposed_kernel(weight: Array, groups: int) -> Array:
    """[*kernel, in of a group, out] as [*kernel, out of a group, in], mirrored in space.

    A convolution with it takes the deltas of the outputs back to the inputs.
    """
    *kernel, inputs, outputs = weight.shape
    exchanged = jnp.moveaxis(to_groups(weight, groups), -3, -1)  # [*kernel, groups, out, in]
    exchanged = jnp.moveaxis(exchanged, -2, -3).reshape(*kernel, outputs // groups, groups * inputs)
    return jnp.flip(exchanged, tuple(range(len(kernel))))
