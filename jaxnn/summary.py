"""A table of a network: shapes, parameters, what backward keeps in memory, and arithmetic."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax

from jaxnn.captures import static
from jaxnn.layer import Layer, rewrite


class Row(NamedTuple):
    """One layer."""

    layer: str
    """Its place in the network and its name."""
    output: str
    """The shapes of what it returns, the batch included."""
    parameters: int
    """The number of its parameters."""
    residual_bytes: int
    """What it alone keeps in memory from forward to backward, in bytes."""
    flops: int
    """Floating-point operations of its forward pass, as XLA counts them."""


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
            flops=sum(row.flops for row in self.rows),
        )

    def __str__(self) -> str:
        """One line for each layer, then the totals."""
        head = ("layer", "output", "parameters", "kept for backward", "FLOPs")
        cells = [
            (r.layer, r.output, f"{r.parameters:,}", _in_bytes(r.residual_bytes), f"{r.flops:,}")
            for r in (*self.rows, self.total)
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]

        def line(row: tuple[str, ...]) -> str:
            names = (cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True))
            numbers = (cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))
            return "  ".join([*names, *numbers])

        rule = "─" * len(line(head))
        return "\n".join([line(head), rule, *map(line, cells[:-1]), rule, line(cells[-1])])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Trace:
    """What one layer left behind in a traced forward pass."""

    output: Any
    residuals: Any
    parameters: Any
    path: str = static()
    name: str = static()
    traced_output: tuple = static()  # the shapes inside of a scan, without its axis
    flops: int = static()


def summarize(network: Layer, x: Any) -> Summary:
    """Trace the forward pass on inputs shaped like ``x``; nothing is computed.

    An array that several layers keep is counted once, for the first of them; the inputs and the
    parameters, which exist anyway, are not counted.
    """
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(network.init, key, x)
    traced = rewrite(network, _tracing)

    def forward(params, state, x, key):
        return traced.forward(params, state, x, key)[2]

    program, shape = jax.make_jaxpr(forward, return_shape=True)(params, state, x, key)
    variables = jax.tree.unflatten(jax.tree.structure(shape), program.jaxpr.outvars)
    counted = {id(variable) for variable in program.jaxpr.invars}
    traces = jax.tree.leaves(variables, is_leaf=lambda node: isinstance(node, _Trace))
    return Summary(tuple(_row(trace, counted) for trace in traces if isinstance(trace, _Trace)))


def _tracing(path: str, layer: Layer) -> Layer:
    """The layer with a `_Trace` for residuals."""

    def forward(params, state, x, key):
        y, new_state, residuals = layer.forward(params, state, x, key)
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(y))
        trace = _Trace(
            output=y,
            residuals=residuals,
            parameters=params,
            path=path,
            name=layer.name,
            traced_output=shapes,
            flops=_flops(layer, params, state, x, key),
        )
        return y, new_state, trace

    return layer._replace(forward=forward)


def _flops(layer: Layer, *arguments: Any) -> int:
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    lowered = jax.jit(lambda *a: layer.forward(*a)[0]).lower(*shapes)
    return int((lowered.cost_analysis() or {}).get("flops", 0))


def _row(trace: _Trace, counted: set[int]) -> Row:
    outputs = [variable.aval.shape for variable in jax.tree.leaves(trace.output)]
    # What a scan over depth has stacked, it has computed that many times.
    copies = math.prod(outputs[0]) // max(math.prod(trace.traced_output[0]), 1) if outputs else 1
    kept = 0
    for variable in jax.tree.leaves(trace.residuals):
        if id(variable) not in counted:
            counted.add(id(variable))
            kept += variable.aval.size * variable.aval.dtype.itemsize
    return Row(
        layer=f"{trace.path} {trace.name}".strip(),
        output=", ".join(str(list(shape)) for shape in outputs),
        parameters=sum(variable.aval.size for variable in jax.tree.leaves(trace.parameters)),
        residual_bytes=kept,
        flops=trace.flops * copies,
    )


def _in_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
