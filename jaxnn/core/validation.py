"""Checks of arguments: every error names the argument, what was expected and what was given."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import checkify

LARGEST_SIZE = 2**31 - 1
"""The largest number that counts elements along an axis."""
LARGEST_RANK = 32
LONGEST_REPR = 200
LONGEST_NAME = 60
LONGEST_LIST = 1500
"""Up to how many characters of names an error lists all that are valid."""
FEW = 8


def require_array(where: str, name: str, x: Any) -> None:
    """Raise TypeError unless ``x`` is an array (or the shape and dtype of one)."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        raise TypeError(f"{where}: expected {name} to be an array, got {type(x).__name__}")


def require_floating(where: str, name: str, x: Any) -> None:
    """Raise TypeError unless ``x`` is an array of floating-point numbers."""
    require_array(where, name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where}: expected {name} to be floating-point, got {x.dtype}")


def require_rank(where: str, name: str, x: Any, minimum: int) -> None:
    """Raise unless ``x`` is an array of at least ``minimum`` axes, the batch among them."""
    require_array(where, name, x)
    if len(x.shape) < minimum:
        raise ValueError(
            f"{where}: expected {name} to have at least {minimum} axes, batch first, "
            f"got shape {tuple(x.shape)}"
        )


def require_integer(
    where: str, name: str, value: Any, minimum: int, maximum: int | None = None
) -> int:
    """The value; raises unless it is an int (not a bool) within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where}: expected {name} to be an integer, got {brief(value)}")
    if value < minimum:
        raise ValueError(f"{where}: expected {name} to be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{where}: expected {name} to be at most {maximum}, got {brief(value)}")
    return value


def require_features(where: str, x: Any, features: int, dtype: Any) -> None:
    """Raise unless the last axis and the dtype of ``x`` are those that parameters were made for."""
    require_floating(where, "x", x)
    require_rank(where, "x", x, 2)
    if x.shape[-1] != features:
        raise ValueError(
            f"{where}: expected the last axis of x to be {features}, got {x.shape[-1]}"
        )
    if x.dtype != dtype:
        raise TypeError(f"{where}: expected x to be {dtype} as its parameters are, got {x.dtype}")


def require_feature_axis(where: str, name: str, axis: Any) -> int:
    """The axis; raises unless it is an int that can name an axis other than 0, the batch."""
    require_integer(where, name, axis, -LARGEST_RANK, LARGEST_RANK)
    if axis == 0:
        raise ValueError(f"{where}: expected {name} not to be 0, the batch")
    return axis


def require_axis(where: str, name: str, axis: int, x: Any) -> int:
    """The axis counted from the first; raises unless it is one of x other than 0, the batch."""
    rank = len(x.shape)
    if not -rank < axis < rank:
        raise ValueError(
            f"{where}: expected {name} to name an axis of x other than 0, the batch, "
            f"got {axis} for shape {tuple(x.shape)}"
        )
    return axis % rank


def require_key(where: str, key: Array | None) -> Array:
    """The key; raises ValueError where a layer that draws random numbers is given none."""
    if key is None:
        raise ValueError(f"{where}: expected key to be a random key, got None")
    return key


def require_boolean(where: str, name: str, value: Any) -> bool:
    """The value; raises TypeError unless it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{where}: expected {name} to be True or False, got {brief(value)}")
    return value


def require_positive_integer(where: str, name: str, value: Any) -> int:
    """The value; raises unless it is an int (not a bool) of at least 1."""
    return require_integer(where, name, value, 1, LARGEST_SIZE)


def require_count(where: str, name: str, value: Any) -> int:
    """The value; raises unless it is an int (not a bool) of at least 0."""
    return require_integer(where, name, value, 0, LARGEST_SIZE)


