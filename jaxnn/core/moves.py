"""Moves: what only moves the elements of a parameter on their way to where they are used.

A move is a tuple, ("transpose", permutation), ("reshape", shape), ("slice", ((start, stop, step),
…)) or ("broadcast", shape), that NumPy and JAX read alike: on an array of JAX the moves compute, on
an empty one of NumPy they show which elements of the parameter are seen where.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Move = tuple[str, tuple]
Moves = tuple[Move, ...]


def move(array: Any, moves: Moves) -> Any:
    """The array after the moves."""
    for kind, argument in moves:
        match kind:
            case "transpose":
                array = array.transpose(argument)
            case "reshape":
                array = array.reshape(argument)
            case "slice":
                array = array[tuple(slice(*bounds) for bounds in argument)]
            case "broadcast":
                library = np if isinstance(array, np.ndarray) else jnp
                array = library.broadcast_to(array, argument)
    return array


def move_back(array: Array, moves: Moves, shape: tuple[int, ...], leading: int = 0) -> Array:
    """The transpose of `move` from ``shape``, for each element of so many ``leading`` axes: what
    was seen in several places is the sum over them, what was not seen is 0."""
    if not moves:
        return array
    back = jax.linear_transpose(
        lambda original: move(original, moves), jax.ShapeDtypeStruct(shape, array.dtype)
    )
    pulled = lambda a: back(a)[0]  # noqa: E731
    for _ in range(leading):
        pulled = jax.vmap(pulled)
    return pulled(array)


@functools.lru_cache(maxsize=4096)
def layout(shape: tuple[int, ...], moves: Moves) -> np.ndarray | None:
    """A view of an empty array of ``shape`` after the moves, whose strides and place in memory say
    which elements are seen; None where no view can (its elements would have to be copied)."""
    seen = move(_elements(shape), moves)
    return seen if seen.size == 0 or np.may_share_memory(seen, _elements(shape)) else None


@functools.cache
def _elements(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.int8)  # memory that is reserved, and never touched


def repeats(seen: np.ndarray) -> tuple[bool, ...]:
    """Of each axis of a `layout`: whether it shows the same elements over and over."""
    return tuple(
        step == 0 and size > 1 and seen.size > 0
        for step, size in zip(seen.strides, seen.shape, strict=True)
    )


def same_elements(shape: tuple[int, ...], first: Moves, second: Moves) -> bool:
    """Whether both see the same elements at the same places, and none of them twice."""
    a, b = layout(shape, first), layout(shape, second)
    return a is not None and b is not None and _place(a) == _place(b) and not any(repeats(a))


def are_apart(shape: tuple[int, ...], first: Moves, second: Moves) -> bool:
    """Whether no element is seen by both; False where that is too hard to say."""
    a, b = layout(shape, first), layout(shape, second)
    if a is None or b is None:
        return False
    try:
        return not np.shares_memory(a, b, max_work=10_000)  # pyright: ignore[reportArgumentType]
    except np.exceptions.TooHardError:
        return False


def _place(seen: np.ndarray) -> tuple:
    """Where a view begins, and how it goes on."""
    steps = [(n, s) for n, s in zip(seen.shape, seen.strides, strict=True) if n > 1]
    return seen.__array_interface__["data"][0], seen.shape, tuple(steps)
