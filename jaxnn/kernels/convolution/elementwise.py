"""Convolution of groups with one input channel each, as sums of multiples.

Depthwise convolutions, and those of images with one channel: a product with an inner axis of length
1 is no product. For each tap t of the kernel

    y = Σ_t x_t · w_t,   ∂L/∂x_t = Σ_out dy · w_t,   ∂L/∂w_t = Σ_batch Σ_position x_t · dy

with x_t what tap t meets in every window; XLA fuses each sum into one loop.
"""

import functools

import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.convolution.geometry import Geometry, to_groups
from jaxnn.kernels.convolution.patches import fold, slices
from jaxnn.kernels.products import sum_dtype

TAKES = "one input channel for each group"


def applies(geometry: Geometry, inputs: int) -> bool:
    """Whether there is one input channel for each group."""
    return inputs == geometry.groups


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [*kernel, 1, out]."""
    taps = zip(slices(_wide(x), geometry), _by_tap(weight, geometry), strict=True)
    y = functools.reduce(jnp.add, (a[..., None] * w for a, w in taps))
    return y.reshape(*y.shape[:-2], weight.shape[-1]).astype(x.dtype)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    deltas = to_groups(_wide(dy), geometry.groups)
    patches = (jnp.sum(deltas * w, axis=-1) for w in _by_tap(weight, geometry))
    return fold(patches, geometry).astype(dy.dtype)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [*kernel, 1, out] from x and the deltas dy."""
    deltas = to_groups(_wide(dy), geometry.groups)
    everywhere = tuple(range(dy.ndim - 1))
    taps = [jnp.sum(a[..., None] * deltas, everywhere) for a in slices(x, geometry)]
    return jnp.stack(taps).astype(dy.dtype).reshape(*geometry.kernel_size, 1, dy.shape[-1])


def _by_tap(weight: Array, geometry: Geometry) -> Array:
    """[taps, groups, out of a group]."""
    return to_groups(_wide(weight).reshape(geometry.taps, weight.shape[-1]), geometry.groups)


def _wide(a: Array) -> Array:
    return a.astype(sum_dtype(a.dtype))
