"""Modules by the names that they had in 0.1, before they moved into rooms; until 0.3.

``import jaxnn.precision`` is ``import jaxnn.rewrites.precision``, with a `DeprecationWarning` that
says so.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOMS = ("core", "layers", "losses", "rewrites", "learning", "kernels")


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what no other finder has: asked last."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top != "jaxnn" or rest.split(".")[0] in ROOMS or not new_name(rest):
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        name = new_name(spec.name.partition(".")[2])
        warnings.warn(f"{spec.name} is {name} since 0.2", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(name)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec


def new_name(rest: str) -> str:
    """The module that was ``jaxnn.rest``, or "" where none was."""
    head = rest.split(".")[0]
    for room in ROOMS:
        if importlib.util.find_spec(f"jaxnn.{room}.{head}"):
            return f"jaxnn.{room}.{rest}"
    return ""


def install() -> None:
    """Have them found."""
    sys.meta_path.append(_Moved())
