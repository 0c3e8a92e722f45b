"""A table of a network: shapes, parameters, what backward keeps in memory, and arithmetic."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from jaxnn.core.adapters import Around
from jaxnn.core.contract import Layer
from jaxnn.core.networks import label, rewrite
from jaxnn.core.pytrees import register_dataclass, static
from jaxnn.core.reversing import Reversed, Reversible


class Row(NamedTuple):
    """One layer."""

    layer: str
    """Its place in the network and its name."""
    output: str
    """The shapes of what it returns, the batch included, and dtypes other than JAX's default."""
    parameters: int
    """The number of its parameters."""
    residual_bytes: int
    """What it alone keeps in memory from forward to backward, in bytes."""
    saved_bytes: int
    """What it would keep if it were not recomputed. While backward is in a recomputed part of the
    network, that part's is there again: the peak falls by the total less the largest part's."""
    flops: int
    """Floating-point operations of its forward pass, as XLA counts them in one iteration of a loop:
    times the iterations of a scan, and once for a while loop, which may end at any of them."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The rows of a network; `str` draws them as a table with totals."""

    rows: tuple[Row, ...]

    @property
    def total(self) -> Row:
        """The sums of the columns."""
        return Row(
            layer="total",
            output="",
            parameters=sum(row.parameters for row in self.rows),
            residual_bytes=sum(row.residual_bytes for row in self.rows),
            saved_bytes=sum(row.saved_bytes for row in self.rows),
            flops=sum(row.flops for row in self.rows),
        )

    def __str__(self) -> str:
        """One line for each layer, then the totals."""
        head = ["layer", "output", "parameters", "kept for backward", "FLOPs"]
        cells = [
            [r.layer, r.output, f"{r.parameters:,}", _in_bytes(r.residual_bytes), f"{r.flops:,}"]
            for r in (*self.rows, self.total)
        ]
        if self.total.saved_bytes:
            head.insert(4, "saved by recomputing")
            for row, r in zip(cells, (*self.rows, self.total), strict=True):
                row.insert(4, _in_bytes(r.saved_bytes))
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]

        def line(row: list[str]) -> str:
            names = (cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True))
            numbers = (cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))
            return "  ".join([*names, *numbers])

        rule = "─" * len(line(head))
        return "\n".join([line(head), rule, *map(line, cells[:-1]), rule, line(cells[-1])])


@register_dataclass
@dataclasses.dataclass(frozen=True)
class _Trace:
    """What one layer left behind in a traced forward pass."""

    output: Any
    residuals: Any
    parameters: Any
    label: str = static()
    traced_output: tuple = static()  # the shapes inside of a scan, without its axis
    flops: int = static()


@register_dataclass
@dataclasses.dataclass(frozen=True)
class _Recomputed:
    """What a recomputed part of the network left behind."""

    kept: Any  # all but the key, a few bytes
    inside: Any  # the tree of its traces, whose residuals are not kept


def summarize(network: Layer, x: Any) -> Summary:
    """Trace the forward pass on inputs shaped like ``x``; nothing is computed.

    An array that several layers keep is counted once, for the first of them; the inputs and the
    parameters, which exist anyway, are not counted. What `recompute` keeps, the input of its layer,
    is counted for the first layer inside.
    """
    traced = rewrite(network, _traced)
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(network.init, key, x)

    def forward(params, state, x, key):
        return traced.forward(params, state, x, key)[2]

    program, shape = jax.make_jaxpr(forward, return_shape=True)(params, state, x, key)
    variables = jax.tree.unflatten(jax.tree.structure(shape), program.jaxpr.outvars)
    traces = list(_traces(variables))
    counted = {id(variable) for variable in program.jaxpr.invars}
    kept = [_bytes(kept, counted) for _, kept, _ in traces]
    # Only now is it known what the layers behind keep anyway.
    saved = [_bytes(forgotten, counted) for _, _, forgotten in traces]
    return Summary(
        tuple(
            _row(trace, *sizes) for (trace, _, _), *sizes in zip(traces, kept, saved, strict=True)
        )
    )


def _traced(path: str, layer: Layer) -> Layer:
    if isinstance(layer, Reversible):
        return _TracedReversible(layer)
    if layer.forgets:
        return _TracedForgetting(layer)
    return layer if layer.parts else _Traced(layer, label(path, layer))


class _Traced(Around):
    """A layer with a `_Trace` for residuals."""

    label: str

    def forward(self, params: Any, state: Any, x: Any, key: Any):
        y, new_state, residuals = self.layer.forward(params, state, x, key)
        trace = _Trace(
            output=y,
            residuals=residuals,
            parameters=params,
            label=self.label,
            traced_output=tuple(leaf.shape for leaf in jax.tree.leaves(y)),
            flops=_flops(self.layer, params, state, x, key),
        )
        return y, new_state, trace


