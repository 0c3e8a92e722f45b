"""Recurrent layers over a sequence, their parameters given as a tree."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxnn.core.validation import brief, require_lengths
from jaxnn.functional.arrays import array, floats, run
from jaxnn.functional.making import called, function_of
from jaxnn.interop.functions import over_batches
from jaxnn.layers import recurrent


def _over_time(make: Callable, params: Any, x: Any, lengths: Any = None, state: Any = None):
    """``x`` may have any number of batch axes, none among them. What is returned depends on
    ``output``: every h, [*batch, time, features]; the last h, [*batch, features]; or both, every h
    and the last state.

    Args:
        params: {"input": {"weight", "bias"}, "recurrent": {"weight"}}, as the layer has them.
        x: The sequence [*batch, time, in].
        lengths: Integers [*batch], how many times of each example are real; all unless given.
        state: What h starts from, [*batch, features], for `lstm` the tuple (h, c); 0 unless given.
        output: "sequence": every h. "last": h at the end of each example. "all": (every h, the
            last state).
    """
    where = called(make)
    x = floats(where, "x", x, "[*batch, time, in]")
    layer = make(features=_features(where, params))
    lengths = None if lengths is None else array(where, "lengths", lengths)
    state = jax.tree.map(lambda a: floats(where, "state", a, "[*batch, features]"), state)

    def of_batch(x: Array, lengths: Array | None, state: Any):
        if lengths is not None:
            require_lengths(where, lengths, *x.shape[:2])
        is_alone = lengths is None and state is None
        y = run(layer, params, x if is_alone else (x, lengths, state))
        if layer.output == "all":
            return y[0], y[2]
        return y[0] if layer.output == "sequence" and lengths is not None else y

    return over_batches(where, of_batch, x=(x, 2), lengths=(lengths, 0), state=(state, 1))


def _features(where: str, params: Any) -> int:
    try:
        return params["recurrent"]["weight"].shape[0]
    except (TypeError, KeyError, AttributeError, IndexError):
        raise TypeError(
            f'{where}: expected params to be {{"input": {{"weight", "bias"}}, "recurrent": '
            f'{{"weight"}}}}, got {brief(jax.tree.map(jax.numpy.shape, params))}'
        ) from None


_DERIVED = ("features", "weight_init", "recurrent_init", "bias_init", "sums")

rnn = function_of(recurrent.rnn, _over_time, *_DERIVED)
gru = function_of(recurrent.gru, _over_time, *_DERIVED)
lstm = function_of(recurrent.lstm, _over_time, *_DERIVED, "forget_bias")
