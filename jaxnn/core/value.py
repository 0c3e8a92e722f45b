"""Values: frozen dataclasses with checked fields, whose repr is the expression that builds them."""

import abc
import dataclasses
import functools
import inspect
import types
import typing
from typing import Annotated, Any, Literal, Union, dataclass_transform, get_args, get_origin

from jaxnn.core.validation import (
    LARGEST_SIZE,
    brief,
    require_boolean,
    require_integer,
    require_number,
    unknown_name,
)

WIDTH = 88
"""An expression that is longer is printed over several lines, as an indented tree."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Value(abc.ABC):  # noqa: B024
    """Base of layers, losses and rules. A subclass is made a frozen dataclass, its fields are the
    arguments; equal arguments make equal values, with one hash, that can be copied and pickled.

    Fields are checked by their annotations, and lists become tuples. An annotation may carry
    further checks, ``Annotated[int, require_positive_integer]``: functions (where, name, value) ->
    value. What concerns several fields at once belongs into ``validate``.
    """

    def __init_subclass__(cls, *, init: bool = True, **options: Any):
        super().__init_subclass__(**options)
        for name in inspect.get_annotations(cls):
            if name not in cls.__dict__ and isinstance(getattr(cls, name, None), property):
                raise TypeError(
                    f"{cls.__name__}: expected fields of names that its base does not give to "
                    f"properties, got {name!r}: name the field otherwise and define the property"
                )
        dataclasses.dataclass(frozen=True, repr=False, init=init)(cls)

    def __post_init__(self):
        hints = _hints_of(type(self))
        for name in (field.name for field in dataclasses.fields(self)):  # pyright: ignore
            value = checked(self.name, name, getattr(self, name), hints[name])
            object.__setattr__(self, name, value)
        self.validate()

    def validate(self) -> None:  # noqa: B027
        """Raise where fields do not fit together."""

    @property
    def name(self) -> str:
        """What errors and reports call it; nothing else depends on it."""
        return type(self).__name__

    def arguments(self) -> list[tuple[str, Any]]:
        """What builds it, but for defaults: (name, or "" for a positional argument, value)."""
        found, by_position = [], True
        # Options by keyword of a base come before the arguments by position of its subclasses.
        fields = sorted(dataclasses.fields(self), key=lambda field: field.kw_only)  # pyright: ignore
        for field in fields:
            value = getattr(self, field.name)
            if field.default is not dataclasses.MISSING and value == field.default:
                by_position = False
            else:
                by_position = by_position and not field.kw_only
                found.append(("" if by_position else field.name, value))
        return found

    def __repr__(self) -> str:
        return expression(self)


def expression(value: Any, indent: int = 0) -> str:
    """The text that builds a value: one line, or a tree where that would be longer than `WIDTH`."""
    if not isinstance(value, Value):
        return repr(value)
    head = type(value).__name__
    arguments = [(f"{name}=" if name else "", inner) for name, inner in value.arguments()]
    line = f"{head}({', '.join(name + expression(inner, -(10**6)) for name, inner in arguments)})"
    if indent + len(line) <= WIDTH or not arguments:
        return line
    space = " " * (indent + 4)
    lines = (f"{space}{name}{expression(inner, indent + 4)},\n" for name, inner in arguments)
    return f"{head}(\n{''.join(lines)}{' ' * indent})"


@functools.cache
def _hints_of(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def checked(where: str, name: str, value: Any, hint: Any) -> Any:
    """The value of a field, with tuples in place of lists, once it fits its annotation.

    Raises:
        TypeError, ValueError: it does not; the message names layer, field, expected and given.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for check in hint.__metadata__:
            value = check(where, name, value)
    elif origin is Union or origin is types.UnionType:
        value = _one_of(where, name, value, inner)
    elif origin is Literal:
        if not any(type(value) is type(known) and value == known for known in inner):
            raise ValueError(f"{where}: {unknown_name(name, value, map(str, inner))}")
    elif origin is tuple:
        is_any_length = len(inner) == 2 and inner[1] is Ellipsis
        if not isinstance(value, tuple | list) or not (is_any_length or len(value) == len(inner)):
            count = "" if is_any_length else f" of {len(inner)}"
            raise TypeError(f"{where}: expected {name} to be a tuple{count}, got {brief(value)}")
        kinds = inner[:1] * len(value) if is_any_length else inner
        value = tuple(
            checked(where, f"every one of {name}", member, kind)
            for member, kind in zip(value, kinds, strict=True)
        )
    elif hint is bool:
        require_boolean(where, name, value)
    elif hint is float:
        require_number(where, name, value)
    elif hint is int:
        require_integer(where, name, value, -LARGEST_SIZE, LARGEST_SIZE)
    elif hint is not Any and isinstance(hint, type) and not isinstance(value, hint):
        article = "an" if hint.__name__[0] in "AEIOUaeiou" else "a"
        uncalled = " (a factory: call it)" if isinstance(value, type) else ""
        raise TypeError(
            f"{where}: expected {name} to be {article} {hint.__name__}, got {brief(value)}"
            f"{uncalled}"
        )
    return _hashable(where, name, value)


def _one_of(where: str, name: str, value: Any, hints: tuple) -> Any:
    """The value by the first of the annotations that it fits."""
    hints = tuple(hint for hint in hints if hint is not type(None) or value is None)
    if value is None and type(None) in hints:
        return None
    for hint in hints[:-1]:
        try:
            return checked(where, name, value, hint)
        except (TypeError, ValueError):
            continue
    return checked(where, name, value, hints[-1])


def _hashable(where: str, name: str, value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{where}: expected {name} to be hashable, so that the whole is, got {brief(value)}"
        ) from None
    return value
