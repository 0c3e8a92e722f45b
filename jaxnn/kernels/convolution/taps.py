"""Convolution by a kernel of any size, a few of its taps at a time: a program of a fixed length.

For each tap t of the kernel, with x_t what it meets in every window,

    y = Σ_t x_t W_t,   ∂L/∂W_t = Σ_batch Σ_position x_tᵀ dy,

and dx is the same sum as y: of the deltas, spread by the strides, and the mirrored kernel. Other
algorithms write the sum out, in a program that grows with the kernel.
"""

import functools
import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.kernels.convolution.geometry import (
    Geometry,
    pad,
    spread,
    to_groups,
    transposed_kernel,
)
from jaxnn.kernels.products import sum_dtype

AT_A_TIME = 16
"""How many taps are terms of one step of the loop."""


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [*kernel, in of a group, out]."""
    groups, inputs, outputs = geometry.groups, *weight.shape[-2:]
    dtype = sum_dtype(x.dtype)
    by_tap = to_groups(weight.reshape(geometry.taps, inputs, outputs), groups).astype(dtype)

    # Not kept for autodiff: the windows of all steps, as many times x as there are taps.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(total: Array, taps: tuple):
        terms = (_product(a, w) for a, w in zip(windows(taps[0]), taps[1], strict=True))
        return functools.reduce(jnp.add, terms, total), None

    starts, windows = _windows(x.astype(dtype), geometry)
    zeros = jnp.zeros((len(x), *geometry.output_size, groups, outputs // groups), dtype)
    y, _ = lax.scan(step, zeros, (starts, _in_steps(by_tap)))
    return y.reshape(*y.shape[:-2], outputs).astype(x.dtype)


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    kernel = transposed_kernel(weight, geometry.groups)
    return forward(spread(dy, geometry), kernel, geometry.transposed)


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [*kernel, in of a group, out] from x and the deltas dy."""
    dtype = sum_dtype(dy.dtype)
    deltas = to_groups(dy.astype(dtype), geometry.groups)
    starts, windows = _windows(x.astype(dtype), geometry)

    def of_step(starts: Array):
        return jnp.stack([_contraction(a, deltas) for a in windows(starts)])

    taps = lax.map(of_step, starts).reshape(-1, x.shape[-1] // geometry.groups, dy.shape[-1])
    taps = taps[: geometry.taps].reshape(*geometry.kernel_size, *taps.shape[1:])
    return taps.astype(dy.dtype)


def _product(a: Array, w: Array) -> Array:
    """a [..., groups, in] times w [in, groups, out], [..., groups, out]."""
    if len(w) == 1:
        return a * w[0]
    return jnp.einsum("...gi,igo->...go", a, w)


def _contraction(a: Array, d: Array) -> Array:
    """Σ aᵀ d over all but the last two axes, [in, groups, out], of [..., groups, in or out]."""
    if a.shape[-1] > 1:
        return jnp.einsum("b...gi,b...go->igo", a, d)
    # As a product of matrices: XLA for CPU reduces leading axes slowly.
    products = (a * d).reshape(-1, d.shape[-2] * d.shape[-1])
    return (jnp.ones(len(products), d.dtype) @ products).reshape(1, *d.shape[-2:])


def _windows(x: Array, geometry: Geometry) -> tuple[Array, Callable]:
    """Where the taps of each step begin, [steps, AT_A_TIME, dimensions], and what those of a step
    meet: one [batch, *output_size, groups, in] for each."""
    kernel = itertools.product(*map(range, geometry.kernel_size))
    starts = np.asarray(list(kernel), np.int32) * np.asarray(geometry.dilation, np.int32)
    starts = jnp.asarray(np.pad(starts, ((0, 0), (1, 1))))  # of batch and channels 0
    padded = pad(x, geometry.padding)
    size = (len(x), *geometry.spread_size, x.shape[-1])
    strides = (1, *geometry.strides, 1)

    def windows(starts: Array):
        for start in starts:
            a = lax.dynamic_slice(padded, start, size, allow_negative_indices=False)
            yield to_groups(lax.slice(a, (0,) * a.ndim, a.shape, strides), geometry.groups)

    return _in_steps(starts), windows


def _in_steps(by_tap: Array) -> Array:
    """[taps, …] as [steps, AT_A_TIME, …], filled up with zeros."""
    more = -len(by_tap) % AT_A_TIME
    filled = jnp.pad(by_tap, ((0, more), *((0, 0),) * (by_tap.ndim - 1)))
    return filled.reshape(-1, AT_A_TIME, *by_tap.shape[1:])
