"""Geometry of windows that slide over an input, for convolution and pooling alike.

A window, its strides, its dilation and the padding are given once for every spatial dimension, or
as one integer for all of them. A layer checks them in two steps: what can be known without an input
(`spatial_dimensions`, `require_sizes`, `require_padding`) when it is made, the rest
(`require_spatial`, `per_dimension`, `resolve_padding`, `output_sizes`) when it meets one.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, TypeAlias

from jax import lax

from jaxnn.core.validation import (
    LARGEST_SIZE,
    brief,
    require_floating,
    require_integer,
    unknown_name,
)
from jaxnn.kernels.convolution.geometry import Pairs, extent

MAX_DIMENSIONS = 3


def require_sizes(where: str, name: str, value: Any, minimum: int = 1) -> Any:
    """The value, with a tuple for a list.

    Raises:
        TypeError, ValueError: it is no integer of at least ``minimum`` and no 1 to 3 of them.
    """
    if not isinstance(value, tuple | list):
        return require_integer(where, name, value, minimum, LARGEST_SIZE)
    if not 1 <= len(value) <= MAX_DIMENSIONS:
        raise ValueError(
            f"{where}: expected {name} to have 1 to {MAX_DIMENSIONS} entries, one for each spatial "
            f"dimension, got {brief(value)}"
        )
    return tuple(
        require_integer(where, f"every entry of {name}", n, minimum, LARGEST_SIZE) for n in value
    )


def require_padding(
    where: str, name: str, value: Any, names: Iterable[str] = ("SAME", "VALID")
) -> Any:
    """The value, with tuples for lists.

    Raises:
        TypeError, ValueError: it is none of ``names``, no integer and no 1 to 3 (low, high) pairs.
    """
    if isinstance(value, str) and names:
        if value not in names:
            raise ValueError(f"{where}: {unknown_name(name, value, names)}")
        return value
    if isinstance(value, int):
        return require_integer(where, name, value, 0, LARGEST_SIZE)
    which = "a name, an integer" if names else "an integer"
    rule = f"{where}: expected {name} to be {which} or (low, high) for each dimension"
    if not isinstance(value, tuple | list):
        raise TypeError(f"{rule}, got {brief(value)}")
    if not 1 <= len(value) <= MAX_DIMENSIONS:
        raise ValueError(f"{rule}, 1 to {MAX_DIMENSIONS} pairs, got {brief(value)}")
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in value):
        raise ValueError(f"{rule}, got {brief(value)}")
    entry = f"every entry of {name}"
    return tuple(
        tuple(require_integer(where, entry, n, 0, LARGEST_SIZE) for n in pair) for pair in value
    )


Sizes: TypeAlias = Annotated[int | tuple[int, ...], require_sizes]
"""One number for each spatial dimension, or one for all of them."""

Widths: TypeAlias = Annotated[int | Pairs, partial(require_padding, names=())]
"""(low, high) pairs for each spatial dimension, or one integer for all sides."""

Padding: TypeAlias = Annotated[str | int | Pairs, require_padding]
"""`Widths`, or "SAME" or "VALID"."""

CircularPadding: TypeAlias = Annotated[
    str | int | Pairs, partial(require_padding, names=("SAME", "VALID", "CIRCULAR"))
]
"""`Padding`, or "CIRCULAR"."""


def spatial_dimensions(where: str, **arguments: Any) -> int | None:
    """The number of spatial dimensions that those ``arguments`` that are tuples agree on.

    None where all are integers or names: then the input decides.
    """
    lengths = {n: len(a) for n, a in arguments.items() if isinstance(a, tuple)}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{n}={arguments[n]!r}" for n in lengths)
        raise ValueError(f"{where}: expected as many entries in each of the tuples, got {given}")
    return next(iter(lengths.values()), None)


def per_dimension(value: Any, dimensions: int) -> tuple:
    """``value`` as one number for each of ``dimensions``."""
    return value if isinstance(value, tuple) else (value,) * dimensions


def require_spatial(where: str, x: Any, dimensions: int | None = None) -> tuple[int, ...]:
    """The spatial sizes of x [batch, *spatial, channels], once its rank and dtype are right.

    Raises:
        TypeError: x is not floating-point.
        ValueError: x has not ``dimensions`` spatial axes (1 to 3 where that is None), or one of
            them is empty.
    """
    require_floating(where, "x", x)
    found = len(x.shape) - 2
    if not (1 <= found <= MAX_DIMENSIONS if dimensions is None else found == dimensions):
        count = f"1 to {MAX_DIMENSIONS}" if dimensions is None else dimensions
        raise ValueError(
            f"{where}: expected x to be [batch, *spatial, channels] with {count} spatial "
            f"dimensions, got shape {tuple(x.shape)}"
        )
    sizes = tuple(x.shape[1:-1])
    if min(sizes) < 1:
        raise ValueError(
            f"{where}: expected every spatial size of x to be at least 1, got {tuple(x.shape)}"
        )
    return sizes


def resolve_padding(
    padding: Padding,
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> Pairs:
    """(low, high) for each dimension of an input of the given ``sizes``.

    "VALID" adds nothing; "SAME" as much as gives ⌈size / stride⌉ outputs, the odd one at the end;
    "CIRCULAR", for layers that know how to fill it, the extent of the window less one, so that
    stride 1 keeps the size, the odd one at the end too.
    """
    reach = extent(window, dilation)
    if padding == "CIRCULAR":
        return tuple(((r - 1) // 2, r // 2) for r in reach)
    if isinstance(padding, str):
        pairs = lax.padtype_to_pads(sizes, reach, strides, padding)
    else:
        pairs = ((padding, padding),) * len(sizes) if isinstance(padding, int) else padding
    return tuple((int(low), int(high)) for low, high in pairs)


def output_sizes(
    where: str,
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    name: str = "window",
) -> tuple[int, ...]:
    """How many windows fit in each dimension, ⌊(padded size − extent) / stride⌋ + 1.

    Raises:
        ValueError: a window, called ``name`` in the error, is larger than the padded input.
    """
    reach = extent(window, dilation)
    padded = tuple(size + sum(pair) for size, pair in zip(sizes, padding, strict=True))
    if any(r > p for r, p in zip(reach, padded, strict=True)):
        spread = f", {reach} with dilation {tuple(dilation)}" if max(dilation) > 1 else ""
        raise ValueError(
            f"{where}: expected {name} to fit into the padded input of size {padded}, "
            f"got {tuple(window)}{spread}"
        )
    return tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, strides, strict=True))
