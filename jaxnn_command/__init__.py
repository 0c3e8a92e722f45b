"""The command ``jaxnn``: ``jaxnn train`` is ``python -m experiments.train``, from any folder.

A wheel has the folders ``experiments`` and ``configs`` inside this one, so that no other program
meets a package of the name experiments there; in a checkout they stand beside it. Nothing large is
imported before a command is known.
"""

import ast
import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE if (HERE / "experiments").is_dir() else HERE.parent
"""The folder of ``experiments``."""


def commands() -> dict[str, Path]:
    """The files that ``python -m experiments.NAME`` runs, by NAME."""
    found = {}
    for path in sorted((HOME / "experiments").rglob("*.py")):
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"):
            parts = path.relative_to(HOME / "experiments").with_suffix("").parts
            found[".".join(part for part in parts if part != "__main__")] = path
    return found


def summary(path: Path) -> str:
    """The first line of the docstring of a command's module."""
    if path.name == "__main__.py":
        path = path.with_name("__init__.py")
    line, *_ = (ast.get_docstring(ast.parse(path.read_bytes())) or "").splitlines() or [""]
    if line.startswith("The command of `"):  # which is at home in another folder
        return summary(HOME.joinpath(*line.split("`")[1].split(".")).with_suffix(".py"))
    return line


def overview() -> str:
    """Every command with what it does."""
    rows = {name: summary(path) for name, path in commands().items() if "." not in name}
    width = max(map(len, rows))
    listed = "\n".join(f"  {name:{width}}  {line}" for name, line in rows.items())
    return f"jaxnn COMMAND …, or jaxnn COMMAND --help\n\n{listed}"


def main() -> None:
    """Run the command that the first argument names, or list them all."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(overview())
        return
    name = sys.argv.pop(1)
    if name == "--version":
        from jaxnn import __version__

        print(f"jaxnn {__version__}")
        return
    if name not in commands():
        from jaxnn.core.validation import printable, unknown_name

        known = [command for command in commands() if "." not in command]
        sys.exit(f"error: jaxnn: {printable(unknown_name('command', name, known))}")
    # For this process, and by the environment for those that it starts, whose working folder may
    # have an experiments of its own.
    sys.path.insert(0, str(HOME))
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {
        "JAXNN_COMMAND": "jaxnn",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
    }
    from experiments.support.starting import begin

    begin(name, sys.argv[1:])
    try:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        sys.exit(
            f'error: jaxnn {name} needs the package {error.name}: pip install "jaxnn[experiments]"'
        )
