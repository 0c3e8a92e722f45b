"""Convolution as one product: every window unfolded into a row, its patch.

    y = patches · W,   ∂L/∂patches = dy · Wᵀ,   ∂L/∂W = patchesᵀ · dy

The patches are strided slices of the padded input, one for each tap (element) of the kernel; the
input gradient adds the slices of ∂L/∂patches back where they were taken from.
"""

import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.kernels.convolution.geometry import Geometry, pad, to_groups
from jaxnn.kernels.products import contract_rows, sum_dtype


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [*kernel, in of a group, out]."""
    y = rows(unfold(x, geometry), geometry.groups) @ _matrices(weight, geometry)
    y = jnp.moveaxis(y, 0, -2)  # [batch, positions, groups, out of a group]
    return y.reshape(x.shape[0], *geometry.output_size, weight.shape[-1])


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    groups, inputs = geometry.groups, weight.shape[-2]
    matrices = jnp.swapaxes(_matrices(weight, geometry), -1, -2)
    products = jnp.matmul(
        rows(dy[..., None, :], groups), matrices, preferred_element_type=sum_dtype(dy.dtype)
    )
    patches = jnp.moveaxis(products, 0, -2)
    by_tap = (dy.shape[0], *geometry.output_size, groups, geometry.taps, inputs)
    patches = jnp.moveaxis(patches.reshape(by_tap), -2, 0)
    dx = fold((p.reshape(*p.shape[:-2], groups * inputs) for p in patches), geometry)
    return dx.astype(dy.dtype)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [*kernel, in of a group, out] from x and the deltas dy.

    The patches are made along the last axis alone, since one copy of x for each tap would be large,
    and where it has a stride not even there: what they cost then is more than they spare. Along the
    other axes x is shifted for one product after the other; or, where the stride is 1, the deltas
    are shifted the other way, which makes one large product.
    """
    last, groups = geometry.dimensions - 1, geometry.groups
    unfolded = {last} if geometry.strides[last] == 1 else set()
    axes = _axes_shifted_in_deltas(geometry, x.shape[-1], dy.shape[-1])
    of_dy = _along(axes, geometry.transposed, geometry.output_size)
    deltas = rows(unfold(dy, of_dy), groups)

    patches = unfold(x, _along(unfolded, geometry, geometry.size))
    size = (*geometry.size[:-1], patches.shape[-3])
    shifts = _along(set(range(last + 1)) - axes - unfolded, geometry, size)
    products = [
        _contract(
            rows(shifted.reshape(*shifted.shape[:-1], *patches.shape[-2:]), groups),
            deltas,
        )
        for shifted in slices(
            patches.reshape(*patches.shape[:-2], patches.shape[-2] * x.shape[-1]), shifts
        )
    ]
    of_x = (*shifts.kernel_size[:-1], geometry.kernel_size[-1])
    gradient = _taps_together(jnp.concatenate(products, axis=1), of_x, of_dy.kernel_size)
    return gradient.astype(dy.dtype)


def slices(x: Array, geometry: Geometry) -> Iterator[Array]:
    """What each tap, in row-major order, meets in the windows: [batch, *output_size, in]."""
    padded = pad(x, geometry.padding)
    for start in _starts(geometry):
        stop = (s + size for s, size in zip(start, geometry.spread_size, strict=True))
        yield lax.slice(
            padded, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *geometry.strides, 1)
        )


def unfold(x: Array, geometry: Geometry) -> Array:
    """The patches [batch, *output_size, taps, in]."""
    return jnp.stack(list(slices(x, geometry)), axis=-2)


def fold(patches: Iterator[Array], geometry: Geometry) -> Array:
    """What belongs to each tap, in the dtype of sums, added back to where `slices` took it from:
    [batch, *size, in]."""
    between = tuple(stride - 1 for stride in geometry.strides)

    def place(patch: Array, start: tuple[int, ...]) -> Array:
        around = tuple(
            (s - low, size + low - s - spread)
            for s, size, (low, _), spread in zip(
                start, geometry.size, geometry.padding, geometry.spread_size, strict=True
            )
        )
        return pad(patch, around, between)

    first, *others = map(place, patches, _starts(geometry))
    return sum(others, start=first)