def require_number(
    where: str,
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> float:
    """The value; raises unless it is a finite number between the bounds (open ones are excluded).

    Numbers of NumPy are refused: unlike Python's, they carry a dtype, and would promote arrays.
    """
    if isinstance(value, bool | np.generic) or not isinstance(value, int | float):
        raise TypeError(f"{where}: expected {name} to be a Python number, got {brief(value)}")
    low = value > minimum if open_minimum else value >= minimum
    high = value < maximum if open_maximum else value <= maximum
    if not (math.isfinite(value) and low and high):
        interval = (
            f"{'(' if open_minimum or minimum == -math.inf else '['}{minimum:g}, "
            f"{maximum:g}{')' if open_maximum or maximum == math.inf else ']'}"
        )
        raise ValueError(f"{where}: expected {name} to lie in {interval}, got {brief(value)}")
    return value


def require_rate(where: str, name: str, value: Any) -> float:
    """The value; raises unless it is a number in [0, 1)."""
    return require_number(where, name, value, minimum=0, maximum=1, open_maximum=True)


def require_non_negative(where: str, name: str, value: Any) -> float:
    """The value; raises unless it is a finite number of at least 0."""
    return require_number(where, name, value, minimum=0)


def require_positive(where: str, name: str, value: Any) -> float:
    """The value; raises unless it is a finite number above 0."""
    return require_number(where, name, value, minimum=0, open_minimum=True)


def require_share(where: str, name: str, value: Any) -> float:
    """The value; raises unless it is a number in [0, 1]."""
    return require_number(where, name, value, minimum=0, maximum=1)


def brief(value: Any) -> str:
    """How errors show a value: its repr, cut to a bounded length."""
    if isinstance(value, str | bytes):
        value = value[: LONGEST_REPR + 1]
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python would write
        text = f"a very large {type(value).__name__}"
    return _cut(printable(text), LONGEST_REPR)


def require_members(where: str, x: Any, count: int | None = None) -> None:
    """Raise TypeError unless ``x`` is a tuple, of ``count`` members where that is given."""
    if not isinstance(x, tuple) or (count is not None and len(x) != count):
        expected = "a tuple" if count is None else f"a tuple of {count}"
        given = f"a tuple of {len(x)}" if isinstance(x, tuple) else type(x).__name__
        raise TypeError(f"{where}: expected x to be {expected}, got {given}")


def batch_size(where: str, x: Any) -> int:
    """The length of the first axis that all arrays of ``x`` share."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError(f"{where}: expected x to hold at least one array, got none")
    if any(jnp.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError(f"{where}: expected every array of x to have a batch axis, got a scalar")
    sizes = {jnp.shape(leaf)[0] for leaf in leaves}
    if len(sizes) > 1:
        raise ValueError(f"{where}: expected one batch size in x, got {sorted(sizes)}")
    return sizes.pop()


def known_values(x: Any) -> np.ndarray | None:
    """The values of ``x``, or None where they are not known: inside `jax.jit`, for mere shapes."""
    if isinstance(x, Tracer | jax.ShapeDtypeStruct):
        return None
    return np.asarray(x)  # a method of x would be traced where a function around this one is


def require_lengths(where: str, lengths: Any, batch: int, time: int) -> None:
    """Raise unless ``lengths`` holds one integer in 0 … time for each example of the batch.

    Inside `jax.jit` the values are not known; there the positions of a sequence are compared with
    its length, so that a negative length counts as 0 and one beyond the sequence as all of it; see
    also `check_traced`.
    """
    require_array(where, "lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{where}: expected lengths to be integers, got {lengths.dtype}")
    if tuple(lengths.shape) != (batch,):
        raise ValueError(
            f"{where}: expected lengths to have shape ({batch},), one for each example, "
            f"got {tuple(lengths.shape)}"
        )
    require_range(where, "lengths", lengths, 0, time, ", the positions of the sequence")


def widened(labels: Any) -> Any:
    """In int32, since 8 bits hold neither all classes nor −1; larger numbers as its largest."""
    own, narrow = jnp.iinfo(labels.dtype if labels.dtype != bool else np.int8), jnp.iinfo(np.int32)
    if own.max > narrow.max:
        clip = np.clip if isinstance(labels, np.ndarray) else jnp.clip
        labels = clip(labels, max(own.min, narrow.min), narrow.max)
    return labels.astype(np.int32)


def require_range(where: str, name: str, x: Any, low: int, high: int, meaning: str = "") -> None:
    """Raise ValueError unless every number of ``x`` lies in low … high.

    Where the values are not known, inside `jax.jit`, see `check_traced`.
    """
    expected = f"{where}: expected {name} to lie in {low} … {high}{meaning}"
    values = known_values(x)
    if values is None:
        check_traced(x, lambda x: (widened(x) >= low) & (widened(x) <= high), expected)
    elif values.size and not low <= values.min() <= values.max() <= high:
        raise ValueError(f"{expected}, got {values.min()} … {values.max()}")


def check_traced(x: Any, holds: Callable, expected: str) -> None:
    """A check that costs nothing unless it is switched on, for values that are not known yet.

    It is compiled into functions wrapped in `jax.experimental.checkify.checkify`, which then report
    an ``x`` of which ``holds`` is not true everywhere.
    """
    if isinstance(x, Tracer):
        checkify.debug_check(jnp.all(holds(x)), f"{expected}, got {{given}}", given=x)


def unknown_name(kind: str, name: Any, valid: Iterable[str]) -> str:
    """The message for a name that is not among ``valid``, with the nearest one that is."""
    valid = sorted(valid)
    near = _nearest(str(name), valid, 1, 0.5)
    hint = f"did you mean {brief(near[0])}? " if near else ""
    return f"unknown {kind} {brief(name)}: {hint}valid are {listed(valid, str(name))}"


def listed(names: Iterable[str], near: str = "") -> str:
    """Names as a message lists them: all, or if they are many some, and how many more there are.

    Args:
        names: Whatever a stranger's file has for names.
        near: Where not all are listed, those most like this one are, else the first ones.
    """
    names = list(names)
    if sum(map(len, names)) <= LONGEST_LIST:
        text = ", ".join(map(printable, names))
        if len(text) <= LONGEST_LIST:
            return text
    chosen = (_nearest(near, names, FEW, 0.3) if near else None) or names[:FEW]
    shown = ", ".join(_cut(printable(name[:LONGEST_REPR]), LONGEST_NAME) for name in chosen)
    return f"{shown} and {len(names) - len(chosen)} more"


def _nearest(name: str, names: Iterable[str], count: int, likeness: float) -> list[str]:
    """The names most like this one, whatever their case; long ones by their beginning."""
    folded = {candidate[:LONGEST_NAME].casefold(): candidate for candidate in names}
    near = difflib.get_close_matches(name[:LONGEST_NAME].casefold(), folded, count, likeness)
    return [folded[found] for found in near]


def printable(text: str) -> str:
    """The text as a terminal may be given it: what would steer it is written as Python escapes it.

    These are the control characters but line break and tab, those that turn the direction of
    writing, and what is no character.
    """
    return text if text.isprintable() else _STEERING.sub(_escape, text)


_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
