"""Dropout: noise that multiplies activations in training."""

from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import identity
from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_floating, require_key, require_rank, require_rate


class dropout(Layer):
    """y = x m / (1 − rate) with m = 1 with probability 1 − rate, else 0; dx = dy m / (1 − rate).

    Inference is the identity, the mean of training (Srivastava et al., 2014, in the inverted form).
    With ``spatial``, x is [batch, *positions, channels] and one m is drawn for each example and
    channel: whole feature maps are dropped, since neighbours carry the same (Tompson et al., 2015).

    Raises:
        ValueError: ``rate`` is not in [0, 1), training is asked for without a key, or ``spatial``
            for an x without positions.
    """

    rate: Annotated[float, require_rate]
    _: KW_ONLY
    spatial: bool = False

    mixes = False

    def at_rest(self) -> Layer:
        return identity()

    def init(self, key: Array | None, x: Any):
        self.predict((), (), x)
        return (), ()

    def predict(self, params: Any, state: Any, x: Any):
        require_floating("dropout", "x", x)
        if self.spatial:
            require_rank("dropout", "x", x, 3)
        return x

    def forward(self, params: Any, state: Any, x: Array, key: Array | None):
        self.predict(params, state, x)
        shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]) if self.spatial else x.shape
        kept = jax.random.bernoulli(require_key("dropout", key), 1 - self.rate, shape)
        return self._thin(kept, x), state, kept

    def backward(self, params: Any, residuals: Array, dy: Array):
        return self._thin(residuals, dy), ()

    def _thin(self, kept: Array, values: Array) -> Array:
        return jnp.where(kept, values / (1 - self.rate), 0)
