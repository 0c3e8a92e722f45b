"""The recurrent layers `rnn`, `gru` and `lstm`: one frame around three cells."""

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import ContractedCapture, in_dtypes_of
from jaxnn.core.contract import Layer
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import (
    brief,
    require_features,
    require_floating,
    require_key,
    require_lengths,
    require_number,
    require_positive_integer,
)
from jaxnn.layers.recurrent import scanning
from jaxnn.layers.recurrent.cells import Cell, GRUCell, LSTMCell, RNNCell
from jaxnn.layers.recurrent.scanning import Times, batch_first


class Given(NamedTuple):
    """What a layer is given, x, by parts."""

    sequence: Any
    lengths: Any = None
    state: Any = None


class Recurrent(Layer):
    """Base of the recurrent layers: a cell led through time, h_t from x_t and h_{t−1}.

    x is the sequence [batch, time, in], or a tuple (sequence, lengths) or (sequence, lengths,
    state), where lengths may be None. Of an example only the first lengths[b] times are real (an
    integer in 0 … time; inside `jax.jit` a negative one counts as 0 and a larger one as time): what
    stands after them changes nothing, has no gradient, and gives an output of 0. ``state``
    [batch, features] (for `lstm` two of them, (h, c)) is what h starts from; 0 unless given. dx has
    the form of x, None for lengths.

    Args:
        features: The length of h.
        output: "sequence": every h, [batch, time, features], and with lengths the tuple (every h,
            lengths), which the next layer takes. "last": h at the end of each example,
            [batch, features]. "all": (every h, lengths or None, the last state), a tuple that has
            the form of x.
        reverse: Go from the last time to the first; the outputs stay beside their inputs.
        truncate: Cut the gradient every so many steps: none passes from time n · truncate, counted
            in the order of the steps, to the one before (Williams and Peng, 1990).
        chunk: Keep only the state every so many steps, and compute what lies between again on the
            way back: memory for time / chunk states and chunk times against one more pass forward;
            about √time takes the least. The gradients are contracted chunk by chunk, so that other
            statistics than the gradient refuse the layer by name.
        weight_init: The initialiser of W, gate by gate.
        recurrent_init: The initialiser of U, gate by gate.
        bias_init: The initialiser of b (and c), gate by gate.
        sums: Whether the gradients are contracted at once, see `summing`.

    Raises:
        TypeError: an argument or a member of x has another type or dtype.
        ValueError: a shape, length or option is not as described; a sequence has no times.
    """

    features: Annotated[int, require_positive_integer]
    _: KW_ONLY
    output: Literal["sequence", "last", "all"] = "sequence"
    reverse: bool = False
    truncate: Annotated[int, require_positive_integer] | None = None
    chunk: Annotated[int, require_positive_integer] | None = None
    weight_init: Initializer = "glorot"
    recurrent_init: Initializer = "orthogonal"
    bias_init: Initializer = "zeros"
    sums: bool = False

    mixes = False

    @property
    @abc.abstractmethod
    def cell(self) -> Cell:
        """What happens at one time."""

    def bias_inits(self) -> list[Callable]:
        """The initialisers of the bias, gate by gate."""
        return [initializer(self.bias_init)] * self.cell.blocks

    def summing(self) -> Layer:
        return dataclasses.replace(self, sums=True)

    def init(self, key: Array | None, x: Any):
        sequence = self._read(x).sequence
        dtype, keys = sequence.dtype, jax.random.split(require_key(self.name, key), 4)

        def blocks(key: Array, inits: list, *shape: int):
            pairs = zip(inits, jax.random.split(key, len(inits)), strict=True)
            return jnp.concatenate([f(k, shape, dtype) for f, k in pairs], -1)

        def weight(key: Array, given: Initializer, size: int):
            return blocks(key, [initializer(given)] * self.cell.blocks, size, self.features)

        recurrent = {"weight": weight(keys[2], self.recurrent_init, self.features)}
        if self.cell.recurrent_bias:
            recurrent["bias"] = blocks(keys[3], self.bias_inits(), self.features)
        entering = {
            "weight": weight(keys[0], self.weight_init, sequence.shape[-1]),
            "bias": blocks(keys[1], self.bias_inits(), self.features),
        }
        return {"input": entering, "recurrent": recurrent}, ()

    def predict(self, params: dict, state: Any, x: Any):
        given, entering = self._enter(params, x)
        return self._leave(given, *scanning.infer(self.cell, params, *entering))

    def forward(self, params: dict, state: Any, x: Any, key: Array | None):
        given, entering = self._enter(params, x)
        if self.chunk is None:
            last, hs, kept = scanning.forward(self.cell, params, *entering)
        else:
            last, hs, kept = scanning.forward_in_chunks(self.cell, params, *entering, self.chunk)
        members = len(x) if isinstance(x, tuple) else None
        form = Static((members, given.state is not None))
        return self._leave(given, last, hs), state, (kept, form)

    def backward(self, params: dict, residuals: Any, dy: Any):
        kept, form = residuals
        dhs, dlast = self._arriving(dy)
        if dhs is not None:
            dhs = self._turned(batch_first(dhs))
        zeros = jnp.zeros((kept.xs.shape[1], self.features), kept.xs.dtype)
        dlast = tuple(zeros if d is None else d for d in dlast)
        cell = self.cell
        if self.chunk is not None:
            dstate, dxs, gradients = scanning.backward_in_chunks(
                cell, params, kept, dlast, dhs, self.chunk
            )
            captures = self._contracted(gradients if self.sums else in_dtypes_of(params, gradients))
        else:
            dstate, dxs, du = scanning.backward(cell, params, kept, dlast, dhs)
            if self.sums:
                captures = self._contracted(scanning.gradients(cell, kept, du))
            else:
                captures = scanning.captures(cell, kept, du)
        dx = batch_first(self._turned(dxs))
        members, has_state = form.value
        if members is None:
            return dx, captures
        dstate = dstate if cell.states > 1 else dstate[0]
        return (dx, None, dstate if has_state else None)[:members], captures

    def _contracted(self, gradients: dict) -> dict:
        return {name: ContractedCapture(of_one, self.name) for name, of_one in gradients.items()}

    def _enter(self, params: dict, x: Any) -> tuple[Given, tuple[Array, Times, tuple]]:
        given = self._read(x)
        weight = params["input"]["weight"]
        require_features(self.name, given.sequence, weight.shape[0], weight.dtype)
        xs = self._turned(batch_first(given.sequence))
        times = self._times(given.lengths, len(xs))
        if times.valid is not None:
            xs = jnp.where(times.valid, xs, 0)  # even NaN there must not meet a weight
        state = given.state
        if state is None:
            state = (jnp.zeros((xs.shape[1], self.features), xs.dtype),) * self.cell.states
        return given, (xs, times, state if isinstance(state, tuple) else (state,))

    def _leave(self, given: Given, state: tuple, hs: Array) -> Any:
        if self.output == "last":
            return state[0]
        sequence = batch_first(self._turned(hs))
        if self.output == "all":
            return sequence, given.lengths, state if self.cell.states > 1 else state[0]
        return sequence if given.lengths is None else (sequence, given.lengths)

    def _arriving(self, dy: Any) -> tuple[Any, tuple]:
        """The cotangents of every h and of the last state, None where there is none."""
        nothing = (None,) * self.cell.states
        if self.output == "last":
            return None, (dy, *nothing[1:])
        if self.output == "all":
            dhs, _, dlast = dy
            return dhs, (dlast or nothing) if self.cell.states > 1 else (dlast,)
        return dy[0] if isinstance(dy, tuple) else dy, nothing

    def _read(self, x: Any) -> Given:
        """The parts of x; raises where one is not as described."""
        if isinstance(x, tuple) and len(x) not in (2, 3):
            raise TypeError(
                f"{self.name}: expected x to be a sequence or a tuple (sequence, lengths) or "
                f"(sequence, lengths, state), got a tuple of {len(x)}"
            )
        given = Given(*x) if isinstance(x, tuple) else Given(x)
        sequence = given.sequence
        require_floating(self.name, "the sequence", sequence)
        if len(sequence.shape) != 3 or sequence.shape[1] == 0:
            raise ValueError(
                f"{self.name}: expected the sequence to have shape [batch, time, features] with at "
                f"least one time, got {tuple(sequence.shape)}"
            )
        batch, time, _ = sequence.shape
        if given.lengths is not None:
            require_lengths(self.name, given.lengths, batch, time)
        if given.state is not None:
            self._require_state(given.state, (batch, self.features), sequence.dtype)
        return given

    def _require_state(self, state: Any, shape: tuple[int, int], dtype: Any) -> None:
        arrays, states = state if isinstance(state, tuple) else (state,), self.cell.states
        if isinstance(state, tuple) != (states > 1) or len(arrays) != states:
            expected = "a tuple (h, c)" if states > 1 else "an array"
            raise TypeError(f"{self.name}: expected the state to be {expected}, got {brief(state)}")
        for array in arrays:
            require_floating(self.name, "the state", array)
            if tuple(array.shape) != shape or array.dtype != dtype:
                raise ValueError(
                    f"{self.name}: expected the state to be {dtype} of shape {shape}, "
                    f"got {array.dtype} of shape {tuple(array.shape)}"
                )

    def _turned(self, time_major: Array) -> Array:
        return time_major[::-1] if self.reverse else time_major

    def _times(self, lengths: Any, time: int) -> Times:
        steps = jnp.arange(time)[:, None, None]
        valid = cut = None
        if lengths is not None:
            valid = self._turned(steps) < lengths[:, None]
        if self.truncate is not None:
            cut = (steps % self.truncate == 0) & (steps > 0)
        return Times(valid, cut)


