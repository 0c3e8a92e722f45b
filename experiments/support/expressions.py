"""Layers, losses, optimisers and schedules as text: the very call that one would write in Python.

    relu      dense(64, weight_init="he")      serial(stem=dense(64), act=relu(), head=dense(10))

The repr of every layer and loss is such a text. Only names from a given table, literals and, where
that table allows it, further calls are read; nothing else can be said, so a configuration cannot
run code.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, NamedTuple

from jaxnn.core.validation import brief, unknown_name


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
            raise ValueError(f"in {brief(text)}: {unknown_name(kind, call.name, factories)}")
        factory = factories[call.name]
        arguments = [make(a) if isinstance(a, Call) else a for a in call.arguments]
        options = {k: make(v) if isinstance(v, Call) else v for k, v in call.options.items()}
        try:
            _require_signature(f"{kind} {call.name}", factory, call, arguments, options)
            return factory(*arguments, **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"in {brief(text)}: {error}") from error

    return make(parse(text, kind))


def parse(text: str, kind: str) -> Call:
    """``text`` as a `Call`; arguments are literals or calls.

    Raises:
        ValueError: ``text`` is not a name or a call, or gives an option twice.
    """
    refused = f"expected {kind} to be a call such as name(option=1), got {brief(text)}"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(refused) from None
    try:
        call = _read(node, text, kind)
    except RecursionError:
        raise ValueError(f"in {brief(text)}: expected {kind} to be nested less deeply") from None
    if not isinstance(call, Call):
        raise ValueError(refused)
    return call


def _read(node: ast.expr, text: str, kind: str) -> Any:
    if isinstance(node, ast.Name):
        return Call(node.id, (), {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        names = [keyword.arg for keyword in node.keywords if keyword.arg is not None]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"in {brief(text)}: {kind} {node.func.id}: expected every option once, got {twice} "
                f"{names.count(twice)} times"
            )
        if len(names) == len(node.keywords):
            values = (_read(keyword.value, text, kind) for keyword in node.keywords)
            arguments = tuple(_read(argument, text, kind) for argument in node.args)
            return Call(node.func.id, arguments, dict(zip(names, values, strict=True)))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(
            f"in {brief(text)}: expected numbers, strings, lists and calls of known names, "
            f"got {brief(ast.unparse(node))}"
        ) from None


def _require_signature(
    what: str, factory: Callable, call: Call, arguments: list, options: dict
) -> None:
    given = inspect.signature(factory).parameters.values()
    signature = inspect.Signature([p.replace(annotation=Parameter.empty) for p in given])
    kinds = {parameter.kind for parameter in given}
    by_name = [p.name for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option, value in call.options.items():
        # Parts have names of one's own, where a layer has parts; they are layers, and so calls.
        is_part = Parameter.VAR_KEYWORD in kinds and (isinstance(value, Call) or not by_name)
        if option not in by_name and not is_part:
            if not by_name:
                raise ValueError(f"{what} has no options, got {option}")
            raise ValueError(unknown_name(f"option of {what}", option, by_name))
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(f"{what}{signature}: {error}") from None
