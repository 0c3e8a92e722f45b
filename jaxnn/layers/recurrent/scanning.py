"""Backpropagation through time, once for all cells: a scan forward and a scan back.

All arrays are time-major here, [time, batch, …], in the order in which the cell meets the times.
The scans hold only what is recurrent. The projection of the inputs is one product before the scan
forward; the scan back returns the deltas of every time, of which the gradient of the inputs and of
all parameters is made by one large product each (Werbos, 1990, for the chain through time).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.core.captures import (
    ContractedCapture,
    LinearCapture,
    contract,
    contract_at_once,
    in_dtypes_of,
)
from jaxnn.kernels.products import contract_axes, sum_dtype, sum_rows
from jaxnn.layers.recurrent.cells import Cell


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
    slopes: Array
    """Of `Cell.step`, stacked over time; the way back overwrites them with du."""
    passing: tuple
    """Of `Cell.step` too."""
    start: Array
    """h before the first time."""
    hs: Array
    """h after each time; an ended example keeps its last."""

    @property
    def before(self) -> Array:
        """h before each time."""
        return jnp.concatenate([self.start[None], self.hs[:-1]])


class Chunked(NamedTuple):
    """The same where it is recomputed: only the state at the start of each chunk is kept."""

    xs: Array
    times: Times
    starts: tuple
    """The state before each chunk, stacked."""


def infer(cell: Cell, params: dict, xs: Array, times: Times, state: tuple) -> tuple[tuple, Array]:
    """The last state, and the outputs of all times, which is all that is kept."""

    def body(state: tuple, inputs: Any):
        state, _, _ = _step(cell, params, state, inputs)
        return state, state[0]

    state, hs = lax.scan(body, state, (xs @ params["input"]["weight"], times))
    return state, _outputs(hs, times)


def forward(
    cell: Cell, params: dict, xs: Array, times: Times, state: tuple
) -> tuple[tuple, Array, Kept]:
    """The last state, the outputs of all times, and what the way back needs."""
    projected = xs @ params["input"]["weight"]
    last, hs, slopes, passing = _run(cell, params, projected, times, state)
    return last, _outputs(hs, times), Kept(xs, times, slopes, passing, state[0], hs)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(
    cell: Cell, params: dict, projected: Array, times: Times, state: tuple
) -> tuple[tuple, Array, Array, tuple]:
    """The last state, and of all times h after them and the two things that the cell keeps.

    The slopes of each time take the place of its u: no array has to be filled for them before, and
    what is written lies in the cache, since it was just read there. The next u is read from the
    array as written, so that nothing needs the array as it was before: XLA writes in place.
    """
    last = len(projected) - 1

    def body(carried: tuple, inputs: Any):
        state, written, u = carried
        time, times = inputs
        state, slopes, passing = _step(cell, params, state, (u, times))
        written = _write(written, slopes, time)
        u = _read(written, jnp.minimum(time + 1, last))
        return (state, written, u), (state[0], passing)

    carried, inputs = (state, projected, projected[0]), (jnp.arange(last + 1), times)
    (state, slopes, _), (hs, passing) = lax.scan(body, carried, inputs)
    return state, hs, slopes, passing


@_run.defjvp
def _run_differentiated(cell: Cell, primals: tuple, tangents: tuple):
    """By JAX, of a scan that overwrites nothing.

    Back through `_run`, reading each time would add an array of all times.
    """

    def run(params: dict, projected: Array, times: Times, state: tuple):
        def body(state: tuple, inputs: Any):
            state, slopes, passing = _step(cell, params, state, inputs)
            return state, (state[0], slopes, passing)

        state, of_times = lax.scan(body, state, (projected, times))
        return state, *of_times

    return jax.jvp(run, primals, tangents)


def backward(
    cell: Cell, params: dict, kept: Kept, dstate: tuple, dhs: Array | None
) -> tuple[tuple, Array, dict]:
    """The gradient by the initial state and by the inputs, and the captures of the parameters.

    ``dstate`` is the cotangent of the last state, ``dhs`` those of the outputs, if they have any.
    """
    back_from_v = params["recurrent"]["weight"].T

    def body(carried: tuple, inputs: Any):
        dstate, written, slopes = carried
        time, passing, times, dh = inputs
        arriving = dstate if dh is None else (dstate[0] + dh, *dstate[1:])
        if times.valid is not None:
            arriving = _where(times.valid, arriving, jnp.zeros_like)
        du, departing = cell.step_back(slopes, passing, arriving)
        dv = cell.recurrent_delta(passing, du)
        departing = (departing[0] + dv @ back_from_v, *departing[1:])
        if times.valid is not None:
            departing = jax.tree.map(
                lambda d, same: jnp.where(times.valid, d, same), departing, dstate
            )
        if times.cut is not None:
            departing = _where(~times.cut, departing, jnp.zeros_like)
        written = _write(written, du, time)
        return (departing, written, _read(written, jnp.maximum(time - 1, 0))), None

    # Each du takes the place of its time's slopes, as these did of u in `_run`. (Whoever has JAX go
    # backward through this, for second derivatives, pays all times at each; forward mode does not.)
    carried = (dstate, kept.slopes, kept.slopes[-1])
    inputs = (jnp.arange(len(kept.xs)), kept.passing, kept.times, dhs)
    (dstate, du, _), _ = lax.scan(body, carried, inputs, reverse=True)
    captures = (_contracted if contract_at_once.value else _captures)(cell, kept, du)
    return dstate, du @ params["input"]["weight"].T, captures


def _captures(cell: Cell, kept: Kept, du: Array) -> dict:
    dv = cell.recurrent_delta(kept.passing, du)
    return {
        "input": LinearCapture(batch_first(kept.xs), batch_first(du)),
        "recurrent": LinearCapture(batch_first(kept.before), batch_first(dv), cell.recurrent_bias),
    }


def _contracted(cell: Cell, kept: Kept, du: Array) -> dict:
    """The gradients of `_captures` alone, in the dtype of sums; time need not follow the batch."""
    dv = cell.recurrent_delta(kept.passing, du)
    if dv is du:  # one product, as if [x h] entered one matrix
        both = contract_axes(jnp.concatenate([kept.xs, kept.before], -1), du)
        of_x, of_h = jnp.split(both, [kept.xs.shape[-1]])
    else:
        of_x, of_h = contract_axes(kept.xs, du), contract_axes(kept.before, dv)
    gradients = {"input": {"weight": of_x, "bias": sum_rows(du)}, "recurrent": {"weight": of_h}}
    if cell.recurrent_bias:
        gradients["recurrent"]["bias"] = sum_rows(dv)
    return {name: ContractedCapture(g, cell.name) for name, g in gradients.items()}


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
        with contract_at_once(True):
            dstate, dxs, captures = backward(cell, params, kept, dstate, dhs)
        return (dstate, jax.tree.map(jnp.add, total, contract(captures))), dxs

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, sum_dtype(p.dtype)), params)
    xs, times = _cut_up(kept.xs, kept.times, chunk)
    inputs = (xs, times, _whole_chunks(dhs, chunk), kept.starts)
    (dstate, total), dxs = lax.scan(body, (dstate, zeros), inputs, reverse=True)
    if not contract_at_once.value:
        total = in_dtypes_of(params, total)
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


def _step(cell: Cell, params: dict, state: tuple, inputs: Any) -> tuple[tuple, Array, tuple]:
    """One time: (the state after it, and the two things that the cell keeps)."""
    u, times = inputs
    if times.cut is not None:
        # So that autodiff cuts the same gradients as `backward`.
        state = _where(~times.cut, state, lax.stop_gradient)
    v = state[0] @ params["recurrent"]["weight"]
    if cell.recurrent_bias:
        v = v + params["recurrent"]["bias"]
    # The bias is added here and not to all times at once, which would be one more large array.
    after, slopes, passing = cell.step(u + params["input"]["bias"], v, state)
    if times.valid is not None:
        after = jax.tree.map(lambda new, old: jnp.where(times.valid, new, old), after, state)
    return after, slopes, passing


def _outputs(hs: Array, times: Times) -> Array:
    return hs if times.valid is None else jnp.where(times.valid, hs, 0)


def _read(array: Array, time: Array) -> Array:
    return lax.dynamic_index_in_dim(array, time, keepdims=False)


def _write(array: Array, of_time: Array, time: Any) -> Array:
    return lax.dynamic_update_index_in_dim(array, of_time, time, 0)


def _where(condition: Array, tree: Any, otherwise: Any) -> Any:
    return jax.tree.map(lambda a: jnp.where(condition, a, otherwise(a)), tree)
