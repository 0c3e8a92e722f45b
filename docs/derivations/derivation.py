"""What a derivation is, and how a machine checks it.

Every array is filled with symbols, of small sizes, and every line becomes an expression of them for
each combination of its indices, derivatives taken by SymPy. Two lines are equal if they are so for
random values of the symbols, to 20 digits: what differs differs nearly everywhere. What the code
computes is compared with the last line of every chain in float64.
"""

import ast
import inspect
import itertools
import random
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sympy

from docs.derivations.notation import (
    L,
    count,
    index,
    indicator,
    largest,
    latex,
    partial,
    size_of,
    total,
)

ROOT = Path(__file__).parents[2]
DIGITS = 20
POINTS = 2


@dataclass(frozen=True)
class Code:
    """A piece of the project's source: where what a line says is computed, not where it is told."""

    owner: Any
    """The function, method or class in whose source it stands."""
    piece: str

    def place(self) -> tuple[str, int]:
        """(path from the project's root, line).

        Raises:
            ValueError: the piece does not stand there, once.
        """
        owner = inspect.unwrap(self.owner)
        lines, first = inspect.getsourcelines(owner)
        source, name = _program(lines), getattr(owner, "__qualname__", owner)
        if source.count(self.piece) != 1:
            raise ValueError(
                f"{name}: expected its source to have {self.piece!r} once, found it "
                f"{source.count(self.piece)} times: what a derivation points to has moved"
            )
        path = Path(inspect.getsourcefile(owner) or "").resolve().relative_to(ROOT)
        return path.as_posix(), max(first, 1) + source[: source.index(self.piece)].count("\n")


def _program(lines: list[str]) -> str:
    """The lines, those of docstrings empty."""
    kept = list(lines)
    for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            told = node.body[0]
            for number in range(told.lineno - 1, told.end_lineno or told.lineno):
                kept[number] = "\n"
    return "".join(kept)


@dataclass(frozen=True)
class Step:
    """One more expression that equals the one before, why, and the code that computes it."""

    equals: Any
    because: str = ""
    code: Code | None = None


@dataclass(frozen=True)
class Chain:
    """What is looked for, and equal expressions, the last of which the code computes."""

    of: Any
    steps: tuple[Step, ...]

    def __init__(self, of: Any, *steps: Step):
        object.__setattr__(self, "of", of)
        object.__setattr__(self, "steps", steps)


@dataclass(frozen=True)
class Derivation:
    """A backward pass, line by line.

    Attributes:
        title: What it is of.
        arrays: What is given, by the names under which `computed` takes it.
        forward: The definitions, each with what it equals: indexed arrays with their indices (a
            name, a number, or their sum), or numbers. A loss is called `L`.
        chains: What is derived from them.
        computed: (the arrays, in float64) -> what the code gives, as a mapping from what stands at
            the left of a definition or chain.
        deltas: For each array that leaves the layer, the array that holds ∂L/∂ of it.
        fixed: Arrays that hold integers, and their values.
        within: The least and greatest values of arrays that do not range from −2 to 2.
    """

    title: str
    arrays: Mapping[str, Any]
    forward: tuple[tuple[Any, Step], ...]
    chains: tuple[Chain, ...]
    computed: Callable[..., Mapping[Any, Any]]
    deltas: Mapping[Any, Any] = field(default_factory=dict)
    fixed: Mapping[Any, Any] = field(default_factory=dict)
    within: Mapping[Any, tuple[float, float]] = field(default_factory=dict)

    def check(self) -> int:
        """Raises unless every line holds and the code computes the last ones; how many equalities
        were compared, each for all values of its indices.

        Raises:
            ValueError: A line does not follow, is not what the code computes, or points to code
                that is not there.
        """
        pieces = [step.code for _, step in self.forward]
        pieces += [step.code for chain in self.chains for step in chain.steps]
        for code in filter(None, pieces):
            code.place()
        equalities = list(self._equalities())
        _require_one_meaning(self.title, [e for _, *both in equalities for e in both])
        for of, before, after in equalities:
            if before == after:
                raise ValueError(f"{self.title}: {latex(after)} is given as its own reason")
            _require_own_names(self.title, of, after)
        return _Comparison(self).check()

    def _equalities(self) -> Iterator[tuple[Any, Any, Any]]:
        """(what stands at the left, an expression, the one that it is said to equal)."""
        for left, step in self.forward:
            yield left, left, step.equals
        for chain in self.chains:
            lines = [chain.of, *(step.equals for step in chain.steps)]
            yield from ((chain.of, *two) for two in itertools.pairwise(lines))