class _TracedForgetting(Around):
    """A layer whose parts' residuals are computed again, with `_Recomputed` for residuals."""

    def forward(self, params: Any, state: Any, x: Any, key: Any):
        keeping = self.layer.keeping  # pyright: ignore[reportAttributeAccessIssue]
        y, new_state, inside = keeping(params, state, x, key)
        return y, new_state, _forgotten(inside, (params, state, x))


class _TracedReversible(Reversible):
    """A layer that finds its input again, likewise: what it keeps is its output."""

    layer: Reversible

    def init(self, key: Any, x: Any):
        return self.layer.init(key, x)

    def advance(self, params: Any, state: Any, x: Any, key: Any):
        keeping = self.layer.keeping  # pyright: ignore[reportAttributeAccessIssue]
        y, new_state, inside = keeping(params, state, x, key)
        return y, new_state, _forgotten(inside, (params, state))

    def reverse(self, params: Any, kept: Any, y: Any, dy: Any):
        return self.layer.reverse(params, kept, y, dy)


def _forgotten(inside: Any, kept: Any) -> _Recomputed:
    """The traces inside, without the residuals that are kept."""
    # Inside of a scan, what goes out of it twice is no longer known to be one array.
    known = {id(leaf) for leaf in jax.tree.leaves(kept)}

    def forget(node: Any) -> Any:
        if _is_trace(node):
            return dataclasses.replace(node, residuals=jax.tree.map(forget, node.residuals))
        return None if id(node) in known else node

    return _Recomputed(kept, jax.tree.map(forget, inside, is_leaf=_is_trace))


def _is_trace(node: Any) -> bool:
    return isinstance(node, _Trace)


def _traces(tree: Any) -> Iterator[tuple[_Trace, Any, Any]]:
    """The traces of a tree, each with what its layer keeps and with what it need not keep."""

    def is_node(node: Any) -> bool:
        return isinstance(node, _Trace | _Recomputed | Reversed)

    for node in filter(is_node, jax.tree.leaves(tree, is_leaf=is_node)):
        if _is_trace(node):
            yield node, node.residuals, ()
        elif isinstance(node, Reversed):
            last = node.y
            for trace, own, forgotten in _traces(node.kept):
                yield trace, (own, last), forgotten
                last = ()
        else:
            kept = node.kept
            for trace, own, forgotten in _traces(node.inside):
                yield trace, kept, (own, forgotten)
                kept = ()


def _flops(layer: Layer, *arguments: Any) -> int:
    program = jax.make_jaxpr(lambda *a: layer.forward(*a)[0])(*_shapes(arguments))
    return int(_counted(program) + _repeated(program.jaxpr))


def _counted(program: ClosedJaxpr) -> float:
    """As XLA counts them: the body of a loop once, whatever its number of iterations."""
    lowered = jax.jit(jaxpr_as_fun(program)).lower(*_shapes(program.in_avals))
    return (lowered.cost_analysis() or {}).get("flops", 0)


def _repeated(program: Jaxpr) -> float:
    """Those of the iterations of scans that XLA does not count."""
    total = 0.0
    for equation in program.eqns:
        inside = jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_program)
        programs = [part for part in inside if _is_program(part)]
        length = 1
        if equation.primitive.name == "scan":
            length, unroll = equation.params["length"], equation.params["unroll"]
            # An unrolled body is counted as often as it stands there, and what is left over beside.
            seen = min(length, unroll + length % unroll)
            total += (length - seen) * _counted(equation.params["jaxpr"])
        total += length * sum(_repeated(getattr(part, "jaxpr", part)) for part in programs)
    return total


def _is_program(part: Any) -> bool:
    return isinstance(part, Jaxpr | ClosedJaxpr)


def _shapes(arguments: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)


def _bytes(variables: Any, counted: set[int]) -> int:
    """The size of the variables that are not among those counted, which they now are."""
    total = 0
    for variable in jax.tree.leaves(variables):
        if id(variable) not in counted:
            counted.add(id(variable))
            total += variable.aval.size * variable.aval.dtype.itemsize
    return total


def _row(trace: _Trace, kept: int, saved: int) -> Row:
    outputs = [variable.aval.shape for variable in jax.tree.leaves(trace.output)]
    # What a scan over depth has stacked, it has computed that many times.
    copies = math.prod(outputs[0]) // max(math.prod(trace.traced_output[0]), 1) if outputs else 1
    return Row(
        layer=trace.label,
        output=", ".join(map(_shape, jax.tree.leaves(trace.output))),
        parameters=sum(variable.aval.size for variable in jax.tree.leaves(trace.parameters)),
        residual_bytes=kept,
        saved_bytes=saved,
        flops=trace.flops * copies,
    )


def _shape(variable: Any) -> str:
    """ "[2, 3]", with the dtype before it where that is not JAX's default one."""
    aval = variable.aval
    usual = aval.dtype == jax.dtypes.canonicalize_dtype(float)
    return f"{'' if usual else aval.dtype}{list(aval.shape)}"


def _in_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
