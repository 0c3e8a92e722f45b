"""Random changes of training images, as layers: inference leaves an image alone.

Because they are layers, they run on the device inside of the compiled epoch, and dx is defined:
each of them moves pixels, so its backward moves the delta of every pixel back to where it came
from. x is [batch, *spatial, channels].
"""

import abc
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.combinators import identity
from jaxnn.core.contract import Layer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import require_key
from jaxnn.layers.windows import (
    Sizes,
    per_dimension,
    require_sizes,
    require_spatial,
    spatial_dimensions,
)


class _Moving(Layer):
    """Base of layers that move the pixels of every example as a draw says, in training alone."""

    mixes = False

    @abc.abstractmethod
    def draw(self, key: Array, x: Array) -> Array:
        """What is drawn for each example, batch first."""

    @abc.abstractmethod
    def move(self, x: Array, drawn: Array) -> Array:
        """y."""

    @abc.abstractmethod
    def move_back(self, dy: Array, drawn: Array, shape: tuple[int, ...]) -> Array:
        """dx, whose examples have that shape: the adjoint of ``move``."""

    @property
    def dimensions(self) -> int | None:
        """How many spatial dimensions x must have; None for any number."""
        return None

    def at_rest(self) -> Layer:
        return identity()

    def init(self, key: Array | None, x: Any):
        jax.eval_shape(partial(self.predict, (), ()), x)
        return (), ()

    def predict(self, params: Any, state: Any, x: Array):
        require_spatial(self.name, x, self.dimensions)
        return x

    def forward(self, params: Any, state: Any, x: Array, key: Array | None):
        require_spatial(self.name, x, self.dimensions)
        drawn = self.draw(require_key(self.name, key), x)
        return self.move(x, drawn), state, (drawn, Static(tuple(x.shape[1:])))

    def backward(self, params: Any, residuals: Any, dy: Array):
        drawn, shape = residuals
        return self.move_back(dy, drawn, shape.value), ()


class random_flip(_Moving):
    """Each example mirrored along its last spatial axis (left and right) with probability 1/2.

    dx is dy with the same examples mirrored.

    Raises:
        ValueError: Training is asked for without a key, or x has no spatial axis.
    """

    def draw(self, key: Array, x: Array):
        return jax.random.bernoulli(key, shape=x.shape[:1])

    def move(self, x: Array, drawn: Array):
        return jnp.where(jnp.expand_dims(drawn, range(1, x.ndim)), jnp.flip(x, -2), x)

    def move_back(self, dy: Array, drawn: Array, shape: tuple[int, ...]):
        return self.move(dy, drawn)


class random_crop(_Moving):
    """A window of ``size`` cut out of each example at a random place; inference cuts the middle.

    y is [batch, *size, channels]; dx is dy at the place of the window, and 0 elsewhere.

    Raises:
        ValueError: The window does not fit into x, or training is asked for without a key.
    """

    size: Sizes

    @property
    def dimensions(self) -> int | None:
        return spatial_dimensions(self.name, size=self.size)

    def at_rest(self) -> Layer:
        return center_crop(self.size)

    def predict(self, params: Any, state: Any, x: Array):
        _room(self.name, x, self.size)
        return center_crop(self.size).predict(params, state, x)

    def draw(self, key: Array, x: Array):
        room = jnp.array(_room(self.name, x, self.size))
        return jax.random.randint(key, (x.shape[0], x.ndim - 2), 0, room + 1)

    def move(self, x: Array, drawn: Array):
        return _cut(x, drawn, per_dimension(self.size, x.ndim - 2))

    def move_back(self, dy: Array, drawn: Array, shape: tuple[int, ...]):
        return _paste(dy, drawn, shape)


class random_shift(_Moving):
    """Each example moved by up to ``distance`` pixels either way along each spatial axis.

    What comes in at the border is 0; dx is dy moved back.

    Raises:
        ValueError: Training is asked for without a key, or x has no spatial axis.
    """

    distance: Annotated[int | tuple[int, ...], partial(require_sizes, minimum=0)]

    @property
    def dimensions(self) -> int | None:
        return spatial_dimensions(self.name, distance=self.distance)

    def draw(self, key: Array, x: Array):
        return jax.random.randint(key, (x.shape[0], x.ndim - 2), 0, self._most(x) + 1)

    def move(self, x: Array, drawn: Array):
        margins = per_dimension(self.distance, x.ndim - 2)
        padded = jnp.pad(x, [(0, 0), *((m, m) for m in margins), (0, 0)])
        return _cut(padded, drawn, x.shape[1:-1])

    def move_back(self, dy: Array, drawn: Array, shape: tuple[int, ...]):
        return self.move(dy, self._most(dy) - drawn)

    def _most(self, x: Array) -> Array:
        return 2 * jnp.array(per_dimension(self.distance, x.ndim - 2))


class center_crop(ParameterFree):
    """The middle of each example, y [batch, *size, channels]: `random_crop` in inference.

    dx is dy there, and 0 elsewhere.

    Raises:
        ValueError: ``size`` does not fit into x.
    """

    size: Sizes

    mixes = False

    def apply(self, x: Array):
        corner = [free // 2 for free in _room(self.name, x, self.size)]
        size = per_dimension(self.size, len(corner))
        inside = tuple((low, low + n) for low, n in zip(corner, size, strict=True))
        return x[:, *(slice(*bounds) for bounds in inside)], Static((tuple(x.shape[1:-1]), inside))

    def pull_back(self, residuals: Static, dy: Array):
        around = [(low, n - high) for n, (low, high) in zip(*residuals.value, strict=True)]
        return jnp.pad(dy, [(0, 0), *around, (0, 0)])


def _room(where: str, x: Array, size: Sizes) -> list[int]:
    """How much larger x is than a window of ``size``, in each spatial dimension."""
    require_spatial(where, x, spatial_dimensions(where, size=size))
    window = per_dimension(size, len(x.shape) - 2)
    free = [have - want for have, want in zip(x.shape[1:-1], window, strict=True)]
    if min(free) < 0:
        raise ValueError(
            f"{where}: expected size to fit into x of shape {tuple(x.shape)}, got {size}"
        )
    return free


def _cut(x: Array, corners: Array, size: tuple[int, ...]) -> Array:
    """The window of ``size`` at each example's corner [batch, spatial dimensions]."""

    def cut_one(image: Array, corner: Array):
        return jax.lax.dynamic_slice(image, (*corner, 0), (*size, image.shape[-1]))

    return jax.vmap(cut_one)(x, corners)


def _paste(dy: Array, corners: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of `_cut`: each dy at its corner of an example of zeros."""

    def paste_one(image: Array, corner: Array):
        return jax.lax.dynamic_update_slice(jnp.zeros(shape, dy.dtype), image, (*corner, 0))

    return jax.vmap(paste_one)(dy, corners)