class _Comparison:
    """Of the lines of a derivation, at random values of what is given."""

    def __init__(self, derivation: Derivation):
        self.derivation = derivation
        self.definitions = [(left, step.equals) for left, step in derivation.forward]
        if derivation.deltas:
            # Whatever the loss is, near these values of y it is linear in them.
            linear = [_paired(y, delta) for y, delta in derivation.deltas.items()]
            self.definitions.append((L, sympy.Add(*linear)))
        self.defined = {_base(left) for left, _ in self.definitions}
        self.fixed = {
            base: np.asarray(values, dtype=object) for base, values in derivation.fixed.items()
        }
        self.points: list[dict[Any, Any]] = [{} for _ in range(POINTS)]
        self.draws = random.Random(0)
        self.known: dict[Any, Any] = {}
        self.used: set[Any] = set()

    def check(self) -> int:
        found = [self.derivation.computed(**self._arrays(point)) for point in self.points]
        computed = {left: [one[left] for one in found] for left in found[0]}
        compared = 0
        for left, right in self.definitions:
            if left in computed:
                self._require_computed(left, right, computed[left])
                compared += 1
        for chain in self.derivation.chains:
            before = chain.of
            for step in chain.steps:
                self._require_equal(chain.of, before, step.equals)
                before, compared = step.equals, compared + 1
            if chain.of in computed:
                self._require_computed(chain.of, before, computed[chain.of])
                compared += 1
        self._require_all(set(computed))
        return compared

    def _require_all(self, computed: set[Any]) -> None:
        """Nothing is computed that is not derived; and what leaves the layer, and the derivatives
        of the loss that are derived of what is given, are computed."""
        title, chains = self.derivation.title, [chain.of for chain in self.derivation.chains]
        lefts = [left for left, _ in self.definitions]
        if missing := computed - {*lefts, *chains}:
            raise ValueError(f"{title}: nothing is derived for {missing}")
        given, leaving = set(self.derivation.arrays.values()), set(self.derivation.deltas)
        due = {left for left in lefts if _base(left) in leaving}
        due |= {of for of in chains if isinstance(of, partial) and of.args[0] == L}
        due -= {of for of in due if isinstance(of, partial) and _base(of.args[1]) not in given}
        if missing := due - computed:
            raise ValueError(f"{title}: expected `computed` to have {missing} too")
        if unused := {left for left in lefts if left not in computed | self.used | {L}}:
            raise ValueError(f"{title}: nothing depends on what is defined as {unused}")

    def _arrays(self, point: dict) -> dict[str, Any]:
        arrays = {}
        for name, base in self.derivation.arrays.items():
            shape = tuple(map(int, getattr(base, "shape", ())))
            if base in self.fixed:
                arrays[name] = np.asarray(self.fixed[base].tolist())
            else:
                elements = [point[self._given(base, place)] for place in np.ndindex(*shape)]
                arrays[name] = np.array(elements, float).reshape(shape)[()]
        return arrays

    def _given(self, base: Any, place: tuple[int, ...]) -> sympy.Symbol:
        """The symbol of what is given, which has a value at every point, one that float64 holds."""
        symbol = _symbol(base, place)
        if symbol not in self.points[0]:
            default = (-2, 2) if isinstance(base, sympy.IndexedBase) else (0.25, 0.75)
            low, high = self.derivation.within.get(base, default)
            for point in self.points:
                steps = self.draws.randrange(1, 2**20)
                point[symbol] = sympy.Float(low + (high - low) * steps / 2**20, DIGITS + 15)
        return symbol

    def _require_equal(self, of: Any, left: Any, right: Any) -> None:
        for at in _combinations(of):
            for a, b in zip(self._values(left, at), self._values(right, at), strict=True):
                finite = a.is_finite and b.is_finite
                if not (finite and abs(a - b) <= 10**-DIGITS * max(1, abs(a))):
                    raise ValueError(
                        f"{self.derivation.title}: {latex(left)} = {latex(right)} does not hold: "
                        f"{a.evalf(6)} and {b.evalf(6)} at {at}"
                    )

    def _require_computed(self, of: Any, right: Any, arrays: list[Any]) -> None:
        # Elements are addressed as the left side says: ∂L/∂x by x, others by themselves.
        element = of.args[1] if isinstance(of, partial) else of
        shape = tuple(map(int, getattr(_base(element), "shape", ())))
        if wrong := [np.shape(array) for array in arrays if np.shape(array) != shape]:
            raise ValueError(
                f"{self.derivation.title}: expected what the code computes of {latex(of)} to have "
                f"the shape {shape}, got {wrong[0]}"
            )
        for at in _combinations(of):
            place = tuple(int(sympy.sympify(i).subs(at)) for i in getattr(element, "indices", ()))
            for a, array in zip(self._values(right, at), arrays, strict=True):
                a, b = float(a), float(np.asarray(array)[place])
                if not abs(a - b) <= 1e-10 * max(1, abs(a)):
                    raise ValueError(
                        f"{self.derivation.title}: {latex(of)} = {latex(right)} is not what the "
                        f"code computes: {a:.10g} and {b:.10g} at {at}"
                    )

    def _values(self, expression: Any, at: Mapping[Any, int]) -> list[Any]:
        """What it is at every point, for these values of its indices."""
        own = (expression, *at.values())
        if own not in self.known:
            value = self._value(expression, at, frozenset(), frozenset())
            self.known[own] = [_number(value, point).evalf(DIGITS) for point in self.points]
        return self.known[own]

    def _value(self, e: Any, at: Mapping, kept: frozenset, held: frozenset) -> Any:
        """The expression in symbols of what is given and of what is ``kept`` and ``held``."""
        value = lambda a: self._value(a, at, kept, held)  # noqa: E731
        if isinstance(e, sympy.Idx):
            return sympy.Integer(at[e])
        if isinstance(e, sympy.Indexed):
            return self._element(e.base, tuple(int(value(i)) for i in e.indices), kept, held)
        if isinstance(e, sympy.Symbol):
            return self._element(e, (), kept, held)
        if isinstance(e, total | largest):
            expression, *indices = e.args
            terms = [self._value(expression, {**at, **own}, kept, held) for own in _over(indices)]
            return sympy.Add(*terms) if isinstance(e, total) else sympy.Max(*terms)
        if isinstance(e, count):
            return sympy.Integer(size_of(e.args[0]))
        if isinstance(e, partial):
            return self._derivative(e, at, kept, held)
        if isinstance(e, indicator):
            return sympy.Piecewise((1, value(e.args[0])), (0, True))
        if isinstance(e, sympy.Mul) and any(value(a) == 0 for a in e.args if _is_condition(a)):
            return sympy.Integer(0)
        if definition := getattr(type(e), "definition", None):
            return definition(value(e.args[0]))
        return e.func(*map(value, e.args)) if e.args else e

    def _element(self, base: Any, place: tuple[int, ...], kept: frozenset, held: frozenset) -> Any:
        shape = getattr(base, "shape", ())
        if any(not 0 <= i < size for i, size in zip(place, shape, strict=True)):
            return sympy.Integer(0)
        symbol = _symbol(base, place)
        if base in held or symbol in kept:
            return symbol
        if base in self.fixed:
            return sympy.Integer(int(self.fixed[base][place]))
        own = (symbol, kept, held)
        if own not in self.known:
            self.known[own] = self._defined(base, place, kept, held)
        return self.known[own]

    def _defined(self, base: Any, place: tuple[int, ...], kept: frozenset, held: frozenset) -> Any:
        found = [
            (left, right, at)
            for left, right in self.definitions
            if (at := _matched(left, base, place)) is not None
        ]
        if not found:
            return self._given(base, place)
        (left, right, at), *others = found
        if others:
            raise ValueError(
                f"{self.derivation.title}: {latex(base)} at {place} is defined "
                f"{len(found)} times, by {latex(left)} and {latex(others[0][0])}"
            )
        self.used.add(left)
        return self._value(right, at, kept, held)

    def _derivative(self, e: partial, at: Mapping, kept: frozenset, held: frozenset) -> Any:
        own = (e, *(at.get(i) for i in sorted(e.atoms(sympy.Idx), key=str)), kept, held)
        if own not in self.known:
            self.known[own] = self._differentiated(e, at, kept, held)
        return self.known[own]

    def _differentiated(self, e: partial, at: Mapping, kept: frozenset, held: frozenset) -> Any:
        of, by, *own = e.args
        inner = held | frozenset(own)
        base = _base(by)
        place = tuple(int(self._value(i, at, kept, held)) for i in getattr(by, "indices", ()))
        symbol = _symbol(base, place)
        # What is given is a symbol anyway, unless its values are fixed.
        is_given = base not in self.defined and base not in self.fixed
        moved = kept if is_given else kept | {symbol}
        slope = sympy.diff(self._value(of, at, moved, inner), symbol)
        # What was kept only for the derivative has its value again.
        again = {
            s: self._element(*_BASES[s], kept, held)
            for s in slope.free_symbols
            if s == symbol or _BASES[s][0] in own
        }
        return slope.subs(again)


