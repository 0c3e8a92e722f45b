"""The signs of the derivations: indexed arrays, sums over indices, partial derivatives.

Expressions are SymPy's, kept and printed in the order in which they are written, inside of
`as_written()`.
"""

from collections.abc import Callable
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter

L = sympy.Symbol("L")
"""The loss."""


def as_written() -> Any:
    """A context in which SymPy neither sorts nor simplifies what is written."""
    return sympy.evaluate(False)


def index(name: str, size: int) -> Any:
    """An index that runs from 0 to ``size`` − 1, small, for every combination is computed.

    Raises:
        ValueError: There is one value alone: a sum over it that is left out would not be noticed.
    """
    if size < 2:
        raise ValueError(f"index: expected at least two values of {name}, got {size}")
    return sympy.Idx(name, size)


def array(name: str, *indices: Any) -> Any:
    """An array, of the sizes of the indices (or of numbers). Elements outside of it are 0."""
    shape = tuple(i if isinstance(i, int) else size_of(i) for i in indices)
    return sympy.IndexedBase(name, shape=shape)


def size_of(i: Any) -> int:
    """How many values the index takes."""
    return int(i.upper) + 1


def number(name: str) -> sympy.Symbol:
    """A positive number."""
    return sympy.Symbol(name, positive=True)


class total(sympy.Expr):
    """The sum of an expression over indices."""

    is_commutative = True

    def __new__(cls, expression: Any, *indices: sympy.Idx) -> "total":
        return sympy.Expr.__new__(cls, sympy.sympify(expression), *indices)


class largest(sympy.Expr):
    """The largest of the values that an expression takes over an index."""

    is_commutative = True

    def __new__(cls, expression: Any, over: sympy.Idx) -> "largest":
        return sympy.Expr.__new__(cls, sympy.sympify(expression), over)


class count(sympy.Expr):
    """How many values an index takes, printed as its capital letter."""

    is_commutative = True

    def __new__(cls, over: sympy.Idx) -> "count":
        return sympy.Expr.__new__(cls, over)


class partial(sympy.Expr):
    """∂of/∂by, in which ``held`` arrays do not move though they follow from others."""

    is_commutative = True

    def __new__(cls, of: Any, by: Any, *held: sympy.IndexedBase) -> "partial":
        return sympy.Expr.__new__(cls, of, by, *held)


class indicator(sympy.Expr):
    """[condition]: 1 where it holds, 0 where it does not."""

    is_commutative = True

    def __new__(cls, condition: Any) -> "indicator":
        return sympy.Expr.__new__(cls, condition)


def same(a: Any, b: Any) -> indicator:
    """[a = b], Kronecker's delta."""
    return indicator(sympy.Eq(a, b, evaluate=False))


def function(name: str, definition: Callable[[Any], Any]) -> Any:
    """A function of one number that is printed by its name."""
    return type(name, (sympy.Function,), {"definition": staticmethod(definition)})


class _Printer(LatexPrinter):
    def _print_Indexed(self, e: Any, exp: str | None = None) -> str:
        indices = [self._print(i) for i in e.indices]
        between = "" if all(len(i) == 1 for i in map(str, e.indices)) else ","
        printed = f"{self._print(e.base)}_{{{between.join(indices)}}}"
        return printed if exp is None else f"{printed}^{{{exp}}}"

    def _print_Idx(self, e: Any) -> str:
        return self._print(e.label)

    def _print_Add(self, e: Any, order: Any = None) -> str:
        return super()._print_Add(sympy.Add(*_terms(e), evaluate=False), order)

    def _print_total(self, e: Any) -> str:
        expression, *indices = e.args
        return rf"\sum_{{{self._joined(indices)}}} {self._term(expression)}"

    def _print_largest(self, e: Any) -> str:
        expression, over = e.args
        return rf"\max_{{{self._print(over)}}} {self._term(expression)}"

    def _print_count(self, e: Any, exp: str | None = None) -> str:
        printed = self._print(e.args[0]).upper()
        return printed if exp is None else f"{printed}^{{{exp}}}"

    def _print_partial(self, e: Any) -> str:
        of, by, *_ = e.args
        return rf"\frac{{\partial {self._term(of)}}}{{\partial {self._print(by)}}}"

    def _print_indicator(self, e: Any) -> str:
        return rf"\left[{self._print(e.args[0])}\right]"

    def _joined(self, indices: Any) -> str:
        return ",".join(self._print(i) for i in indices)

    def _term(self, expression: Any) -> str:
        printed = self._print(expression)
        return rf"\left({printed}\right)" if expression.is_Add else printed

    def parenthesize(self, item: Any, level: Any, *args: Any, **options: Any) -> str:
        # A sum takes in all that stands behind it.
        if isinstance(item, total):
            return rf"\left({self._print(item)}\right)"
        return super().parenthesize(item, level, *args, **options)

    def _needs_mul_brackets(self, expr: Any, first: bool = False, last: bool = False) -> bool:
        if isinstance(expr, total):
            return not last
        return super()._needs_mul_brackets(expr, first, last)


def _terms(e: Any) -> list:
    """Those of a sum of sums."""
    return [term for a in e.args for term in (_terms(a) if a.is_Add else [a])]


_PRINTER = _Printer({"order": "none"})


def latex(expression: Any) -> str:
    """The expression in LaTeX."""
    return _PRINTER.doprint(expression)
