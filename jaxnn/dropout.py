"""Dropout: noise that multiplies activations in training."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.layer import Layer
from jaxnn.validation import require_floating, require_key, require_number


def dropout(rate: float) -> Layer:
    """y = x m / (1 − rate) with m = 1 with probability 1 − rate, else 0; dx = dy m / (1 − rate).

    Inference is the identity, the mean of training (Srivastava et al., 2014, in the inverted form).

    Raises:
        ValueError: ``rate`` is not in [0, 1), or training is asked for without a key.
    """
    require_number("dropout", "rate", rate, minimum=0, maximum=1, open_maximum=True)

    def init(key: Array | None, x: Any):
        require_floating("dropout", "x", x)
        return (), ()

    def predict(params: Any, state: Any, x: Array):
        require_floating("dropout", "x", x)
        return x

    def forward(params: Any, state: Any, x: Array, key: Array | None):
        require_floating("dropout", "x", x)
        kept = jax.random.bernoulli(require_key("dropout", key), 1 - rate, x.shape)
        return _thin(kept, x), state, kept

    def backward(params: Any, kept: Array, dy: Array):
        return _thin(kept, dy), ()

    def _thin(kept: Array, values: Array):
        return jnp.where(kept, values / (1 - rate), 0)

    return Layer(init, predict, forward, backward, "dropout")