def _is_condition(e: Any) -> bool:
    return isinstance(e, indicator)


_BASES: dict[Any, tuple[Any, tuple[int, ...]]] = {}


def _symbol(base: Any, place: tuple[int, ...]) -> sympy.Symbol:
    """The symbol that stands for an element."""
    if not isinstance(base, sympy.IndexedBase):
        _BASES[base] = base, ()
        return base
    symbol = sympy.Symbol("_".join(map(str, (base, *place))), real=True)
    _BASES[symbol] = base, place
    return symbol


def _number(e: Any, known: dict[Any, Any]) -> Any:
    """What an expression is, by what is known of its symbols and parts, which it adds to."""
    if not e.args:
        return known.get(e, e)
    if e not in known:
        known[e] = e.func(*(_number(part, known) for part in e.args))
    return known[e]


def _paired(y: sympy.IndexedBase, delta: sympy.IndexedBase) -> total:
    """Σ δ y over all elements."""
    over = [index(f"axis{place}", int(size)) for place, size in enumerate(y.shape)]
    return total(delta[tuple(over)] * y[tuple(over)], *over)


def _matched(left: Any, base: Any, place: tuple[int, ...]) -> dict | None:
    """The values of the indices of a definition with which it is of this element."""
    if isinstance(left, sympy.Symbol):
        return {} if left == base else None
    if left.base != base:
        return None
    at: dict[Any, int] = {}
    for i, value in zip(left.indices, place, strict=True):
        names = sympy.sympify(i).atoms(sympy.Idx)
        if not names and int(i) != value:
            return None
        for name in names:  # one, or one and a number
            at[name] = value - int(i.subs(name, 0))
            if not 0 <= at[name] < size_of(name):
                return None
    return at


