"""What an exercise is: cases, the right results, and what people write in their place.

The right answer is a file in the folder solutions. The stub that a person begins with is that file
up to the body of its last function; a typical mistake is an edit of that body.
"""

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.support.apart import Call, call

SOLUTIONS = Path(__file__).with_name("solutions")


class Mistake(NamedTuple):
    """A typical mistake: the solution with one piece of its code exchanged."""

    right: str
    """The piece, which stands once in the body."""
    written: str
    """What people write there."""
    hint: str
    """What is wrong with it, without the right piece being told."""


@dataclass(frozen=True)
class Exercise:
    """A function that a person is to write."""

    name: str
    """That of its file, and of the one in the folder solutions."""
    cases: Callable[[np.random.Generator], Iterable[dict[str, Any]]]
    """Arguments by name. The sizes of the first case are all equal, so that a missing transpose is
    a wrong result and no error; those of others are not."""
    results: Callable[..., dict]
    """(arguments) -> what is to be returned, by name, as jaxnn has it."""
    mistakes: tuple[Mistake, ...]

    @cached_property
    def solution(self) -> str:
        """The right answer, the text of a file."""
        return (SOLUTIONS / f"{self.name}.py").read_text(encoding="utf-8")

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.solution)

    @cached_property
    def function(self) -> ast.FunctionDef:
        """The function that is to be written, the last of the solution."""
        return [node for node in self._tree.body if isinstance(node, ast.FunctionDef)][-1]

    @property
    def title(self) -> str:
        """What it is about, in a line."""
        return (ast.get_docstring(self._tree) or "").splitlines()[0]

    @cached_property
    def _halves(self) -> tuple[str, str]:
        """The solution up to the docstring of its function, and the body behind."""
        lines = self.solution.splitlines(keepends=True)
        end = self.function.body[0].end_lineno
        return "".join(lines[:end]), "".join(lines[end:])

    def stub(self, checking: str) -> str:
        """What a person begins with; ``checking`` is the command that checks it."""
        note = f"Replace the last line by code of yours, then: {checking}"
        return f"{self._halves[0]}    # {note}\n    raise NotImplementedError\n"

    def with_mistakes(self, *mistakes: Mistake) -> str | None:
        """The solution with mistakes; None where one leaves no place for another."""
        given, body = self._halves
        for mistake in mistakes:
            if body.count(mistake.right) != 1:
                return None
            body = body.replace(mistake.right, mistake.written)
        return given + body

    @cached_property
    def arguments(self) -> list[dict[str, Any]]:
        """Those of every case, by name, in the order of the function's."""
        names = [argument.arg for argument in self.function.args.args]
        with jax.enable_x64(True):
            cases = list(self.cases(np.random.default_rng(0)))
        return [{n: _plain(case[n]) for n in names} for case in cases]

    @cached_property
    def right(self) -> list[dict[str, np.ndarray]]:
        """What is to be returned in every case, by name."""
        with jax.enable_x64(True):
            results = [self.results(**case) for case in self.arguments]
        return [{name: np.asarray(a) for name, a in result.items()} for result in results]

    @property
    def names(self) -> list[str]:
        """Those of what is to be returned."""
        return list(self.right[0])

    @cached_property
    def typical(self) -> list[tuple[Mistake, list[Call]]]:
        """Every mistake, and what the solution with it comes to."""
        sources = [(mistake, self.with_mistakes(mistake)) for mistake in self.mistakes]
        return [(mistake, self.calls_of(source)) for mistake, source in sources if source]

    def calls_of(self, source: str) -> list[Call]:
        """What a solution, or one with mistakes, comes to."""
        space: dict[str, Any] = {}
        path = Path(f"{self.name}.py")
        with np.errstate(all="ignore"):
            exec(compile(source, path.name, "exec"), space)
            function = space[self.function.name]
            cases = [[_copy(a) for a in case.values()] for case in self.arguments]
            return [call(function, arguments, self.names, path) for arguments in cases]


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) else np.array(value)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def gradients(function: Callable, dy: Any, *arguments: Any) -> tuple:
    """dy pulled back to every argument of a function of `jaxnn.functional`, by the hand-derived
    backward pass of its layer."""

    @jax.jit
    def pull_back(dy: Any, arguments: tuple):
        return jax.vjp(function, *arguments)[1](dy)

    return pull_back(dy, arguments)
