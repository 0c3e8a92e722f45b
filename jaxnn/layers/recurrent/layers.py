"""The recurrent layers `rnn`, `gru` and `lstm`: one frame around three cells."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.layer import Layer, Static
from jaxnn.core.validation import (
    require_boolean,
    require_features,
    require_floating,
    require_key,
    require_lengths,
    require_number,
    require_positive_integer,
    unknown_name,
)
from jaxnn.layers.recurrent import scanning
from jaxnn.layers.recurrent.cells import Cell, gru_cell, lstm_cell, rnn_cell
from jaxnn.layers.recurrent.scanning import Times, batch_first

OUTPUTS = ("sequence", "last", "all")


class Options(NamedTuple):
    """How a cell is led through time; the same for all of them."""

    output: str
    reverse: bool
    truncate: int | None
    chunk: int | None

    def require(self, where: str, features: Any) -> None:
        """Raise unless all are as `rnn` describes them."""
        require_positive_integer(where, "features", features)
        if self.output not in OUTPUTS:
            raise ValueError(f"{where}: {unknown_name('output', self.output, OUTPUTS)}")
        require_boolean(where, "reverse", self.reverse)
        for name in ("truncate", "chunk"):
            if getattr(self, name) is not None:
                require_positive_integer(where, name, getattr(self, name))


class Given(NamedTuple):
    """What a layer is given, x, by parts."""

    sequence: Any
    lengths: Any = None
    state: Any = None


def rnn(
    features: int,
    *,
    activation: str = "tanh",
    output: str = "sequence",
    reverse: bool = False,
    truncate: int | None = None,
    chunk: int | None = None,
    weight_init: Initializer = "glorot",
    recurrent_init: Initializer = "orthogonal",
    bias_init: Initializer = "zeros",
) -> Layer:
    """h_t = f(x_t W + b + h_{t−1} U), a plain recurrent network (Elman, 1990).

    Backpropagation through time (Werbos, 1990): with δ_t the delta before f,

        δ_t = f'(h_t) (dy_t + δ_{t+1} Uᵀ)        dx_t = δ_t Wᵀ
        ∂L/∂W = Σ_t x_tᵀ δ_t    ∂L/∂U = Σ_t h_{t−1}ᵀ δ_t    ∂L/∂b = Σ_t δ_t

    Only δ_t is computed time by time; all others are one product over all times. The parameters are
    ``input`` {"weight": W [in, features], "bias": b} and ``recurrent`` {"weight": U}; in PyTorch's
    names Wᵀ is weight_ih, Uᵀ weight_hh and b the sum of bias_ih and bias_hh.

    x is the sequence [batch, time, in], or a tuple (sequence, lengths) or (sequence, lengths,
    state), where lengths may be None. Of an example only the first lengths[b] times are real (an
    integer in 0 … time; inside `jax.jit` a negative one counts as 0 and a larger one as time): what
    stands after them changes nothing, has no gradient, and gives an output of 0. ``state``
    [batch, features] is where h starts; 0 unless given. dx has the form of x, None for lengths.

    Args:
        features: The length of h.
        activation: f, "tanh" or "relu".
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
        bias_init: The initialiser of b.

    Raises:
        TypeError: an argument or a member of x has another type or dtype.
        ValueError: a shape, length or option is not as described; a sequence has no times.
    """
    cell = rnn_cell(activation)
    return _recurrent(
        cell,
        features,
        Options(output, reverse, truncate, chunk),
        weight_init,
        recurrent_init,
        [bias_init],
    )


def gru(
    features: int,
    *,
    output: str = "sequence",
    reverse: bool = False,
    truncate: int | None = None,
    chunk: int | None = None,
    weight_init: Initializer = "glorot",
    recurrent_init: Initializer = "orthogonal",
    bias_init: Initializer = "zeros",
) -> Layer:
    """Gated recurrent unit (Cho et al., 2014): h_t = (1 − z) n + z h_{t−1}.

    r = σ(x W_r + b_r + h U_r + c_r), z = σ(x W_z + b_z + h U_z + c_z) and
    n = tanh(x W_n + b_n + r (h U_n + c_n)): the reset gate acts after the product, as in PyTorch
    and cuDNN (in the paper's first version before it), which is why U has a bias of its own. The
    derivation of the way back stands in `jaxnn.layers.recurrent.cells`.

    The parameters are ``input`` {"weight": [in, 3 · features], "bias"} and ``recurrent`` {"weight":
    [features, 3 · features], "bias"}, the gates in the order r, z, n: PyTorch's, transposed. All
    else is as in `rnn`.
    """
    return _recurrent(
        gru_cell(),
        features,
        Options(output, reverse, truncate, chunk),
        weight_init,
        recurrent_init,
        [bias_init] * 3,
    )


def lstm(
    features: int,
    *,
    output: str = "sequence",
    reverse: bool = False,
    truncate: int | None = None,
    chunk: int | None = None,
    weight_init: Initializer = "glorot",
    recurrent_init: Initializer = "orthogonal",
    bias_init: Initializer = "zeros",
    forget_bias: float = 1.0,
) -> Layer:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997): h = o tanh c, c = f c₀ + i g.

    i, f, o = σ(x W + b + h U) and g = tanh(x W + b + h U), each with its own block of W, U and b;
    the derivation of the way back stands in `jaxnn.layers.recurrent.cells`.

    The parameters are ``input`` {"weight": [in, 4 · features], "bias"} and ``recurrent`` {"weight":
    [features, 4 · features]}, the gates in the order i, f, g, o: PyTorch's, transposed, with the
    sum of its two biases. The state is the tuple (h, c). All else is as in `rnn`.

    Args:
        features: See `rnn`, as for the other arguments.
        output: See `rnn`.
        reverse: See `rnn`.
        truncate: See `rnn`.
        chunk: See `rnn`.
        weight_init: See `rnn`.
        recurrent_init: See `rnn`.
        bias_init: See `rnn`.
        forget_bias: Added to the initial bias of f, so that at first the cell remembers
            (Jozefowicz et al., 2015).
    """
    require_number("lstm", "forget_bias", forget_bias)
    init_bias = initializer(bias_init)

    def init_forget(key: Array, shape: Any, dtype: Any):
        return init_bias(key, shape, dtype) + forget_bias

    return _recurrent(
        lstm_cell(),
        features,
        Options(output, reverse, truncate, chunk),
        weight_init,
        recurrent_init,
        [bias_init, init_forget, bias_init, bias_init],
    )


def _recurrent(
    cell: Cell,
    features: int,
    options: Options,
    weight_init: Initializer,
    recurrent_init: Initializer,
    bias_inits: list[Initializer],
) -> Layer:
    """A layer of the cell; the initialisers of the bias are given gate by gate."""
    options.require(cell.name, features)
    init_weight, init_recurrent = initializer(weight_init), initializer(recurrent_init)
    init_biases = [initializer(given) for given in bias_inits]

    def init(key: Array | None, x: Any):
        sequence = read(cell, features, x).sequence
        dtype, keys = sequence.dtype, jax.random.split(require_key(cell.name, key), 4)

        def blocks(key: Array, inits: list, *shape: int):
            pairs = zip(inits, jax.random.split(key, len(inits)), strict=True)
            return jnp.concatenate([f(k, shape, dtype) for f, k in pairs], -1)

        weight = blocks(keys[0], [init_weight] * cell.blocks, sequence.shape[-1], features)
        bias = blocks(keys[1], init_biases, features)
        recurrent = {"weight": blocks(keys[2], [init_recurrent] * cell.blocks, features, features)}
        if cell.recurrent_bias:
            recurrent["bias"] = blocks(keys[3], init_biases, features)
        return {"input": {"weight": weight, "bias": bias}, "recurrent": recurrent}, ()

    def enter(params: dict, x: Any) -> tuple[Given, tuple[Array, Times, tuple]]:
        given = read(cell, features, x)
        weight = params["input"]["weight"]
        require_features(cell.name, given.sequence, weight.shape[0], weight.dtype)
        xs = _turned(batch_first(given.sequence), options.reverse)
        times = _times(given.lengths, len(xs), options)
        if times.valid is not None:
            xs = jnp.where(times.valid, xs, 0)  # even NaN there must not meet a weight
        state = given.state
        if state is None:
            state = (jnp.zeros((xs.shape[1], features), xs.dtype),) * cell.states
        return given, (xs, times, state if isinstance(state, tuple) else (state,))

    def leave(given: Given, state: tuple, hs: Array) -> Any:
        if options.output == "last":
            return state[0]
        sequence = batch_first(_turned(hs, options.reverse))
        if options.output == "all":
            return sequence, given.lengths, state if cell.states > 1 else state[0]
        return sequence if given.lengths is None else (sequence, given.lengths)

    def predict(params: dict, state: Any, x: Any):
        given, entering = enter(params, x)
        return leave(given, *scanning.infer(cell, params, *entering))

    def forward(params: dict, state: Any, x: Any, key: Array | None):
        given, entering = enter(params, x)
        last, hs, kept = run_forward(cell, params, *entering)
        members = len(x) if isinstance(x, tuple) else None
        form = Static((members, given.state is not None))
        return leave(given, last, hs), state, (kept, form)

    def backward(params: dict, residuals: Any, dy: Any):
        kept, form = residuals
        dhs, dlast = arriving(dy)
        if dhs is not None:
            dhs = _turned(batch_first(dhs), options.reverse)
        if dlast is None:
            dlast = (None,) * cell.states
        zeros = jnp.zeros((kept.xs.shape[1], features), kept.xs.dtype)
        dlast = tuple(zeros if d is None else d for d in dlast)
        dstate, dxs, captures = run_backward(cell, params, kept, dlast, dhs)
        dx = batch_first(_turned(dxs, options.reverse))
        members, has_state = form.value
        if members is None:
            return dx, captures
        dstate = dstate if cell.states > 1 else dstate[0]
        return (dx, None, dstate if has_state else None)[:members], captures

    def arriving(dy: Any) -> tuple[Any, Any]:
        """The cotangents of every h and of the last state, None where there is none."""
        if options.output == "last":
            return None, (dy, *(None,) * (cell.states - 1))
        if options.output == "all":
            dhs, _, dlast = dy
            return dhs, dlast if cell.states > 1 else (dlast,)
        return dy[0] if isinstance(dy, tuple) else dy, None

    run_forward: Callable = scanning.forward
    run_backward: Callable = scanning.backward
    if options.chunk is not None:
        run_forward = partial(scanning.forward_in_chunks, chunk=options.chunk)
        run_backward = partial(scanning.backward_in_chunks, chunk=options.chunk)
    return Layer(init, predict, forward, backward, cell.name)


def read(cell: Cell, features: int, x: Any) -> Given:
    """The parts of what a layer is given; raises where one is not as `rnn` describes it."""
    if isinstance(x, tuple) and len(x) not in (2, 3):
        raise TypeError(
            f"{cell.name}: expected x to be a sequence or a tuple (sequence, lengths) or "
            f"(sequence, lengths, state), got a tuple of {len(x)}"
        )
    given = Given(*x) if isinstance(x, tuple) else Given(x)
    sequence = given.sequence
    require_floating(cell.name, "the sequence", sequence)
    if len(sequence.shape) != 3 or sequence.shape[1] == 0:
        raise ValueError(
            f"{cell.name}: expected the sequence to have shape [batch, time, features] with at "
            f"least one time, got {tuple(sequence.shape)}"
        )
    batch, time, _ = sequence.shape
    if given.lengths is not None:
        require_lengths(cell.name, given.lengths, batch, time)
    if given.state is not None:
        _require_state(cell, given.state, (batch, features), sequence.dtype)
    return given


def _require_state(cell: Cell, state: Any, shape: tuple[int, int], dtype: Any) -> None:
    arrays = state if isinstance(state, tuple) else (state,)
    if isinstance(state, tuple) != (cell.states > 1) or len(arrays) != cell.states:
        expected = "a tuple (h, c)" if cell.states > 1 else "an array"
        raise TypeError(f"{cell.name}: expected the state to be {expected}, got {state!r}")
    for array in arrays:
        require_floating(cell.name, "the state", array)
        if tuple(array.shape) != shape or array.dtype != dtype:
            raise ValueError(
                f"{cell.name}: expected the state to be {dtype} of shape {shape}, "
                f"got {array.dtype} of shape {tuple(array.shape)}"
            )


def _turned(time_major: Array, reverse: bool) -> Array:
    return time_major[::-1] if reverse else time_major


def _times(lengths: Any, time: int, options: Options) -> Times:
    steps = jnp.arange(time)[:, None, None]
    valid = cut = None
    if lengths is not None:
        valid = _turned(steps, options.reverse) < lengths[:, None]
    if options.truncate is not None:
        cut = (steps % options.truncate == 0) & (steps > 0)
    return Times(valid, cut)
