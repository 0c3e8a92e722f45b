"""How a class of layers or losses becomes a function: its fields are the options."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter
from typing import Any

from jaxnn.core.value import Value


def function_of(
    kind: type[Value], call: Callable, *derived: str, name: str | None = None, text: Any = None
) -> Callable:
    """A function with the arguments of ``call``, completed by the fields of a class.

    Its signature has the arguments that ``call`` takes after its first, and the fields of ``kind``,
    with their types and defaults: what must be given first, options by keyword last. Its
    documentation is put together of those of the class and of ``call``.

    Args:
        kind: The class of a layer or a loss.
        call: (make, *arrays) -> result, where make(**derived) builds the value: all other fields
            are filled in already.
        derived: The fields that ``call`` says, which are no arguments of the function.
        name: That of the function; that of the class unless given.
        text: What the documentation begins with that of; the class unless given.
    """
    name = name or kind.__name__
    own = list(inspect.signature(call).parameters.values())[1:]
    parameters = sorted([*map(_without_any, own), *_options(kind, derived)], key=_place)
    signature = inspect.Signature(parameters)
    defaults = {p.name: p.default for p in parameters if p.default is not Parameter.empty}

    def function(*arguments: Any, **options: Any) -> Any:
        try:
            given = signature.bind(*arguments, **options).arguments
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        given = defaults | given
        arrays = {parameter.name: given.pop(parameter.name) for parameter in own}
        return call(partial(kind, **given), **arrays)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "jaxnn.functional"
    function.__doc__ = _documentation(text or kind, kind, call, list(signature.parameters))
    function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return function


def called(make: Any) -> str:
    """The name of what a ``make`` of `function_of` builds."""
    return make.func.__name__


def _options(kind: type[Value], derived: Iterable[str]) -> list[Parameter]:
    hints = typing.get_type_hints(kind)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY if field.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
        if field.name not in derived
    ]


def _without_any(parameter: Parameter) -> Parameter:
    is_any = parameter.annotation is Any
    return parameter.replace(annotation=Parameter.empty) if is_any else parameter


def _place(parameter: Parameter) -> tuple[int, bool, bool]:
    # reduction and weights, which all losses have, behind the options of their own
    is_last = parameter.name in ("reduction", "weights")
    return parameter.kind, parameter.default is not Parameter.empty, is_last


def _documentation(described: Any, kind: type[Value], call: Callable, names: list[str]) -> str:
    """What is computed, how the function takes arrays, and its arguments in their order."""
    of_call = _read(call)
    entries, raised = {}, of_call.raised
    for base in kind.__mro__:
        if issubclass(base, Value):
            of_base = _read(base)
            entries, raised = of_base.arguments | entries, raised or of_base.raised
    entries |= of_call.arguments
    parts = [of_call.text]
    if described is not call:
        parts = [_read(described).text, f"As a function: {of_call.text}"]
    parts.append(f"Its derivative is derived by hand, in `{kind.__module__}`.")
    listed = [entries[name] for name in names if name in entries]
    parts += ["Args:\n" + "\n".join(listed)] if listed else []
    parts += [f"Raises:\n{raised}"] if raised else []
    return "\n\n".join(part for part in parts if part)


class _Documentation(typing.NamedTuple):
    text: str
    arguments: dict[str, str]
    """Of each, its indented lines."""
    raised: str


def _read(documented: Any) -> _Documentation:
    """A docstring by its sections."""
    text, *sections = re.split(r"^(Args|Raises):\n", _own_docstring(documented), flags=re.MULTILINE)
    by_title = dict(zip(sections[::2], sections[1::2], strict=True))
    blocks = re.split(r"^ {4}(?=\w+: )", by_title.get("Args", ""), flags=re.MULTILINE)[1:]
    arguments = {block.split(":")[0]: f"    {block.rstrip()}" for block in blocks}
    return _Documentation(text.strip(), arguments, by_title.get("Raises", "").rstrip())


def _own_docstring(documented: Any) -> str:
    # That of a class alone: `inspect.getdoc` would take that of a base.
    return inspect.cleandoc(vars(documented).get("__doc__") or documented.__doc__ or "")
