"""Layers, losses, optimisers and schedules as text: the very call that one would write in Python.

    dense(64, weight_init="he")        skip(dense(64), relu())        relu

Only names from a given table, literals and, where that table allows it, further calls are read;
nothing else can be said, so a configuration cannot run code.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxnn.core.validation import unknown_name


class Call(NamedTuple):
    """A name with its arguments."""

    name: str
    arguments: tuple
    options: dict[str, Any]


def build(text: str, kind: str, factories: Mapping[str, Callable]) -> Any:
    """What the factory that ``text`` names returns.

    Args:
        text: A name or a call; arguments may be calls of the same table.
        kind: What is named, for errors: "layer", "loss".
        factories: The functions that may be named.

    Raises:
        ValueError: ``text`` is no call, or has an unknown name or option (the message has the
            nearest valid one), or the factory refuses its arguments.
    """

    def make(call: Call):
        if call.name not in factories:
            raise ValueError(f"in {text!r}: {unknown_name(kind, call.name, factories)}")
        factory = factories[call.name]
        arguments = [make(a) if isinstance(a, Call) else a for a in call.arguments]
        options = {k: make(v) if isinstance(v, Call) else v for k, v in call.options.items()}
        _require_signature(text, f"{kind} {call.name}", factory, arguments, options)
        try:
            return factory(*arguments, **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"in {text!r}: {error}") from error

    return make(parse(text, kind))


def parse(text: str, kind: str) -> Call:
    """``text`` as a `Call`; arguments are literals or calls.

    Raises:
        ValueError: ``text`` is not a name or a call.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(
            f"expected {kind} to be a call such as name(option=1), got {text!r}"
        ) from None
    call = _read(node, text)
    if not isinstance(call, Call):
        raise ValueError(f"expected {kind} to be a call such as name(option=1), got {text!r}")
    return call


def _read(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return Call(node.id, (), {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        named = {k.arg: _read(k.value, text) for k in node.keywords if k.arg is not None}
        if len(named) == len(node.keywords):
            return Call(node.func.id, tuple(_read(a, text) for a in node.args), named)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(
            f"in {text!r}: expected numbers, strings, lists and calls of known names, "
            f"got {ast.unparse(node)!r}"
        ) from None


def _require_signature(
    text: str, what: str, factory: Callable, arguments: list, options: dict
) -> None:
    signature = inspect.signature(factory)
    for option in options:
        if option not in signature.parameters:
            message = unknown_name(f"option of {what}", option, signature.parameters)
            raise ValueError(f"in {text!r}: {message}")
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(f"in {text!r}: {what}{signature}: {error}") from None
