"""The help of a command, read from its source: nothing is imported for it but Python itself.

A command's options are the fields of the class ``Options`` in its module: name, annotation, default
and the string below are what a line of the help consists of.
"""

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parents[2]
CONFIGS = HOME / "configs"
WIDTH, NAMES = 100, 33
FLAGS = ("-h", "--help")

GROUPS = {
    "network and loss": ("network", "loss", "class_weights"),
    "optimisation": (
        *("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "weight_decay"),
        *("clip_norm", "seed"),
    ),
    "how gradients are computed": (
        *("gradient", "in_backward", "precision", "micro_batches", "crosscheck_every"),
        "crosscheck_tolerance",
        *("privacy.clip_norm", "privacy.noise_multiplier", "privacy.delta", "privacy.per_layer"),
        *("privacy.automatic", "privacy.quantile", "privacy.count_noise", "privacy.allow_no_noise"),
        "stream",
    ),
    "evaluation": ("metrics", "best", "patience"),
    "devices": ("devices", "layout", "model_devices", "stages", "pipeline", "cuts"),
    "data": (
        *("data.name", "data.target", "data.inputs", "data.task", "data.test"),
        *(
            "data.test_fraction",
            "data.validation_fraction",
            "data.stratify",
            "data.groups",
            "data.weights",
        ),
        *("data.seed", "data.standardize", "data.standardize_target", "data.flatten"),
        "data.folder",
    ),
    "data: tables": (
        *("data.missing", "data.missing_target", "data.kinds", "data.separator", "data.decimal"),
        *("data.encoding", "data.header", "data.embed", "data.embed_above", "data.embed_width"),
    ),
    "data: images": ("data.images", "data.size", "data.colors"),
}
"""Options by group, of whatever command has them; the others are its own."""


class Option(NamedTuple):
    """One option of a command."""

    name: str
    """As its field is called, behind those that it lies in: data.name."""
    kind: ast.expr
    default: Any
    """None where there is none to be shown."""
    text: str
    is_positional: bool
    is_required: bool

    @property
    def shown(self) -> str:
        """What one types."""
        kind, place = _kind(self.kind), self.name.replace("_", "-").rpartition(".")
        if self.is_positional:
            return self.name.upper()
        if kind == "bool":
            return f"--{place[0]}{place[1]}[no-]{place[2]}"
        return f"--{''.join(place)} {kind}"

    @property
    def description(self) -> str:
        """What it does, and its value where it is not given."""
        value = self.default
        if isinstance(value, bool):
            value = "yes" if value else None
        elif isinstance(value, list | tuple):
            value = " ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in value)
        shown = f" [{value}]" if value not in (None, "", ()) else ""
        return " ".join(self.text.replace("%%", "%").split()) + shown


def wants_help(arguments: list[str]) -> bool:
    """Whether the arguments of a command ask for its help, and not for that of another one."""
    return any(flag in arguments for flag in FLAGS)


def help_of(module: str, arguments: list[str], call: str) -> str | None:
    """The help of a command; None where its module has no ``Options``.

    Args:
        module: In the folder experiments, such as train or demos.dates.
        arguments: Of the command; the first may be a configuration, whose values are the defaults.
        call: What one types to run it.
    """
    path = HOME.joinpath("experiments", *module.split(".")).with_suffix(".py")
    if not path.is_file():
        return None
    found = _find("Options", path) or _find("Options", _source_of("main", path))
    if found is None:
        return None
    home, node = found
    options = list(_options(home, node))
    configured = any(option.name == "data.name" for option in options)
    usage, *text = [call] + ["[CONFIG]"] * configured, ast.get_docstring(node) or ""
    before = _called_with(home)
    usage += [] if configured else before
    usage += [option.name.upper() for option in options if option.is_positional] + ["[OPTIONS]"]
    if configured:
        name = arguments[0] if arguments and not arguments[0].startswith("-") else "digits_mlp"
        options = _with_values(options, name)
        text.append(
            "CONFIG is a .toml file or a name that train --list configs lists (digits_mlp unless "
            "given): its values stand in brackets; data named without one choose their own."
        )
    else:
        options = [o._replace(default="required") if o.is_required else o for o in options]
    used = _constant("USES", home)
    options = [o for o in options if used is None or _is_used(o.name, used, _own(node))]
    lines = [f"usage: {' '.join(usage)}"]
    for paragraph in "\n\n".join(text).split("\n\n"):
        lines += textwrap.wrap(" ".join(paragraph.split()), WIDTH)
    grouped = {name for names in GROUPS.values() for name in names}
    of_its_own = [option for option in options if option.name not in grouped]
    lines += _lines("options", of_its_own)
    by_name = {option.name: option for option in options}
    for title, names in GROUPS.items():
        lines += _lines(title, [by_name[name] for name in names if name in by_name])
    return "\n".join(lines)


def _is_used(name: str, used: tuple[str, ...], own: set[str]) -> bool:
    return name in used or name in own or name.partition(".")[0] in used


def _own(node: ast.ClassDef) -> set[str]:
    return {n.target.id for n in _fields(node)}


def _lines(title: str, options: list[Option]) -> Iterator[str]:
    """Names at the left, and texts that begin at the same place."""
    if options:
        yield f"{title}:"
    for option in options:
        text = option.description
        if title.startswith("data: "):  # which says what the option is for
            text = re.sub("^For (tables|images)[:,] ", "", text)
        texts = textwrap.wrap(text, WIDTH - NAMES) or [""]
        left = f"  {option.shown}"
        if len(left) > NAMES - 1:
            yield left
            left = ""
        for text in texts:
            yield f"{left:{NAMES}}{text}".rstrip()
            left = ""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _source_of(name: str, path: Path) -> Path:
    """The file from which a module imports ``name``; its own where it does not."""
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            source = HOME.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            return source if source.is_file() else path
    return path


def _find(name: str, path: Path) -> tuple[Path, ast.ClassDef] | None:
    """The class that a module calls ``name``, and the file that it is in."""
    if not path.is_file():
        return None
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _find(ast.unparse(_bare(node.value)), path)
    source = _source_of(name, path)
    return None if source == path else _find(name, source)


def _constant(name: str, path: Path) -> Any:
    """A tuple of strings, some of which may stand in tuples that are unpacked."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            parts = ast.walk(node.value)
            return tuple(p.value for p in parts if isinstance(p, ast.Constant))
    return None


def _called_with(path: Path) -> list[str]:
    """What a command is given before its options, as it says itself."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "parse_options":
            said = node.args[1]
            if isinstance(said, ast.Constant):
                return str(said.value).split()[1:]
    return []


def _fields(node: ast.ClassDef) -> Iterator[Any]:
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part


def _options(path: Path, node: ast.ClassDef, prefix: str = "") -> Iterator[Option]:
    """The fields of a class, of those that it is derived from, and of those that are its fields."""
    found: dict[str, list[Option]] = {}
    for base in node.bases:
        if (parent := _find(ast.unparse(base), path)) is not None:
            for option in _options(*parent, prefix):
                found[option.name] = [option]
    texts = {
        id(before): after.value.value
        for before, after in zip(node.body, node.body[1:], strict=False)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    for field in _fields(node):
        kind, name = _bare(field.annotation), prefix + field.target.id
        inner = _find(ast.unparse(kind), path) if isinstance(kind, ast.Name) else None
        if inner is not None:
            says_nothing = 'name=""' in ast.unparse(field.annotation).replace("'", '"')
            says_nothing |= ast.unparse(field.annotation) == "Configured"
            found[name] = [*_options(*inner, prefix if says_nothing else f"{name}.")]
            continue
        text = str(texts.get(id(field), ""))
        positional = "Positional" in ast.unparse(field.annotation)
        is_required = field.value is None and not positional
        found[name] = [Option(name, kind, _default(field.value), text, positional, is_required)]
    for options in found.values():
        yield from options


def _bare(annotation: ast.expr) -> ast.expr:
    """What is inside of Annotated."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        inside = annotation.slice
        return inside.elts[0] if isinstance(inside, ast.Tuple) else inside
    return annotation


def _kind(kind: ast.expr) -> str:
    text = ast.unparse(kind)
    if isinstance(kind, ast.BinOp):  # X | None
        return _kind(kind.left)
    if isinstance(kind, ast.Subscript) and text.startswith("Literal"):
        values = _value(kind.slice)
        return "{" + ",".join(map(str, values if isinstance(values, tuple) else (values,))) + "}"
    if text.startswith("tuple["):
        inner = text[6:-1].split(", ")
        names = [_KINDS.get(name, "…" if name == "..." else name) for name in inner]
        return " ".join(names)
    return _KINDS.get(text, text.upper())


_KINDS = {"str": "TEXT", "int": "INT", "float": "NUM", "Path": "PATH", "bool": "bool"}


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Call):
        inner = ast.unparse(node.args[0]) if node.args else ""
        return inner.strip("'\"") if ast.unparse(node.func) == "Path" else None
    return None if node is None else _value(node)


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _with_values(options: list[Option], name: str) -> list[Option]:
    """The options with the values of a configuration, where there is such a one."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return options
    values = {f"data.{key}": value for key, value in table.pop("data", {}).items()}
    values |= {f"privacy.{key}": value for key, value in table.pop("privacy", {}).items()} | table
    return [o._replace(default=values.get(o.name, o.default)) for o in options]
