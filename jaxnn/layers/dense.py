"""The dense layer: one matrix product forward, two backward."""

from typing import Any

import jax
from jax import Array
from jaxtyping import Float

from jaxnn.core.captures import LinearCapture
from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.layer import Layer
from jaxnn.core.validation import (
    require_boolean,
    require_features,
    require_floating,
    require_key,
    require_positive_integer,
    require_rank,
)


def dense(
    features: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = "lecun",
    bias_init: Initializer = "zeros",
) -> Layer:
    """y = x W + b on the last axis; backward dx = dy Wᵀ, ∂L/∂W = xᵀ dy, ∂L/∂b = Σ dy.

    x is [batch, *positions, in], y is [batch, *positions, features]; the parameters are
    ``weight`` [in, features] and ``bias`` [features], in the dtype of x.

    Raises:
        TypeError: x is not floating-point or not of the parameters' dtype, ``features`` is not an
            integer.
        ValueError: the last axis of x is not the one that the weight was made for.
    """
    require_positive_integer("dense", "features", features)
    require_boolean("dense", "use_bias", use_bias)
    init_weight, init_bias = initializer(weight_init), initializer(bias_init)

    def init(key: Array | None, x: Any):
        require_floating("dense", "x", x)
        require_rank("dense", "x", x, 2)
        weight_key, bias_key = jax.random.split(require_key("dense", key))
        params = {"weight": init_weight(weight_key, (x.shape[-1], features), x.dtype)}
        if use_bias:
            params["bias"] = init_bias(bias_key, (features,), x.dtype)
        return params, ()

    def predict(params: dict, state: Any, x: Array):
        weight = params["weight"]
        require_features("dense", x, weight.shape[0], weight.dtype)
        y = x @ weight
        return y + params["bias"] if use_bias else y

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        return predict(params, state, x), state, x

    def backward(
        params: dict,
        x: Float[Array, "batch *positions in"],
        dy: Float[Array, "batch *positions out"],
    ):
        return dy @ params["weight"].T, LinearCapture(x, dy, use_bias)

    return Layer(init, predict, forward, backward, "dense")
