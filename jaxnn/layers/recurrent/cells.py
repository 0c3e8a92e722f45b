"""Recurrent cells: what happens at one time, forward and backward, and nothing about time itself.

A cell is given two projections that the way through time (`jaxnn.layers.recurrent.scanning`) makes
of the input and of the state before, u = x W + b and v = h U (+ c), each [batch, blocks · features]
with one block for each gate.

The chain rule is applied in the step itself: it keeps the slopes of u's blocks, by which the way
back multiplies the deltas that arrive. They have the shape of u, and so their memory can take du.

A sigmoid is written σ(a) = ½ + ½ tanh ½ a, so that one tanh over neighbouring blocks computes all
of them.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Cell(abc.ABC):
    """The recurrence of one time; a state is a tuple of [batch, features], the output h first."""

    blocks: ClassVar[int]
    """How many gates the projections feed."""
    states: ClassVar[int] = 1
    """How many arrays the state has."""
    recurrent_bias: ClassVar[bool] = False
    """Whether the projection of the state has a bias of its own, c."""

    @abc.abstractmethod
    def step(self, u: Array, v: Array, state: tuple) -> tuple[tuple, Array, tuple]:
        """(state, slopes, passing): the state after, and what the way back needs of this time.

        ``slopes`` has the shape of u; ``passing`` is a tuple of [batch, features], the further
        factors by which deltas are multiplied on their way to the time before.
        """

    @abc.abstractmethod
    def step_back(self, slopes: Array, passing: tuple, dstate: tuple) -> tuple[Array, tuple]:
        """(du, dstate before but for what comes through v)."""

    def recurrent_delta(self, passing: tuple, du: Array) -> Array:
        """dv, of one time or of all of them at once."""
        return du


@dataclass(frozen=True)
class RNNCell(Cell):
    """h = f(u + v) (Elman, 1990); du = dv = dh f'."""

    activation: str

    blocks = 1

    def step(self, u: Array, v: Array, state: tuple):
        function, slope = _ACTIVATIONS[self.activation]
        h = function(u + v)
        return (h,), slope(h), ()

    def step_back(self, slopes: Array, passing: tuple, dstate: tuple):
        (dh,) = dstate
        return dh * slopes, (jnp.zeros_like(dh),)


class GRUCell(Cell):
    """Gates r, z and a candidate n (Cho et al., 2014), the reset after the product as in cuDNN.

    r = σ(u_r + v_r), z = σ(u_z + v_z), n = tanh(u_n + r v_n), h = (1 − z) n + z h₀.
    Backward, with dn̂ the delta before the tanh of n and likewise for r and z:

        dn̂ = dh (1 − z) (1 − n²)    dẑ = dh (h₀ − n) z (1 − z)    dr̂ = dn̂ v_n r (1 − r)
        du = (dr̂, dẑ, dn̂)           dv = (dr̂, dẑ, r dn̂)          dh₀ = dh z
    """

    blocks = 3
    recurrent_bias = True

    def step(self, u: Array, v: Array, state: tuple):
        (before,) = state
        features = before.shape[-1]
        rz, v_n = 0.5 + 0.5 * jnp.tanh(0.5 * (u + v)[..., : 2 * features]), v[..., 2 * features :]
        r, z = jnp.split(rz, 2, -1)
        n = jnp.tanh(u[..., 2 * features :] + r * v_n)
        slope_n = (1 - z) * (1 - n * n)
        slope_z = (before - n) * z * (1 - z)
        slope_r = slope_n * v_n * r * (1 - r)
        return (n + z * (before - n),), jnp.concatenate([slope_r, slope_z, slope_n], -1), (r, z)

    def step_back(self, slopes: Array, passing: tuple, dstate: tuple):
        (dh,) = dstate
        return jnp.concatenate([dh, dh, dh], -1) * slopes, (dh * passing[1],)

    def recurrent_delta(self, passing: tuple, du: Array):
        r = passing[0]
        rz, n = jnp.split(du, [2 * r.shape[-1]], -1)
        return jnp.concatenate([rz, r * n], -1)


class LSTMCell(Cell):
    """Gates i, f, o and a candidate g (Hochreiter and Schmidhuber, 1997; f by Gers et al., 2000).

    i, f, o = σ(u + v), g = tanh(u + v), each of its block, in the order i, f, g, o;
    c = f c₀ + i g, h = o tanh c. Backward:

        dc ← dc + dh o (1 − tanh² c)    du = dv = (dc, dc, dc, dh) · slopes    dc₀ = dc f
        slopes = (g i (1 − i), c₀ f (1 − f), i (1 − g²), tanh c · o (1 − o))
    """

    blocks = 4
    states = 2

    def step(self, u: Array, v: Array, state: tuple):
        before = state[1]
        half, shift = _columns(before, (0.5, 0.5, 1, 0.5)), _columns(before, (0.5, 0.5, 0, 0.5))
        gates = jnp.tanh((u + v) * half) * half + shift
        i, f, g, o = jnp.split(gates, 4, -1)
        c = f * before + i * g
        tanh_c = jnp.tanh(c)
        # 1 − g² = (1 − g) (g + 1): the gates' own slopes in one form, (1 − s) (s + 0 or 1).
        slopes = (1 - gates) * (gates + _columns(before, (0, 0, 1, 0)))
        slopes = slopes * jnp.concatenate([g, before, i, tanh_c], -1)
        return (o * tanh_c, c), slopes, (f, o * (1 - tanh_c * tanh_c))

    def step_back(self, slopes: Array, passing: tuple, dstate: tuple):
        forget, dc_by_dh = passing
        dh, dc = dstate
        dc = dc + dh * dc_by_dh
        return jnp.concatenate([dc, dc, dc, dh], -1) * slopes, (jnp.zeros_like(dh), dc * forget)


def _columns(like: Array, blocks: tuple[float, ...]) -> Array:
    """A number for each block, repeated over its features."""
    return jnp.asarray(np.repeat(blocks, like.shape[-1]), like.dtype)


_ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "tanh": (jnp.tanh, lambda h: 1 - h * h),
    "relu": (jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}
