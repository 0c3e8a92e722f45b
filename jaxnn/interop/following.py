"""Where the parameters of a function meet its data, read off its jaxpr.

Each parameter is followed through what only moves its elements (transpose, reshape, slice, cast, …)
to the operations that are linear in it and take data beside it: these are its *uses*, at whose
outputs the deltas of backpropagation say all about its gradient. A parameter that goes another way,
through a nonlinear function or into another parameter, is *explicit*: every example has a gradient
of it, which is not a product of anything smaller.

`follow` makes a plan of a jaxpr, without computing anything; `jaxnn.interop.running` carries it
out.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxnn.core.moves import Move, Moves, layout
from jaxnn.interop.jaxprs import CALLS, aval, jaxpr_of, scan_sizes
from jaxnn.interop.substitutes import substitute


@dataclasses.dataclass(frozen=True)
class Followed:
    """A parameter, or a part of one, inside of a value."""

    leaf: int
    """Which one, among the leaves of the parameters."""
    shape: tuple[int, ...]
    """Of the leaf."""
    moves: Moves
    """What has brought it here; of what a scan takes in slices, for all of its steps at once."""
    stacked: tuple[int, ...] = ()
    """The scans that take a slice of it in each step, outer first: what comes of ``moves`` has an
    axis for each before its own."""
    factor: float = 1.0
    """What it has been multiplied by."""
    window: tuple[tuple[int, int], ...] | None = None
    """Where in the value it lies, (start, size) of each axis; None where it is all of it."""

    def moved(self, *more: Move) -> "Followed":
        """After further moves, of the value in one step of its scans."""
        return dataclasses.replace(self, moves=self.moves + tuple(map(self._lifted, more)))

    def _lifted(self, one: Move) -> Move:
        kind, argument = one
        n = len(self.stacked)
        if not n:
            return one
        lengths = layout_of(self).shape[:n]
        match kind:
            case "transpose":
                return kind, (*range(n), *(axis + n for axis in argument))
            case "slice":
                return kind, (*((0, length, 1) for length in lengths), *argument)
            case _:
                return kind, (*lengths, *argument)


Tag = tuple[Followed, ...]
"""What is inside of one value; the sum of these and of data. Empty for data alone."""


@dataclasses.dataclass(frozen=True)
class Scan:
    """A loop whose steps are known."""

    number: int
    length: int


@dataclasses.dataclass
class Use:
    """An operation that takes parameters and data."""

    kind: str
    """The name of its primitive; "add" of every sum."""
    equation: JaxprEqn
    side: int
    """Which operand the parameters are in."""
    tag: Tag
    scans: tuple[Scan, ...]
    """Around it, outer first."""
    source: "Source | None" = None
    """Of an addition to the output of another use, which nothing else reads: that use, whose deltas
    are the same."""

    @property
    def output(self) -> Any:
        """Its shape and dtype, without scans."""
        return aval(self.equation.outvars[0])

    @property
    def data(self) -> Any:
        """The variable of the other operand, of a slice that of where it begins; None of a sum,
        which does not need it."""
        if self.kind == "add":
            return None
        if (axis := sliced_axis(self.equation)) is not None:
            return self.equation.invars[1 + axis]
        return self.equation.invars[1 - self.side]


@dataclasses.dataclass
class Plan:
    """What is to be done at the equations of a jaxpr that is not just computing them."""

    jaxpr: Jaxpr
    uses: dict[int, int] = dataclasses.field(default_factory=dict)
    """The use at an equation."""
    inner: dict[int, tuple["Plan", ...]] = dataclasses.field(default_factory=dict)
    """The plans of the jaxprs inside of an equation."""

    def numbers(self) -> list[int]:
        """All uses in it, in order."""
        deeper = (plan.numbers() for plans in self.inner.values() for plan in plans)
        return sorted([*self.uses.values(), *(n for numbers in deeper for n in numbers)])


@dataclasses.dataclass
class Findings:
    """All that is known of a function's parameters."""

    plan: Plan
    uses: list[Use]
    explicit: dict[int, str]
    """Why a leaf is explicit."""


class _Explicit(Exception):
    """Leaves that cannot be followed through an equation: look at it again without them."""

    def __init__(self, tag: Iterable[Followed], reason: str):
        self.leaves, self.reason = {f.leaf for f in tag}, reason