class rnn(Recurrent):
    """h_t = f(x_t W + b + h_{t−1} U), a plain recurrent network (Elman, 1990).

    Backpropagation through time (Werbos, 1990): with δ_t the delta before f,

        δ_t = f'(h_t) (dy_t + δ_{t+1} Uᵀ)        dx_t = δ_t Wᵀ
        ∂L/∂W = Σ_t x_tᵀ δ_t    ∂L/∂U = Σ_t h_{t−1}ᵀ δ_t    ∂L/∂b = Σ_t δ_t

    The parameters are ``input`` {"weight": W [in, features], "bias": b} and ``recurrent``
    {"weight": U}; in PyTorch's names Wᵀ is weight_ih, Uᵀ weight_hh and b the sum of bias_ih and
    bias_hh. Only δ_t is computed time by time; all others are one product over all times.

    ``activation`` is f, "tanh" or "relu". The forms of x and y and the other arguments are those of
    `Recurrent`.
    """

    _: KW_ONLY
    activation: Literal["tanh", "relu"] = "tanh"

    @property
    def cell(self) -> Cell:
        return RNNCell(self.activation)


class gru(Recurrent):
    """Gated recurrent unit (Cho et al., 2014): h_t = (1 − z) n + z h_{t−1}.

    r = σ(x W_r + b_r + h U_r + c_r), z = σ(x W_z + b_z + h U_z + c_z) and
    n = tanh(x W_n + b_n + r (h U_n + c_n)): the reset gate acts after the product, as in PyTorch
    and cuDNN (in the paper's first version before it), which is why U has a bias of its own. The
    derivation of the way back stands in `jaxnn.layers.recurrent.cells`.

    The parameters are ``input`` {"weight": [in, 3 · features], "bias"} and ``recurrent`` {"weight":
    [features, 3 · features], "bias"}, the gates in the order r, z, n: PyTorch's, transposed. The
    forms of x and y and the arguments are those of `Recurrent`.
    """

    @property
    def cell(self) -> Cell:
        return GRUCell()


class lstm(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997): h = o tanh c, c = f c₀ + i g.

    i, f, o = σ(x W + b + h U) and g = tanh(x W + b + h U), each with its own block of W, U and b;
    the derivation of the way back stands in `jaxnn.layers.recurrent.cells`.

    The parameters are ``input`` {"weight": [in, 4 · features], "bias"} and ``recurrent`` {"weight":
    [features, 4 · features]}, the gates in the order i, f, g, o: PyTorch's, transposed, with the
    sum of its two biases. The state is the tuple (h, c).

    ``forget_bias`` is added to the initial bias of f, so that at first the cell remembers
    (Jozefowicz et al., 2015). The forms of x and y and the other arguments are those of
    `Recurrent`.
    """

    _: KW_ONLY
    forget_bias: Annotated[float, require_number] = 1.0

    @property
    def cell(self) -> Cell:
        return LSTMCell()

    def bias_inits(self) -> list[Callable]:
        of_gate = initializer(self.bias_init)

        def of_forget(key: Array, shape: Any, dtype: Any):
            return of_gate(key, shape, dtype) + self.forget_bias

        return [of_gate, of_forget, of_gate, of_gate]
