"""Random changes of training images, as layers: inference leaves an image alone.

Because they are layers, they run on the device inside of the compiled epoch, and dx is defined:
each of them moves pixels, so its backward moves the delta of every pixel back to where it came
from. x is [batch, *spatial, channels].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.layer import Layer, Static, parameter_free
from jaxnn.core.validation import require_key
from jaxnn.layers.windows import (
    Sizes,
    per_dimension,
    require_sizes,
    require_spatial,
    spatial_dimensions,
)


def random_flip() -> Layer:
    """Each example mirrored along its last spatial axis (left and right) with probability 1/2.

    dx is dy with the same examples mirrored.

    Raises:
        ValueError: Training is asked for without a key, or x has no spatial axis.
    """

    def draw(key: Array, x: Array):
        return jax.random.bernoulli(key, shape=x.shape[:1])

    def flip(x: Array, chosen: Array):
        return jnp.where(jnp.expand_dims(chosen, range(1, x.ndim)), jnp.flip(x, -2), x)

    return _augmentation(
        "random_flip", None, draw, flip, lambda chosen, dy, shape: flip(dy, chosen)
    )


def random_crop(size: Sizes) -> Layer:
    """A window of ``size`` cut out of each example at a random place; inference cuts the middle.

    y is [batch, *size, channels]; dx is dy at the place of the window, and 0 elsewhere.

    Raises:
        ValueError: The window does not fit into x, or training is asked for without a key.
    """
    require_sizes("random_crop", "size", size)
    dimensions = spatial_dimensions("random_crop", size=size)

    def room(x: Any) -> Array:
        window = per_dimension(size, len(x.shape) - 2)
        free = [have - want for have, want in zip(x.shape[1:-1], window, strict=True)]
        if min(free) < 0:
            raise ValueError(
                f"random_crop: expected size to fit into x of shape {tuple(x.shape)}, got {size}"
            )
        return jnp.array(free)

    def draw(key: Array, x: Array):
        return jax.random.randint(key, (x.shape[0], x.ndim - 2), 0, room(x) + 1)

    def cut(x: Array, corners: Array):
        return _cut(x, corners, per_dimension(size, x.ndim - 2))

    def middle(x: Array):
        return jnp.broadcast_to(room(x) // 2, (x.shape[0], x.ndim - 2))

    return _augmentation("random_crop", dimensions, draw, cut, _paste, middle)


def random_shift(distance: Sizes) -> Layer:
    """Each example moved by up to ``distance`` pixels either way along each spatial axis.

    What comes in at the border is 0; dx is dy moved back.

    Raises:
        ValueError: Training is asked for without a key, or x has no spatial axis.
    """
    require_sizes("random_shift", "distance", distance, 0)
    dimensions = spatial_dimensions("random_shift", distance=distance)

    def margins(rank: int) -> tuple[int, ...]:
        return per_dimension(distance, rank - 2)

    def draw(key: Array, x: Array):
        most = 2 * jnp.array(margins(x.ndim))
        return jax.random.randint(key, (x.shape[0], x.ndim - 2), 0, most + 1)

    def shift(x: Array, corners: Array):
        around = [(0, 0), *((m, m) for m in margins(x.ndim)), (0, 0)]
        return _cut(jnp.pad(x, around), corners, x.shape[1:-1])

    def shift_back(corners: Array, dy: Array, shape: tuple[int, ...]):
        return shift(dy, 2 * jnp.array(margins(dy.ndim)) - corners)

    return _augmentation("random_shift", dimensions, draw, shift, shift_back)


def _augmentation(
    name: str,
    dimensions: int | None,
    draw: Callable,
    apply: Callable,
    undo: Callable,
    rest: Callable | None = None,
) -> Layer:
    """A layer that moves pixels as a draw says.

    Args:
        name: For summaries and errors.
        dimensions: How many spatial dimensions x must have; None for any.
        draw: (key, x) -> what is drawn, batch first.
        apply: (x, drawn) -> y.
        undo: (drawn, dy, shape of an example of x) -> dx, the adjoint of ``apply``.
        rest: x -> what stands for the draw in inference; None where that is the identity.
    """

    def still_forward(x: Array):
        require_spatial(name, x, dimensions)
        return (x, None) if rest is None else moved(x, rest(x))

    def still_backward(residuals: Any, dy: Array):
        return dy if residuals is None else moved_back(residuals, dy)

    def moved(x: Array, drawn: Array):
        return apply(x, drawn), (drawn, Static(tuple(x.shape[1:])))

    def moved_back(residuals: Any, dy: Array):
        drawn, shape = residuals
        return undo(drawn, dy, shape.value)

    def forward(params: Any, state: Any, x: Array, key: Array | None):
        require_spatial(name, x, dimensions)
        y, residuals = moved(x, draw(require_key(name, key), x))
        return y, state, residuals

    def backward(params: Any, residuals: Any, dy: Array):
        return moved_back(residuals, dy), ()

    still = parameter_free(name, still_forward, still_backward)
    return Layer(still.init, still.predict, forward, backward, name, inference=still)


def _cut(x: Array, corners: Array, size: tuple[int, ...]) -> Array:
    """The window of ``size`` at each example's corner [batch, spatial dimensions]."""

    def cut_one(image: Array, corner: Array):
        return jax.lax.dynamic_slice(image, (*corner, 0), (*size, image.shape[-1]))

    return jax.vmap(cut_one)(x, corners)


def _paste(corners: Array, dy: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of `_cut`: each dy at its corner of an example of zeros."""

    def paste_one(image: Array, corner: Array):
        return jax.lax.dynamic_update_slice(jnp.zeros(shape, dy.dtype), image, (*corner, 0))

    return jax.vmap(paste_one)(dy, corners)
