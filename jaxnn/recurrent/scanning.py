"""Backpropagation through time, once for all cells: a scan forward and a scan back.

All arrays are time-major here, [time, batch, …], in the order in which the cell meets the times.
The scans hold only what is recurrent. The projection of the inputs is one product before the scan
forward; the scan back returns the deltas of every time, of which the gradient of the inputs and of
all parameters is made by one large product each (Werbos, 1990, for the chain through time).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.captures import ContractedCapture, LinearCapture, accumulator, contract
from jaxnn.recurrent.cells import Cell


class Times(NamedTuple):
    """What is special about some times; None where none is."""

    valid: Array | None
    """[time, batch, 1], False where an example has ended: it keeps its state, its output is 0."""
    cut: Array | None
    """[time, 1, 1], True where no gradient passes to the time before."""


class Kept(NamedTuple):
    """What the way back needs."""

    xs: Array
    times: Times
    gates: Any
    """Of the cell, stacked over time."""
    before: tuple
    """The state before each time, stacked."""


class Chunked(NamedTuple):
    """The same where it is recomputed: only the state at the start of each chunk is kept."""

    xs: Array
    times: Times
    starts: tuple
    """The state before each chunk, stacked."""


def infer(cell: Cell, params: dict, xs: Array, times: Times, state: tuple) -> tuple[tuple, Array]:
    """The last state, and the outputs of all times, which is all that is kept."""

    def body(state: tuple, inputs: Any):
        _, state, h, _ = _step(cell, params, state, inputs)
        return state, h

    return lax.scan(body, state, (xs @ params["input"]["weight"], times))


def forward(
    cell: Cell, params: dict, xs: Array, times: Times, state: tuple
) -> tuple[tuple, Array, Kept]:
    """The last state, the outputs of all times, and what the way back needs."""

    def body(state: tuple, inputs: Any):
        before, state, h, gates = _step(cell, params, state, inputs)
        return state, (h, gates, before)

    projected = xs @ params["input"]["weight"]
    state, (hs, gates, before) = lax.scan(body, state, (projected, times))
    return state, hs, Kept(xs, times, gates, before)


def backward(
    cell: Cell, params: dict, kept: Kept, dstate: tuple, dhs: Array | None
) -> tuple[tuple, Array, dict]:
    """The gradient by the initial state and by the inputs, and the captures of the parameters.

    ``dstate`` is the cotangent of the last state, ``dhs`` those of the outputs, if they have any.
    """
    xs, times, gates, before = kept
    back_from_v = params["recurrent"]["weight"].T

    def body(dstate: tuple, inputs: Any):
        gates, before, times, dh = inputs
        arriving = dstate if dh is None else (dstate[0] + dh, *dstate[1:])
        if times.valid is not None:
            arriving = _where(times.valid, arriving, jnp.zeros_like)
        du, departing = cell.step_back(gates, before, arriving)
        dv = cell.recurrent_delta(gates, du)
        departing = (departing[0] + dv @ back_from_v, *departing[1:])
        if times.valid is not None:
            departing = jax.tree.map(
                lambda d, same: jnp.where(times.valid, d, same), departing, dstate
            )
        if times.cut is not None:
            departing = _where(~times.cut, departing, jnp.zeros_like)
        return departing, du

    dstate, du = lax.scan(body, dstate, (gates, before, times, dhs), reverse=True)
    dv = cell.recurrent_delta(gates, du)
    captures = {
        "input": LinearCapture(batch_first(xs), batch_first(du)),
        "recurrent": LinearCapture(batch_first(before[0]), batch_first(dv), cell.recurrent_bias),
    }
    return dstate, du @ params["input"]["weight"].T, captures


def forward_in_chunks(
    cell: Cell, params: dict, xs: Array, times: Times, state: tuple, chunk: int
) -> tuple[tuple, Array, Chunked]:
    """`forward`, keeping the state before every ``chunk`` times alone."""

    def body(state: tuple, inputs: Any):
        xs, times = inputs
        last, hs = infer(cell, params, xs, times, state)
        return last, (state, hs)

    state, (starts, hs) = lax.scan(body, state, _cut_up(xs, times, chunk))
    return state, _joined(hs)[: len(xs)], Chunked(xs, times, starts)


def backward_in_chunks(
    cell: Cell, params: dict, kept: Chunked, dstate: tuple, dhs: Array | None, chunk: int
) -> tuple[tuple, Array, dict]:
    """`backward`, each chunk run forward again before (Chen et al., 2016).

    Neither what a chunk keeps nor its deltas outlive it: the parameters' gradients are contracted
    chunk by chunk and added up.
    """

    def body(carried: tuple, inputs: Any):
        dstate, total = carried
        xs, times, dhs, start = inputs
        _, _, kept = forward(cell, params, xs, times, start)
        dstate, dxs, captures = backward(cell, params, kept, dstate, dhs)
        return (dstate, jax.tree.map(jnp.add, total, contract(captures))), dxs

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator(p.dtype)), params)
    xs, times = _cut_up(kept.xs, kept.times, chunk)
    inputs = (xs, times, _whole_chunks(dhs, chunk), kept.starts)
    (dstate, total), dxs = lax.scan(body, (dstate, zeros), inputs, reverse=True)
    total = jax.tree.map(lambda g, p: g.astype(p.dtype), total, params)
    captures = {name: ContractedCapture(g, cell.name) for name, g in total.items()}
    return dstate, _joined(dxs)[: len(kept.xs)], captures


def _cut_up(xs: Array, times: Times, chunk: int) -> tuple[Array, Times]:
    """Inputs and times by chunks; the last one is filled up with times that are not valid."""
    if len(xs) % chunk and times.valid is None:
        times = times._replace(valid=jnp.ones((len(xs), 1, 1), bool))
    return _whole_chunks(xs, chunk), _whole_chunks(times, chunk)


def _whole_chunks(tree: Any, chunk: int) -> Any:
    """[time, …] as [chunks, chunk, …], with zeros at the end."""

    def cut(a: Array):
        chunks = -(-len(a) // chunk)
        missing = [(0, chunks * chunk - len(a)), *[(0, 0)] * (a.ndim - 1)]
        return jnp.pad(a, missing).reshape(chunks, chunk, *a.shape[1:])

    return jax.tree.map(cut, tree)


def _joined(chunks: Array) -> Array:
    """[chunks, chunk, …] as [time, …]."""
    return chunks.reshape(chunks.shape[0] * chunks.shape[1], *chunks.shape[2:])


def batch_first(a: Array) -> Array:
    """[time, batch, …] as [batch, time, …], and back."""
    return jnp.swapaxes(a, 0, 1)


def _step(cell: Cell, params: dict, state: tuple, inputs: Any) -> tuple[tuple, tuple, Array, Any]:
    """One time: (the state before, the state after, the output, what the cell keeps)."""
    u, times = inputs
    if times.cut is not None:
        # So that autodiff cuts the same gradients as `backward`.
        state = _where(~times.cut, state, lax.stop_gradient)
    v = state[0] @ params["recurrent"]["weight"]
    if cell.recurrent_bias:
        v = v + params["recurrent"]["bias"]
    # The bias is added here and not to all times at once, which would be one more large array.
    after, gates = cell.step(u + params["input"]["bias"], v, state)
    if times.valid is None:
        return state, after, after[0], gates
    kept = jax.tree.map(lambda new, old: jnp.where(times.valid, new, old), after, state)
    return state, kept, jnp.where(times.valid, after[0], 0), gates


def _where(condition: Array, tree: Any, otherwise: Any) -> Any:
    return jax.tree.map(lambda a: jnp.where(condition, a, otherwise(a)), tree)
