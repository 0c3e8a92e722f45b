"""Whether an optimiser works layer by layer: found out from its own program, before any step.

The update of a layer may be taken as soon as its gradient is there if the optimiser, given that
layer alone, does what it does given all. Of two steps from the start on, so that its state counts,
JAX's description of the optimiser says what a layer's update is computed from.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from jaxnn.interop.jaxprs import CALLS, aval, jaxpr_of

STEPS = 2


class Own(NamedTuple):
    """The parameters of one layer, as shapes."""

    label: str
    params: Any
    depth: int
    """How many axes of a `repeat` they carry in front, along which they are apart."""


def require_leaf_by_leaf(
    where: str, optimizer: Any, units: Sequence[Own], params: Any, way_out: str | None = None
) -> None:
    """Raise unless the optimiser's update of each layer is the same with that layer alone.

    Args:
        where: What wants it, for the error.
        optimizer: An optax transformation.
        units: The layers with parameters.
        params: All of them, in the tree that the optimiser would be given.
        way_out: What to do where it is not, for the error.

    Raises:
        ValueError: It is not; names the transformation, the layer and the way out.
    """
    for member in members(optimizer):
        _require(where, member, units, params, way_out or _WAY_OUT)


def require_elementwise(where: str, optimizer: Any, own: Own, way_out: str) -> None:
    """Raise ValueError unless the optimiser's update of an element needs that element alone, and
    that of a step nothing but what it was given until then: one that adds gradients up for a later
    step would not be asked again for an element that is not looked up in that.

    Args:
        where: What wants it, for the error.
        optimizer: An optax transformation.
        own: The parameters.
        way_out: What to take otherwise.
    """
    state = jax.eval_shape(optimizer.init, own.params)
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, _ADDING_UP)):
        if isinstance(node, _ADDING_UP):
            raise ValueError(
                f"{where}: expected an optimiser that takes every step, but {name_of(optimizer)} "
                f"adds gradients up ({type(node).__name__}), and those of elements that its last "
                f"step is not of would be lost, for {own.label}: take {way_out}"
            )
    for member in members(optimizer):
        refused = f"{where}: expected an optimiser that works element by element, but"
        refused = f"{refused} {name_of(member)}"
        odd = next(_not_elementwise(_alone(refused, member, own.params)), None)
        if odd:
            raise ValueError(f"{refused} does not ({odd}), for {own.label}: take {way_out}")


def members(optimizer: Any) -> list:
    """The transformations of a chain, or of chains in it; the optimiser by itself otherwise."""
    inits, updates = (_enclosed(f, name) for f, name in zip(optimizer, _PARTS, strict=True))
    if inits is None or updates is None or len(inits) != len(updates):
        return [optimizer]
    chained = [
        optax.GradientTransformationExtraArgs(*pair) for pair in zip(inits, updates, strict=True)
    ]
    return [member for one in chained for member in members(one)]


def name_of(optimizer: Any) -> str:
    """What a transformation is called: the function that made it."""
    inner = _enclosed(optimizer.update, "tx")  # optax.with_extra_args_support wraps what takes none
    if inner is not None:
        return name_of(inner)
    return getattr(optimizer.update, "__qualname__", type(optimizer).__name__).split(".")[0]


_ADDING_UP = optax.MultiStepsState, optax.ApplyEvery
_PARTS = "init_fns", "update_fns"


def _enclosed(function: Callable, name: str) -> Any:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    found = {} if code is None else dict(zip(code.co_freevars, cells, strict=True))
    return found[name].cell_contents if name in found else None


def _require(where: str, optimizer: Any, units: Sequence[Own], params: Any, way_out: str) -> None:
    refused = f"{where}: expected an optimiser that works leaf by leaf, but {name_of(optimizer)}"
    whole, outputs, used = _program(refused, optimizer, [unit.params for unit in units], params)
    for index, unit in enumerate(units):
        own, of_own = _only(whole, [out == index for out in outputs])
        others = {used[i] for i in of_own} - {index}
        if others:
            raise ValueError(
                f"{refused} needs the whole gradient: the update of {unit.label} depends on "
                f"{', '.join(units[i].label for i in sorted(others)[:3])}. {way_out}"
            )
        alone = _alone(refused, optimizer, unit.params)
        if str(own) != str(alone):
            raise ValueError(
                f"{refused} does something else with {unit.label} alone than with all layers. "
                f"{way_out}"
            )
        if not unit.depth:
            continue
        odd = next(_not_elementwise(own), None)
        if odd:
            raise ValueError(
                f"{refused} does not work element by element ({odd}), and the copies of "
                f"{unit.label} in a repeat lie in one array: take serial in place of repeat"
            )
        one = _alone(refused, optimizer, _of_one_copy(unit))
        if _described(own) != _described(one):
            raise ValueError(
                f"{refused} does something else with one copy of {unit.label} than with all of a "
                "repeat, which lie in one array of one more axis: take serial in place of repeat, "
                "or tell parameters apart by their names, not by their axes"
            )


_WAY_OUT = (
    "Clip by clip_norm (all layers together) or clip_layers (each by itself) in place of a "
    "transformation, or take make_step, which holds the whole gradient"
)


def _program(refused: str, optimizer: Any, parts: list, params: Any) -> tuple[Any, list, list]:
    """(what the optimiser computes in some steps, the part that each output and input is of)."""
    treedef = jax.tree.structure(params)
    owners = [i for i, part in enumerate(parts) for _ in jax.tree.leaves(part)]
    update = optax.with_extra_args_support(optimizer).update

    def run(gradients: list, leaves: list, value: Any) -> list:
        own = treedef.unflatten(leaves)
        state, found = optimizer.init(own), []
        for step in gradients:
            updates, state = update(treedef.unflatten(step), state, own, value=value)
            own = optax.apply_updates(own, updates)
            found.append(jax.tree.leaves(own))
        return found

    leaves = jax.tree.leaves(params)
    try:
        program = jax.make_jaxpr(run)([leaves] * STEPS, leaves, jnp.float32(0))
    except Exception as error:  # whatever an optimiser raises that asks for more
        raise ValueError(f"{refused} cannot take a layer by itself: {error}") from error
    return program, owners * STEPS, [*owners * (STEPS + 1), None]


def _alone(refused: str, optimizer: Any, params: Any) -> Jaxpr:
    """What the optimiser computes for the parameters of one layer."""
    program, _, _ = _program(refused, optimizer, [params], params)
    return _only(program, [True] * len(program.jaxpr.outvars))[0]


def _of_one_copy(unit: Own) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[unit.depth :], a.dtype), unit.params)


_SHAPE = re.compile(r"\[[\d,]*\]|\([\d, ]*\)")


def _described(jaxpr: Jaxpr) -> list[str]:
    """Inputs, equations and outputs, whatever the shapes.

    A number in all places of an array is that number, which a scalar has by itself.
    """
    names: dict[Any, str] = {}
    numbers = itertools.count()

    def name(atom: Any) -> str:
        if isinstance(atom, Literal):
            return f"{atom.val}:{aval(atom).dtype}"
        return names[atom] if atom in names else names.setdefault(atom, f"v{next(numbers)}")

    lines = [*map(name, (*jaxpr.constvars, *jaxpr.invars))]
    for equation in jaxpr.eqns:
        given, found, kind = equation.invars, equation.outvars, equation.primitive.name
        if kind == "broadcast_in_dim" and isinstance(given[0], Literal):
            names[found[0]] = name(given[0])
            continue
        options = {option: _option(value) for option, value in equation.params.items()}
        lines.append(f"{[*map(name, found)]} {kind} {options} {[*map(name, given)]}")
    return [*lines, *map(name, jaxpr.outvars)]


def _option(value: Any) -> Any:
    """Of an equation."""
    if isinstance(value, ClosedJaxpr):
        return _described(value.jaxpr)
    if isinstance(value, Jaxpr):
        return _described(value)
    if isinstance(value, tuple | list):
        return [*map(_option, value)] if any(map(_has_equations, value)) else _text(value)
    return _text(value)


def _has_equations(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _text(value: Any) -> str:
    return _SHAPE.sub("", str(value))


def _only(program: ClosedJaxpr, outputs: list) -> tuple[Jaxpr, list[int]]:
    """What is computed for some of the outputs, and the numbers of the inputs that it is made of,
    without the loss, which all may know."""
    own, used = dce_jaxpr(program.jaxpr, outputs)
    return own, [i for i, is_used in enumerate(used[:-1]) if is_used]


_ELEMENTWISE = re.compile(
    r"add|sub|mul|div|rem|max|min|neg|sign|abs|sqrt|rsqrt|cbrt|exp|exp2|"
    r"log|log1p|expm1|tanh|logistic|pow|integer_pow|square|select_n|"
    r"convert_element_type|eq|ne|lt|le|gt|ge|and|or|not|xor|is_finite|"
    r"clamp|floor|ceil|round|nextafter|stop_gradient|copy|copy_p|erf|sin|"
    r"cos|broadcast_in_dim|optimization_barrier|add_any"
)


def _not_elementwise(jaxpr: Jaxpr) -> Iterator[str]:
    """The names of equations that look at more than one element of an array."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        shapes = {aval(v).shape for v in (*equation.invars, *equation.outvars)}
        if name in CALLS:
            yield from _not_elementwise(jaxpr_of(equation))
        elif name == "cond":
            for branch in equation.params["branches"]:
                yield from _not_elementwise(branch.jaxpr)
        elif len(shapes - {()}) > 1 or (not _ELEMENTWISE.fullmatch(name) and shapes != {()}):
            yield name