def rows(patches: Array, groups: int) -> Array:
    """[batch, *positions, taps, channels] as [groups, batch, positions, taps · channels]."""
    a = jnp.moveaxis(to_groups(patches, groups), -2, 0)
    batch, *positions, taps, channels = a.shape[1:]
    return a.reshape(groups, batch, math.prod(positions), taps * channels)


def _contract(inputs: Array, deltas: Array) -> Array:
    """Σ inputsᵀ · deltas over the rows of each group, [groups, in, out]."""
    if inputs.shape[0] == 1:
        return contract_rows(inputs, deltas)[None]
    dtype = sum_dtype(deltas.dtype)
    return jnp.einsum("gbpi,gbpo->gio", inputs, deltas, preferred_element_type=dtype)


def _matrices(weight: Array, geometry: Geometry) -> Array:
    """[groups, 1, taps · in of a group, out of a group]."""
    flat = weight.reshape(-1, weight.shape[-1])
    return jnp.moveaxis(to_groups(flat, geometry.groups), -2, 0)[:, None]


def _starts(geometry: Geometry) -> Iterator[tuple[int, ...]]:
    """Where the slice of each tap begins in the padded input."""
    for tap in itertools.product(*map(range, geometry.kernel_size)):
        yield tuple(t * d for t, d in zip(tap, geometry.dilation, strict=True))


def _axes_shifted_in_deltas(geometry: Geometry, inputs: int, outputs: int) -> set[int]:
    """The spatial axes, all but the last or none, along which shifting the deltas copies less."""
    leading = range(geometry.dimensions - 1)
    in_deltas = math.prod(geometry.kernel_size[:-1])
    shifted_inputs = geometry.taps * inputs + outputs
    shifted_both = geometry.kernel_size[-1] * inputs + in_deltas * outputs
    if all(geometry.strides[axis] == 1 for axis in leading) and shifted_both < shifted_inputs:
        return set(leading)
    return set()


def _along(axes: set[int], geometry: Geometry, size: tuple[int, ...]) -> Geometry:
    """The geometry along some axes; along the others, which have this size, a kernel of one tap."""

    def choose(values: tuple, others: tuple) -> tuple:
        pairs = enumerate(zip(values, others, strict=True))
        return tuple(value if axis in axes else other for axis, (value, other) in pairs)

    ones = (1,) * geometry.dimensions
    return Geometry(
        size=choose(geometry.size, size),
        output_size=choose(geometry.output_size, size),
        kernel_size=choose(geometry.kernel_size, ones),
        strides=choose(geometry.strides, ones),
        padding=choose(geometry.padding, ((0, 0),) * geometry.dimensions),
        dilation=choose(geometry.dilation, ones),
        groups=geometry.groups,
    )


def _taps_together(products: Array, of_x: tuple[int, ...], of_dy: tuple[int, ...]) -> Array:
    """[groups, taps of x · in, taps of dy · out] as [*kernel, in, groups · out].

    Of every kernel axis either x or dy has the taps; those of dy were shifted the other way.
    """
    groups, dimensions = products.shape[0], len(of_x)
    inputs, outputs = (
        width // math.prod(taps)
        for width, taps in zip(products.shape[1:], (of_x, of_dy), strict=True)
    )
    a = products.reshape(groups, *of_x, inputs, *of_dy, outputs)
    x_axes = range(1, dimensions + 1)
    dy_axes = range(dimensions + 2, 2 * dimensions + 2)
    a = jnp.flip(a, tuple(dy_axes))
    kernel = (axis for pair in zip(x_axes, dy_axes, strict=True) for axis in pair)
    a = jnp.transpose(a, (*kernel, dimensions + 1, 0, 2 * dimensions + 2))
    sizes = tuple(i * o for i, o in zip(of_x, of_dy, strict=True))
    return a.reshape(*sizes, inputs, groups * outputs)