def follow(
    closed: ClosedJaxpr,
    parameters: int,
    path_of: Callable[[int], str],
    explicit: dict[int, str],
) -> Findings:
    """Findings about a function whose first so many arguments are its parameters; those that are
    ``explicit`` already are not followed.

    Raises:
        ValueError: a parameter is used in a loop whose number of steps depends on data, through
            which no derivative can be had; ``path_of`` a leaf is what the error calls it.
    """
    follower = _Follower(path_of, dict(explicit))
    tags: list[Tag] = [
        (Followed(i, aval(v).shape, ()),) if i < parameters else ()
        for i, v in enumerate(closed.jaxpr.invars)
    ]
    plan, outputs, _ = follower.follow(closed.jaxpr, tags, ())
    for tag in outputs:
        follower.give_up(tag, "is part of the result itself")
    for use in follower.uses:
        use.tag = follower.still(use.tag)
    return Findings(plan, follower.uses, follower.explicit)


Source = tuple[int, tuple[int | None, ...]]
"""The use that a value is the output of, and which of its axes each axis of the value is."""


class _Follower:
    def __init__(self, path_of: Callable[[int], str], explicit: dict[int, str]):
        self.uses: list[Use] = []
        self.scans = 0
        self.path_of = path_of
        self.explicit = explicit

    def give_up(self, leaves: Iterable[Followed | int], reason: str) -> None:
        """Make leaves explicit: what they have entered before is data."""
        numbers = (f.leaf if isinstance(f, Followed) else f for f in leaves)
        self.explicit |= {n: reason for n in numbers if n not in self.explicit}

    def still(self, tag: Tag) -> Tag:
        """What is followed of a tag."""
        return tuple(f for f in tag if f.leaf not in self.explicit)

    def follow(
        self,
        jaxpr: Jaxpr,
        tags: list[Tag],
        scans: tuple[Scan, ...],
        known: dict[int, Any] | None = None,
    ) -> tuple[Plan, list[Tag], list[Source | None]]:
        """(plan, the tags of the results, where they come from)."""
        plan = Plan(jaxpr)
        env = _Environment(jaxpr, tags, known or {}, self.still)
        for index, equation in enumerate(jaxpr.eqns):
            uses = len(self.uses)
            while True:
                try:
                    self._equation(plan, index, equation, env, scans)
                    break
                except _Explicit as found:
                    del self.uses[uses:]
                    self.give_up(found.leaves, found.reason)
        return plan, [env.tag(v) for v in jaxpr.outvars], [env.source(v) for v in jaxpr.outvars]

    def _equation(self, plan: Plan, index: int, equation: JaxprEqn, env: Any, scans: tuple) -> None:
        name = equation.primitive.name
        plan.inner.pop(index, None)
        if not any(map(env.tag, equation.invars)):
            if name in CALLS and _has_substitute(equation):
                self._call(plan, index, equation, env, scans)
            env.follow_data(equation)
        elif name in CALLS:
            self._call(plan, index, equation, env, scans)
        elif name == "scan":
            self._scan(plan, index, equation, env, scans)
        elif name == "cond":
            self._branches(plan, index, equation, env, scans)
        elif name == "while":
            paths = sorted({self.path_of(f.leaf) for v in equation.invars for f in env.tag(v)})
            raise ValueError(
                "captures: expected parameters outside of loops whose number of steps depends on "
                f"data, but {', '.join(paths)} is used in a while loop, through which JAX has no "
                "gradient; give the loop a fixed number of steps (jax.lax.scan, or "
                "jax.lax.fori_loop with numbers known when it is traced)"
            )
        elif not self._move(equation, env):
            self._use(plan, index, equation, env, scans)

    # Jaxprs inside of equations.

    def _call(self, plan: Plan, index: int, equation: JaxprEqn, env: Any, scans: tuple) -> None:
        jaxpr = jaxpr_of(equation)
        known = {i: env.value(v) for i, v in enumerate(equation.invars) if env.is_known(v)}
        own, tags, sources = self.follow(jaxpr, [env.tag(v) for v in equation.invars], scans, known)
        plan.inner[index] = (own,)
        for var, tag, source in zip(equation.outvars, tags, sources, strict=True):
            env.set(var, tag, source)

    def _scan(self, plan: Plan, index: int, equation: JaxprEqn, env: Any, scans: tuple) -> None:
        p = equation.params
        consts, carries = scan_sizes(equation)
        tags = [env.tag(v) for v in equation.invars]
        for tag in tags[consts : consts + carries]:
            if tag:
                raise _Explicit(tag, "is carried from step to step of a scan")
        scan = Scan(self.scans, p["length"])
        self.scans += 1
        for i, tag in enumerate(tags[consts + carries :], consts + carries):
            tags[i] = tuple(_taken_in_steps(f, scan) for f in tag)
        inner = p["jaxpr"].jaxpr
        own, outputs, _ = self.follow(inner, tags, (*scans, scan))
        for tag in outputs:
            if tag:
                raise _Explicit(tag, "is itself what a scan returns")
        plan.inner[index] = (own,)

    def _branches(self, plan: Plan, index: int, equation: JaxprEqn, env: Any, scans: tuple) -> None:
        which, *operands = (env.tag(v) for v in equation.invars)
        if which:
            raise _Explicit(which, "decides which branch of a cond is taken")
        plans = []
        for branch in equation.params["branches"]:
            own, outputs, _ = self.follow(branch.jaxpr, operands, scans)
            for tag in outputs:
                if tag:
                    raise _Explicit(tag, "is itself what a branch of a cond returns")
            plans.append(own)
        plan.inner[index] = tuple(plans)

    # Equations.

    def _move(self, equation: JaxprEqn, env: Any) -> bool:
        """Whether the equation leaves the value a parameter; its result then has a tag."""
        name, p = equation.primitive.name, equation.params
        operands = [env.tag(v) for v in equation.invars]
        output = equation.outvars[0]
        shape = aval(output).shape
        is_inexact = [jnp.issubdtype(aval(v).dtype, jnp.inexact) for v in equation.outvars]
        if name == "stop_gradient" or not any(is_inexact):
            return True
        if jnp.issubdtype(aval(output).dtype, jnp.complexfloating):
            return False
        if name in _UNCHANGED:
            for var, tag in zip(equation.outvars, operands, strict=True):
                env.set(var, tag)
            return True
        first = operands[0]
        if len(equation.invars) == 1:
            if name == "neg":
                env.set(output, tuple(_times(f, -1.0) for f in first))
                return True
            moves = _moves_of(name, p, aval(equation.invars[0]).shape, shape)
            if moves is None:
                return False
            moved = [_moved(f, moves) for f in first]
            if None in moved:
                raise _Explicit(first, f"goes through `{name}` beside other values")
            env.set(output, tuple(moved))
            return True
        if name in ("mul", "div"):
            side = 0 if operands[0] else 1
            other = equation.invars[1 - side]
            if not env.is_known(other) or (name == "div" and side == 1) or operands[1 - side]:
                return False
            factor = float(env.value(other))
            if aval(equation.invars[side]).shape != shape or (name == "div" and factor == 0):
                return False
            factor = factor if name == "mul" else 1 / factor
            env.set(output, tuple(_times(f, factor) for f in operands[side]))
            return True
        if name in _SUMS and all(operands):
            if any(aval(v).shape != shape for v in equation.invars):
                raise _Explicit(operands[1], "is added to another parameter of another shape")
            sign = -1.0 if name == "sub" else 1.0
            env.set(output, operands[0] + tuple(_times(f, sign) for f in operands[1]))
            return True
        if name == "concatenate":
            env.set(output, tuple(_side_by_side(equation, operands)))
            return True
        if name == "dynamic_slice" and all(map(env.is_known, equation.invars[1:])):
            sizes = p["slice_sizes"]
            limits = (n - s for n, s in zip(aval(equation.invars[0]).shape, sizes, strict=True))
            starts = [
                int(np.clip(env.value(v), 0, limit))
                for v, limit in zip(equation.invars[1:], limits, strict=True)
            ]
            bounds = tuple((s, s + n, 1) for s, n in zip(starts, sizes, strict=True))
            moved = [_moved(f, (("slice", bounds),)) for f in first]
            if None in moved:
                raise _Explicit(first, "is sliced beside other values")
            env.set(output, tuple(moved))
            return True
        return False

    def _use(self, plan: Plan, index: int, equation: JaxprEqn, env: Any, scans: tuple) -> None:
        name = equation.primitive.name
        operands = [env.tag(v) for v in equation.invars]
        tagged = [i for i, tag in enumerate(operands) if tag]
        if len(tagged) > 1:
            # The smaller one costs less as what every example has a gradient of.
            smallest = min(tagged, key=lambda i: max(math.prod(f.shape) for f in operands[i]))
            raise _Explicit(operands[smallest], f"meets another parameter in `{name}`")
        (side,) = tagged
        if side not in _SIDES.get(name, ()):
            raise _Explicit(operands[side], f"goes through `{name}`")
        if any(
            jnp.issubdtype(aval(v).dtype, jnp.complexfloating)
            for v in (*equation.invars, *equation.outvars)
        ):
            raise _Explicit(operands[side], f"meets complex numbers in `{name}`")
        kind = "add" if name in _SUMS else name
        tag = operands[side]
        if name == "dynamic_slice" and (
            sliced_axis(equation) is None or any(f.window is not None for f in tag)
        ):
            raise _Explicit(tag, "is sliced at several places of the data")
        if name == "sub" and side == 1:
            tag = tuple(_times(f, -1.0) for f in tag)
        use = Use(kind, equation, side, tag, scans)
        output = equation.outvars[0]
        if kind == "add" and not (name == "sub" and side == 0):  # there the deltas' signs differ
            source = env.source(equation.invars[1 - side])
            same_shape = aval(equation.invars[1 - side]).shape == aval(output).shape
            if source and same_shape and self.uses[source[0]].scans == scans:
                use.source = source
        number = len(self.uses)
        self.uses.append(use)
        plan.uses[index] = number
        if kind in ("dot_general", "conv_general_dilated"):
            env.set(output, (), (number, tuple(range(len(aval(output).shape)))))


