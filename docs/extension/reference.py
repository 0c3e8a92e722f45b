"""A page for every public name, from its signature and docstring.

The pages are written into ``docs/reference`` before the book is read. Docstrings are read as
Markdown, whose indented blocks are formulas and programs.
"""

import functools
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = {
    "jaxnn": "Layers, losses, networks, rewrites and gradients",
    "jaxnn.functional": "Plain functions of arrays",
    "jaxnn.statistics": "What captures tell",
    "jaxnn.training": "Training",
    "jaxnn.learning.privacy": "Private training",
    "jaxnn.learning.preconditioning": "Preconditioning",
    "jaxnn.learning.damping": "Damping that adapts itself",
    "jaxnn.learning.accumulation": "Batches in parts",
    "jaxnn.learning.feedback": "Deltas over other weights",
    "jaxnn.learning.local": "Rules without a backward pass from layer to layer",
    "jaxnn.interop": "Captures of any function, other libraries",
    "jaxnn.sharding": "Several devices",
    "jaxnn.decoding": "Decoding",
    "jaxnn.data": "Data",
}
_NAME = re.compile(r"(?<!`)`(\w[\w.]*)`(?!`)")
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")


def setup(app: Any) -> None:
    """Write the pages before anything is read."""
    app.connect("config-inited", _write)


def public_names(module: str) -> dict[str, Any]:
    """What a module exports, by name: a package what it imports, a file what it defines."""
    found = import_module(module)
    exported = {name: getattr(found, name) for name in dir(found) if not name.startswith("_")}
    own = module.partition(".")[0] if hasattr(found, "__path__") else module
    return {
        name: value
        for name, value in exported.items()
        if not inspect.ismodule(value) and getattr(value, "__module__", "").startswith(own)
    }


def page(module: str, name: str, value: Any) -> str:
    """The page of a name, and of the documented members of a class.

    It stands in no table of contents but that of its module, or every page would list them all.
    """
    full = f"{module}.{name}"
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    lines = ["---", "orphan: true", "---", "", f"# `{name}`", "", f"Of [`{module}`]({module}.md)."]
    lines += ["", *_described(kind, full, value)]
    for member, of in vars(value).items() if kind == "class" else ():
        if member.startswith("_") or not inspect.getdoc(of):
            continue
        if inspect.isfunction(of):
            lines += _described("method", f"{full}.{member}", of)
        elif isinstance(of, property):
            lines += _described("property", f"{full}.{member}", of)
    return "\n".join(lines)


def _write(app: Any, config: Any) -> None:
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    written = {folder / "index.md": _index()}
    for module, title in MODULES.items():
        names = public_names(module)
        written[folder / f"{module}.md"] = _contents(module, title, names)
        for name, value in names.items():
            written[folder / f"{module}.{name}.md"] = page(module, name, value)
    for path in set(folder.glob("*.md")) - set(written):
        path.unlink()
    for path, text in written.items():
        # What has not changed is not read again.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _index() -> str:
    return "\n".join(["# Reference", "", "```{toctree}", *MODULES, "```"])


def _contents(module: str, title: str, names: dict[str, Any]) -> str:
    rows = [f"| [`{n}`]({module}.{n}.md) | {_summary(v)} |" for n, v in names.items()]
    table = ["| | |", "|---|---|", *rows, ""]
    head = [f"# `{module}`: {title}", "", inspect.getdoc(import_module(module)) or "", ""]
    return "\n".join([*head, *table])


def _summary(value: Any) -> str:
    first = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return first.replace("|", r"\|")


def _described(kind: str, name: str, value: Any) -> Iterator[str]:
    yield f"````{{py:{kind}}} {name}{_signature(value)}"
    yield ""
    yield from _markdown(inspect.getdoc(value) or "")
    yield "````"
    yield ""


def _signature(value: Any) -> str:
    if not callable(value):
        return ""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return "(…)"
    plain = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    return str(inspect.Signature(plain))


def _markdown(docstring: str) -> Iterator[str]:
    """A docstring in Markdown: its sections become lists, and names that have a page links."""
    inside = False
    for line in _NAME.sub(_linked, docstring).splitlines():
        if match := _SECTION.match(line):
            inside = True
            yield from ("", f"**{match[1]}**", "")
        elif inside and line and not line.startswith(" "):
            inside = False
            yield from ("", line)
        elif inside:
            yield _entry(line)
        else:
            yield line


def _linked(match: re.Match) -> str:
    page = _pages().get(match[1])
    return f"[{match[0]}]({page}.md)" if page else match[0]


@functools.cache
def _pages() -> dict[str, str]:
    """The page of each name, with its module and without; the first module has the name alone."""
    pages = {}
    for module in MODULES:
        for name in public_names(module):
            pages[f"{module}.{name}"] = f"{module}.{name}"
            pages.setdefault(name, f"{module}.{name}")
    return pages


def _entry(line: str) -> str:
    """A line of a section: the first of an entry opens one of a list."""
    if match := re.match(r"^    (\w[\w, *]*): (.*)$", line):
        return f"- **{match[1]}**: {match[2]}"
    return re.sub(r"^ {8}", "  ", line)
