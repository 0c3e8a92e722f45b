"""Dropout: noise that multiplies activations in training."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.layer import Layer, parameter_free
from jaxnn.core.validation import (
    require_boolean,
    require_floating,
    require_key,
    require_number,
    require_rank,
)


def dropout(rate: float, *, spatial: bool = False) -> Layer:
    """y = x m / (1 − rate) with m = 1 with probability 1 − rate, else 0; dx = dy m / (1 − rate).

    Inference is the identity, the mean of training (Srivastava et al., 2014, in the inverted form).
    With ``spatial``, x is [batch, *positions, channels] and one m is drawn for each example and
    channel: whole feature maps are dropped, since neighbours carry the same (Tompson et al., 2015).

    Raises:
        ValueError: ``rate`` is not in [0, 1), training is asked for without a key, or ``spatial``
            for an x without positions.
    """
    require_number("dropout", "rate", rate, minimum=0, maximum=1, open_maximum=True)
    require_boolean("dropout", "spatial", spatial)

    def check(x: Any):
        require_floating("dropout", "x", x)
        if spatial:
            require_rank("dropout", "x", x, 3)
        return x

    def init(key: Array | None, x: Any):
        check(x)
        return (), ()

    def predict(params: Any, state: Any, x: Array):
        return check(x)

    def forward(params: Any, state: Any, x: Array, key: Array | None):
        check(x)
        shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]) if spatial else x.shape
        kept = jax.random.bernoulli(require_key("dropout", key), 1 - rate, shape)
        return _thin(kept, x), state, kept

    def backward(params: Any, kept: Array, dy: Array):
        return _thin(kept, dy), ()

    def _thin(kept: Array, values: Array):
        return jnp.where(kept, values / (1 - rate), 0)

    inference = parameter_free("dropout", lambda x: (check(x), ()), lambda residuals, dy: dy)
    return Layer(init, predict, forward, backward, "dropout", inference=inference)
