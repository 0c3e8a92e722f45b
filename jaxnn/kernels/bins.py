"""Bins that divide an axis into parts as equal as whole elements allow: sums and maxima over them.

Of n elements, bin o of m holds those from ⌊o n / m⌋ to ⌈(o + 1) n / m⌉, the last one excluded: all
that the m-th part of the axis from o n / m to (o + 1) n / m touches. So neighbours may share an
element; and element p of n lies in bin o of m exactly where element o of m lies in bin p of n.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def bins(elements: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What each bin holds, [count, longest], and whether it does: a shorter one is filled up."""
    o = np.arange(count)
    starts, ends = o * elements // count, -(-(o + 1) * elements // count)
    positions = starts[:, None] + np.arange((ends - starts).max())
    inside = positions < ends[:, None]
    return np.where(inside, positions, starts[:, None]), inside


def counts(size: tuple[int, ...], output_size: tuple[int, ...]) -> np.ndarray:
    """[*output, 1]: how many elements each bin holds."""
    lengths = [bins(n, m)[1].sum(axis=1) for n, m in zip(size, output_size, strict=True)]
    return functools.reduce(np.multiply.outer, lengths)[..., None]


def sums(a: Array, output_size: tuple[int, ...]) -> Array:
    """Σ over each bin of a [batch, *size, channels], in the dtype of a."""
    for axis, count in enumerate(output_size, start=1):
        members, inside = _members(a, axis, count)
        a = jnp.sum(jnp.where(inside, members, 0), axis + 1)
    return a


def first_maxima(x: Array, output_size: tuple[int, ...]) -> Array:
    """The row-major position on the input of the first maximum of each bin, a NaN taken for it."""
    size = x.shape[1:-1]
    value = lax.stop_gradient(x)
    at = jnp.broadcast_to(jnp.arange(math.prod(size)).reshape(*size, 1), x.shape)
    for axis in reversed(range(1, x.ndim - 1)):
        members, _ = _members(value, axis, output_size[axis - 1])
        # What fills a bin up repeats its first element, which comes first.
        won = jnp.argmax(members, axis + 1, keepdims=True)
        places, _ = _members(at, axis, output_size[axis - 1])
        value, at = (
            jnp.take_along_axis(a, won, axis + 1).squeeze(axis + 1) for a in (members, places)
        )
    return at


def _members(a: Array, axis: int, count: int) -> tuple[Array, Array]:
    """What each bin along an axis holds, in two axes [count, longest], and whether it does."""
    positions, inside = bins(a.shape[axis], count)
    inside = inside.reshape(*inside.shape, *(1,) * (a.ndim - axis - 1))
    return jnp.take(a, positions, axis), jnp.asarray(inside)
