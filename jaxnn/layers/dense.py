"""The dense layer: one matrix product forward, two backward."""

from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
from jax import Array
from jaxtyping import Float

from jaxnn.core.captures import LinearCapture
from jaxnn.core.contract import Layer
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.validation import (
    require_features,
    require_floating,
    require_key,
    require_positive_integer,
    require_rank,
)


class Affine(Layer):
    """Base of layers whose parameters are those of a linear map, and a number added to each of its
    features."""

    features: Annotated[int, require_positive_integer]
    _: KW_ONLY
    use_bias: bool = True
    weight_init: Initializer = "lecun"
    bias_init: Initializer = "zeros"

    mixes = False

    def make_params(self, key: Array | None, inputs: tuple[int, ...], dtype: Any) -> dict:
        """{"weight": [*inputs, features], "bias": [features]}, as the initialisers draw them."""
        weight_key, bias_key = jax.random.split(require_key(self.name, key))
        shape = (*inputs, self.features)
        params = {"weight": initializer(self.weight_init)(weight_key, shape, dtype)}
        if self.use_bias:
            params["bias"] = initializer(self.bias_init)(bias_key, (self.features,), dtype)
        return params


class dense(Affine):
    """y = x W + b on the last axis; backward dx = dy Wᵀ, ∂L/∂W = xᵀ dy, ∂L/∂b = Σ dy.

    x is [batch, *positions, in], y is [batch, *positions, features]; the parameters are
    ``weight`` [in, features] and ``bias`` [features], in the dtype of x.

    Raises:
        TypeError: x is not floating-point or not of the parameters' dtype, ``features`` is not an
            integer.
        ValueError: the last axis of x is not the one that the weight was made for.
    """

    def init(self, key: Array | None, x: Any):
        """{"weight", "bias"}."""
        require_floating("dense", "x", x)
        require_rank("dense", "x", x, 2)
        return self.make_params(key, x.shape[-1:], x.dtype), ()

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        weight = params["weight"]
        require_features("dense", x, weight.shape[0], weight.dtype)
        y = x @ weight
        return y + params["bias"] if self.use_bias else y, state, x

    def backward(
        self,
        params: dict,
        residuals: Float[Array, "batch *positions in"],
        dy: Float[Array, "batch *positions out"],
    ):
        return dy @ params["weight"].T, LinearCapture(residuals, dy, self.use_bias)