class _Environment:
    """What is known of the variables of one jaxpr."""

    def __init__(
        self,
        jaxpr: Jaxpr,
        tags: list[Tag],
        known: dict[int, Any],
        still: Callable[[Tag], Tag],
    ):
        self.still = still
        self.tags = {v: t for v, t in zip(jaxpr.invars, tags, strict=True) if t}
        self.sources: dict[Any, Source] = {}
        self.known = {jaxpr.invars[i]: value for i, value in known.items()}
        self.readers: dict[Any, int] = {}
        for atom in [v for e in jaxpr.eqns for v in e.invars] + list(jaxpr.outvars):
            if not isinstance(atom, Literal):
                self.readers[atom] = self.readers.get(atom, 0) + 1

    def tag(self, atom: Any) -> Tag:
        return () if isinstance(atom, Literal) else self.still(self.tags.get(atom, ()))

    def source(self, atom: Any) -> Source | None:
        """The use that it comes from, where nothing else reads that."""
        if isinstance(atom, Literal) or self.readers.get(atom, 0) != 1:
            return None
        return self.sources.get(atom)

    def set(self, var: Any, tag: Tag, source: Source | None = None) -> None:
        if tag:
            self.tags[var] = tag
        if source is not None:
            self.sources[var] = source

    def is_known(self, atom: Any) -> bool:
        return (isinstance(atom, Literal) and np.ndim(atom.val) == 0) or (
            not isinstance(atom, Literal) and atom in self.known
        )

    def value(self, atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else self.known[atom]

    def follow_data(self, equation: JaxprEqn) -> None:
        """An equation without parameters: numbers that do not depend on data stay known, and what
        moves the output of a use alone is still its output."""
        output = equation.outvars[0]
        name, p = equation.primitive.name, equation.params
        is_small = len(equation.outvars) == 1 and aval(output).shape == ()
        if is_small and name in _ARITHMETIC and all(map(self.is_known, equation.invars)):
            with jax.ensure_compile_time_eval():
                arguments = [jnp.asarray(self.value(v), aval(v).dtype) for v in equation.invars]
                self.known[output] = np.asarray(equation.primitive.bind(*arguments, **p))
        if len(equation.invars) != 1 or (source := self.source(equation.invars[0])) is None:
            return
        axes = _axes_after(name, p, source[1], aval(equation.invars[0]).shape, aval(output).shape)
        if axes is not None:
            self.sources[output] = (source[0], axes)


_UNCHANGED = {
    "convert_element_type",
    "copy",
    "copy_p",
    "name",
    "reduce_precision",
    "optimization_barrier",
    "sharding_constraint",
}
_SUMS = {"add", "add_any", "sub"}
_ARITHMETIC = {
    *("add", "sub", "mul", "div", "neg", "sqrt", "rsqrt", "pow", "integer_pow", "exp", "log"),
    *("convert_element_type", "max", "min", "rem", "lt", "select_n", "square"),
}
_SIDES = {
    "dot_general": (0, 1),
    "conv_general_dilated": (1,),
    "gather": (0,),
    "dynamic_slice": (0,),
    "mul": (0, 1),
    "div": (0,),
    "add": (0, 1),
    "add_any": (0, 1),
    "sub": (0, 1),
}
"""The operands in which each operation is linear."""


def sliced_axis(equation: JaxprEqn) -> int | None:
    """The one axis that a `dynamic_slice` does not take all of."""
    if equation.primitive.name != "dynamic_slice":
        return None
    pairs = zip(equation.params["slice_sizes"], aval(equation.invars[0]).shape, strict=True)
    axes = [axis for axis, (size, whole) in enumerate(pairs) if size != whole]
    return axes[0] if len(axes) == 1 else None


def _has_substitute(equation: JaxprEqn) -> bool:
    """Whether an operation in a call is run by another; see `jaxnn.interop.substitutes`."""
    return any(
        substitute(inner) is not None or (inner.primitive.name in CALLS and _has_substitute(inner))
        for inner in jaxpr_of(equation).eqns
    )


def layout_of(followed: Followed) -> np.ndarray:
    """The layout of its elements; what cannot be seen as one is explicit."""
    seen = layout(followed.shape, followed.moves)
    if seen is None:
        raise _Explicit((followed,), "is reshaped so that its elements lie in no regular order")
    return seen


def _times(followed: Followed, factor: float) -> Followed:
    return dataclasses.replace(followed, factor=followed.factor * factor)


def _taken_in_steps(followed: Followed, scan: Scan) -> Followed:
    if followed.window is not None:
        raise _Explicit((followed,), "is scanned beside other values")
    return dataclasses.replace(followed, stacked=(*followed.stacked, scan.number))


def _moves_of(name: str, p: dict, shape: tuple, output: tuple) -> Moves | None:
    match name:
        case "transpose":
            return (("transpose", tuple(p["permutation"])),)
        case "reshape" if p.get("dimensions") is None:
            return (("reshape", output),)
        case "squeeze" | "expand_dims":
            return (("reshape", output),)
        case "slice":
            steps = p["strides"] or (1,) * len(shape)
            bounds = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
            return (("slice", tuple(bounds)),)
        case "tile":
            apart = tuple(k for n in shape for k in (1, n))
            wide = tuple(k for pair in zip(p["reps"], shape, strict=True) for k in pair)
            return (("reshape", apart), ("broadcast", wide), ("reshape", output))
        case "rev":
            reverse = (None, None, -1)
            whole = ((0, n, 1) for n in shape)
            bounds = (
                reverse if axis in p["dimensions"] else all_ for axis, all_ in enumerate(whole)
            )
            return (("slice", tuple(bounds)),)
        case "broadcast_in_dim":
            expanded = [1] * len(output)
            for axis, size in zip(p["broadcast_dimensions"], shape, strict=True):
                expanded[axis] = size
            wide = ("reshape", tuple(expanded))
            return (wide,) if tuple(expanded) == output else (wide, ("broadcast", output))
    return None


def _moved(followed: Followed, moves: Moves) -> Followed | None:
    """After the moves; None where its window does not stay one."""
    if followed.window is None:
        moved = followed.moved(*moves)
        layout_of(moved)
        return moved
    (kind, argument), *rest = moves
    if rest or kind != "transpose":
        return None
    window = tuple(followed.window[axis] for axis in argument)
    return dataclasses.replace(followed.moved(*moves), window=window)


def _side_by_side(equation: JaxprEqn, operands: list[Tag]) -> Iterable[Followed]:
    """The tag of a concatenation."""
    axis, start = equation.params["dimension"], 0
    for var, tag in zip(equation.invars, operands, strict=True):
        shape = aval(var).shape
        if not tag:
            everything = [f for other in operands for f in other]
            raise _Explicit(everything, "is concatenated with data")
        for f in tag:
            if f.window is not None:
                raise _Explicit((f,), "is concatenated twice")
            window = [(0, n) for n in shape]
            window[axis] = (start, shape[axis])
            yield dataclasses.replace(f, window=tuple(window))
        start += shape[axis]


def _axes_after(
    name: str, p: dict, axes: tuple[int | None, ...], shape: tuple, output: tuple
) -> tuple[int | None, ...] | None:
    """Which axes of a use's output those of a value are, once that has been moved."""
    if name == "transpose":
        return tuple(axes[axis] for axis in p["permutation"])
    if name not in ("reshape", "squeeze", "expand_dims", "broadcast_in_dim"):
        return None
    # Axes of size 1 may come and go.
    kept = [axis for axis, size in zip(axes, shape, strict=True) if size != 1]
    if [n for n in shape if n != 1] != [n for n in output if n != 1]:
        return None
    rest = iter(kept)
    return tuple(next(rest) if n != 1 else None for n in output)
