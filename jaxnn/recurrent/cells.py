"""Recurrent cells: what happens at one time, forward and backward, and nothing about time itself.

A cell is given two projections that the driver (`jaxnn.recurrent.scanning`) makes of the input and
of the state before, u = x W + b and v = h U (+ c), each [batch, blocks · features] with one block
for each gate. All backward formulas are the chain rule of the lines above them.

A sigmoid is written ½ + ½ tanh(½ a), so that one tanh over neighbouring blocks computes them all:
XLA makes one vectorised loop of it, which on CPU is several times faster than gate by gate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.validation import unknown_name


class Cell(NamedTuple):
    """The recurrence of one time; a state is a tuple of [batch, features], the output h first."""

    name: str
    blocks: int
    """How many gates the projections feed."""
    states: int
    """How many arrays the state has."""
    recurrent_bias: bool
    """Whether the projection of the state has a bias of its own, c."""
    step: Callable
    """(u, v, state) -> (state, gates): ``gates`` is what the way back needs of this time."""
    step_back: Callable
    """(gates, state before, dstate) -> (du, dstate before but for what comes through v)."""
    recurrent_delta: Callable
    """(gates, du) -> dv; works on one time and on all of them at once."""


def rnn_cell(activation: str = "tanh") -> Cell:
    """h = f(u + v) (Elman, 1990); du = dv = dh f'."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"rnn: {unknown_name('activation', activation, _ACTIVATIONS)}")
    function, slope = _ACTIVATIONS[activation]

    def step(u: Array, v: Array, state: tuple):
        h = function(u + v)
        return (h,), h

    def step_back(h: Array, before: tuple, dstate: tuple):
        (dh,) = dstate
        return dh * slope(h), (jnp.zeros_like(dh),)

    return Cell("rnn", 1, 1, False, step, step_back, _same_delta)


def gru_cell() -> Cell:
    """Gates r, z and a candidate n (Cho et al., 2014), the reset after the product as in cuDNN.

    r = σ(u_r + v_r), z = σ(u_z + v_z), n = tanh(u_n + r v_n), h = (1 − z) n + z h₀.
    Backward, with dn̂ the delta before the tanh of n and likewise for r and z:

        dn̂ = dh (1 − z) (1 − n²)    dẑ = dh (h₀ − n) z (1 − z)    dr̂ = dn̂ v_n r (1 − r)
        du = (dr̂, dẑ, dn̂)           dv = (dr̂, dẑ, r dn̂)          dh₀ = dh z
    """

    def step(u: Array, v: Array, state: tuple):
        (before,) = state
        features = before.shape[-1]
        resets, updates = (
            0.5 + 0.5 * jnp.tanh(0.5 * (u + v)[..., : 2 * features]),
            v[..., 2 * features :],
        )
        r, z = jnp.split(resets, 2, -1)
        n = jnp.tanh(u[..., 2 * features :] + r * updates)
        return (n + z * (before - n),), (r, z, n, updates)

    def step_back(gates: tuple, before: tuple, dstate: tuple):
        r, z, n, v_n = gates
        (dh,) = dstate
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (before[0] - n) * z * (1 - z)
        dr = dn * v_n * r * (1 - r)
        return jnp.concatenate([dr, dz, dn], -1), (dh * z,)

    def recurrent_delta(gates: tuple, du: Array):
        r = gates[0]
        rz, n = jnp.split(du, [2 * r.shape[-1]], -1)
        return jnp.concatenate([rz, r * n], -1)

    return Cell("gru", 3, 1, True, step, step_back, recurrent_delta)


def lstm_cell() -> Cell:
    """Gates i, f, o and a candidate g (Hochreiter and Schmidhuber, 1997; f by Gers et al., 2000).

    i, f, o = σ(u + v), g = tanh(u + v), each of its block, in the order i, f, g, o;
    c = f c₀ + i g, h = o tanh c. Backward, with a slope s (1 − s) for i, f, o and 1 − g² for g:

        dc ← dc + dh o (1 − tanh² c)    du = dv = (dc g, dc c₀, dc i, dh tanh c) · slope
        dc₀ = dc f
    """

    def step(u: Array, v: Array, state: tuple):
        before = state[1]
        half, shift = _columns(before, (0.5, 0.5, 1, 0.5)), _columns(before, (0.5, 0.5, 0, 0.5))
        gates = jnp.tanh((u + v) * half) * half + shift
        i, f, g, o = jnp.split(gates, 4, -1)
        c = f * before + i * g
        # Kept, for in the scan back XLA would compute it number by number.
        tanh_c = jnp.tanh(c)
        return (o * tanh_c, c), (gates, tanh_c)

    def step_back(kept: tuple, before: tuple, dstate: tuple):
        gates, tanh_c = kept
        i, f, g, o = jnp.split(gates, 4, -1)
        dh, dc = dstate
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        # 1 − g² = (1 − g) (g + 1): all slopes in one form, (1 − s) (s + 0 or 1).
        slope = (1 - gates) * (gates + _columns(before[1], (0, 0, 1, 0)))
        du = jnp.concatenate([dc * g, dc * before[1], dc * i, dh * tanh_c], -1) * slope
        return du, (jnp.zeros_like(dh), dc * f)

    return Cell("lstm", 4, 2, False, step, step_back, _same_delta)


def _same_delta(gates: Any, du: Array) -> Array:
    return du


def _columns(like: Array, blocks: tuple[float, ...]) -> Array:
    """A number for each block, repeated over its features."""
    return jnp.asarray(np.repeat(blocks, like.shape[-1]), like.dtype)


_ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "tanh": (jnp.tanh, lambda h: 1 - h * h),
    "relu": (jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}
