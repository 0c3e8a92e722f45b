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

from jaxnn.core.captures import LinearCapture
from jaxnn.kernels.products import contract_axes, sum_dtype, sum_rows
from jaxnn.kernels.scans import scan_in_place
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
    """Of `Cell.step`, stacked over time."""
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
        state, _, _ = _step(cell, params, state, *inputs)
        return state, state[0]

    state, hs = lax.scan(body, state, (xs @ params["input"]["weight"], times))
    return state, _outputs(hs, times)


def forward(
    cell: Cell, params: dict, xs: Array, times: Times, state: tuple
) -> tuple[tuple, Array, Kept]:
    """The last state, the outputs of all times, and what the way back needs."""
    projected = xs @ params["input"]["weight"]
    last, slopes, (hs, passing) = scan_in_place(
        partial(_step, cell), params, state, projected, times
    )
    return last, _outputs(hs, times), Kept(xs, times, slopes, passing, state[0], hs)


def backward(
    cell: Cell, params: dict, kept: Kept, dstate: tuple, dhs: Array | None
) -> tuple[tuple, Array, Array]:
    """The gradient by the state before the first time, by the inputs, and the deltas du.

    ``dstate`` is the cotangent of the last state, ``dhs`` those of the outputs, if they have any.
    """
    given = (kept.passing, kept.times, dhs)
    dstate, du, _ = scan_in_place(
        partial(_step_back, cell), params["recurrent"]["weight"].T, dstate, kept.slopes, given, True
    )
    return dstate, du @ params["input"]["weight"].T, du


def captures(cell: Cell, kept: Kept, du: Array) -> dict:
    """Of the parameters."""
    dv = cell.recurrent_delta(kept.passing, du)
    return {
        "input": LinearCapture(batch_first(kept.xs), batch_first(du)),
        "recurrent": LinearCapture(batch_first(kept.before), batch_first(dv), cell.recurrent_bias),
    }


def gradients(cell: Cell, kept: Kept, du: Array) -> dict:
    """Those of `captures`, in the dtype of sums; time need not follow the batch."""
    dv = cell.recurrent_delta(kept.passing, du)
    if dv is du:  # one product, as if [x h] entered one matrix
        both = contract_axes(jnp.concatenate([kept.xs, kept.before], -1), du)
        of_x, of_h = jnp.split(both, [kept.xs.shape[-1]])
    else:
        of_x, of_h = contract_axes(kept.xs, du), contract_axes(kept.before, dv)
    found = {"input": {"weight": of_x, "bias": sum_rows(du)}, "recurrent": {"weight": of_h}}
    if cell.recurrent_bias:
        found["recurrent"]["bias"] = sum_rows(dv)
    return found


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
    """`backward` with `gradients`, each chunk run forward again before (Chen et al., 2016).

    Neither what a chunk keeps nor its deltas outlive it: the parameters' gradients are contracted
    chunk by chunk and added up.
    """

    def body(carried: tuple, inputs: Any):
        dstate, total = carried
        xs, times, dhs, start = inputs
        _, _, kept = forward(cell, params, xs, times, start)
        dstate, dxs, du = backward(cell, params, kept, dstate, dhs)
        return (dstate, jax.tree.map(jnp.add, total, gradients(cell, kept, du))), dxs

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, sum_dtype(p.dtype)), params)
    xs, times = _cut_up(kept.xs, kept.times, chunk)
    inputs = (xs, times, _whole_chunks(dhs, chunk), kept.starts)
    (dstate, total), dxs = lax.scan(body, (dstate, zeros), inputs, reverse=True)
    return dstate, _joined(dxs)[: len(kept.xs)], total


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


def _step(
    cell: Cell, params: dict, state: tuple, u: Array, times: Times
) -> tuple[tuple, Array, tuple]:
    """One time: (the state after it, the slopes, (h, what else the cell keeps))."""
    if times.cut is not None:
        # So that autodiff cuts the same gradients as `backward`.
        state = _where(times.cut, lax.stop_gradient(state), state)
    v = state[0] @ params["recurrent"]["weight"]
    if cell.recurrent_bias:
        v = v + params["recurrent"]["bias"]
    # The bias is added here and not to all times at once, which would be one more large array.
    after, slopes, passing = cell.step(u + params["input"]["bias"], v, state)
    if times.valid is not None:
        after = _where(times.valid, after, state)
    return after, slopes, (after[0], passing)


def _step_back(
    cell: Cell, back_from_v: Array, dstate: tuple, slopes: Array, given: tuple
) -> tuple[tuple, Array, None]:
    """One time on the way back, ``back_from_v`` being Uᵀ: (dstate before it, du, nothing else)."""
    passing, times, dh = given
    arriving = dstate if dh is None else (dstate[0] + dh, *dstate[1:])
    if times.valid is not None:
        arriving = _where(times.valid, arriving, jax.tree.map(jnp.zeros_like, arriving))
    du, departing = cell.step_back(slopes, passing, arriving)
    dv = cell.recurrent_delta(passing, du)
    departing = (departing[0] + dv @ back_from_v, *departing[1:])
    if times.valid is not None:
        departing = _where(times.valid, departing, dstate)
    if times.cut is not None:
        departing = _where(times.cut, jax.tree.map(jnp.zeros_like, departing), departing)
    return departing, du, None


def _outputs(hs: Array, times: Times) -> Array:
    return hs if times.valid is None else jnp.where(times.valid, hs, 0)


def _where(condition: Array, tree: Any, otherwise: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, otherwise)
