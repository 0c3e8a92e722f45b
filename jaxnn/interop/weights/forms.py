"""How another library lays out the parameters of one layer: a bijection, written once.

Arrays of a layer have their paths in its params and state for names, joined by dots: ``weight``,
``input.weight``, ``mean``; those of the other library have the names that it gives them within a
module. Functions work on arrays of NumPy and JAX and on shapes (`jax.eval_shape`), by which a
module is compared with a layer before a number is moved.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.interop.weights.tensors import described

Arrays = dict[str, Any]


class Form(NamedTuple):
    """The two directions."""

    write: Callable[[Arrays], Arrays]
    """(arrays of the layer) -> those of the other library."""
    read: Callable[[Arrays], Arrays]
    """Its inverse."""

    def after(self, write: Callable[[Arrays], Arrays], read: Callable[[Arrays], Arrays]) -> "Form":
        """With another bijection of the layer's own arrays before this one."""
        return Form(lambda own: self.write(write(own)), lambda theirs: read(self.read(theirs)))

    def expected(self, own: Mapping[str, Any]) -> dict[str, str]:
        """What `described` says of the other library's arrays, for the shapes of the layer's."""
        theirs = jax.eval_shape(self.write, dict(own))
        return {name: described(leaf) for name, leaf in theirs.items()}


def moved(**moves: str | tuple[str, tuple[int, ...]]) -> Form:
    """One array for one: own name = its name there, or (its name, which axes become its axes).

    An array that the layer does not have, a bias without ``use_bias``, is not there either.
    """
    names = {own: move if isinstance(move, str) else move[0] for own, move in moves.items()}
    axes = {own: move[1] for own, move in moves.items() if not isinstance(move, str)}

    def write(own: Arrays) -> Arrays:
        if unknown := own.keys() - names.keys():
            raise NoForm(f"{', '.join(sorted(unknown))} has no counterpart")
        turned = {n: own[n].transpose(axes[n]) if n in axes else own[n] for n in names if n in own}
        return {names[n]: a for n, a in turned.items()}

    def read(theirs: Arrays) -> Arrays:
        given = {n: theirs[name] for n, name in names.items() if name in theirs}
        back = {n: tuple(map(order.index, range(len(order)))) for n, order in axes.items()}
        return {n: a.transpose(back[n]) if n in axes else a for n, a in given.items()}

    return Form(write, read)


class NoForm(ValueError):
    """Why another library has no such layer."""


def reordered(names: tuple[str, ...], turn: Callable, back: Callable) -> tuple[Callable, Callable]:
    """The bijection, as `Form.after` takes it, that puts the named arrays in another order."""

    def each(change: Callable) -> Callable[[Arrays], Arrays]:
        return lambda own: {n: change(a) if n in names else a for n, a in own.items()}

    return each(turn), each(back)


def flattened_otherwise(
    sizes: tuple[int, ...], names: tuple[str, ...]
) -> tuple[Callable, Callable]:
    """The bijection, as `Form.after` takes it, of arrays whose first axis has flattened features.

    Args:
        sizes: (*positions, channels), in whose row-major order the layer has the features; the
            other library has (channels, *positions).
        names: Of these arrays.
    """
    last, channels_first = len(sizes) - 1, (sizes[-1], *sizes[:-1])

    def turn(a: Any) -> Any:
        return jnp.moveaxis(a.reshape(*sizes, *a.shape[1:]), last, 0).reshape(a.shape)

    def back(a: Any) -> Any:
        return jnp.moveaxis(a.reshape(*channels_first, *a.shape[1:]), 0, last).reshape(a.shape)

    return reordered(names, turn, back)