def _base(e: Any) -> Any:
    """The array of an element, or the number itself."""
    return e.base if isinstance(e, sympy.Indexed) else e


def _require_own_names(title: str, of: Any, expression: Any) -> None:
    _require_others(title, of, expression, of.atoms(sympy.Idx))


def _require_others(title: str, of: Any, e: Any, taken: Set[Any]) -> None:
    """Raises where a sum within ``e`` is over an index that has a value there already."""
    if isinstance(e, total | largest):
        own = set(e.args[1:])
        if taken & own:
            raise ValueError(
                f"{title}: {latex(e)} sums over an index of {latex(of)}, or of a sum around it: "
                "give it another name"
            )
        taken = taken | own
    for part in e.args:
        if not isinstance(part, sympy.Idx):
            _require_others(title, of, part, taken)


def _require_one_meaning(title: str, expressions: list[Any]) -> None:
    """Raises where one letter stands for two things."""
    meanings: dict[str, Any] = {}
    for e in expressions:
        nodes = sympy.preorder_traversal(e)
        for node in nodes:
            if isinstance(node, sympy.Idx | sympy.IndexedBase | sympy.Symbol | count):
                nodes.skip()  # an index holds its own name
                name = latex(node)
                if meanings.setdefault(name, node) != node:
                    raise ValueError(f"{title}: {name} stands for two things: use another letter")


def _over(indices: Sequence[Any]) -> list[dict[Any, int]]:
    values = itertools.product(*(range(size_of(i)) for i in indices))
    return [dict(zip(indices, v, strict=True)) for v in values]


def _combinations(of: Any) -> list[dict[sympy.Idx, int]]:
    return _over(sorted(of.atoms(sympy.Idx), key=str))
