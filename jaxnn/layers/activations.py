"""Activation functions, each with its derivative written by hand.

At a kink the derivative is the one that the source notes and `jax.nn.relu` use: that of the left
side, so ReLU'(0) = 0 and leaky ReLU'(0) is the negative slope.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.layer import Layer, parameter_free, pointwise
from jaxnn.core.validation import (
    require_boolean,
    require_feature_axis,
    require_floating,
    require_number,
)


def heaviside() -> Layer:
    """y = 1 if x > 0 else 0; the derivative is 0 everywhere (at the jump by convention)."""

    def forward(x: Array):
        require_floating("heaviside", "x", x)
        return (x > 0).astype(x.dtype), ()

    return parameter_free("heaviside", forward, lambda residuals, dy: jnp.zeros_like(dy))


def sigmoid() -> Layer:
    """y = 1 / (1 + e⁻ˣ), y' = y (1 − y), which is at most 1/4."""
    return pointwise("sigmoid", jax.nn.sigmoid, slope_from_output=lambda y: y * (1 - y))


def tanh() -> Layer:
    """y = tanh x, y' = 1 − y²."""
    return pointwise("tanh", jnp.tanh, slope_from_output=lambda y: 1 - y * y)


def relu() -> Layer:
    """y = max(0, x), y' = 1 if x > 0 else 0."""

    def forward(x: Array):
        require_floating("relu", "x", x)
        y = jax.nn.relu(x)
        return y, y

    return parameter_free("relu", forward, lambda y, dy: jnp.where(y > 0, dy, 0))


def leaky_relu(negative_slope: float = 0.01) -> Layer:
    """y = x if x > 0 else negative_slope · x, y' = 1 if x > 0 else negative_slope.

    Raises:
        ValueError: ``negative_slope`` is negative (y would no longer tell the sign of x).
    """
    require_number("leaky_relu", "negative_slope", negative_slope, minimum=0)
    return pointwise(
        "leaky_relu",
        lambda x: jnp.where(x > 0, x, negative_slope * x),
        slope_from_output=lambda y: jnp.where(y > 0, 1, negative_slope).astype(y.dtype),
    )


def elu(alpha: float = 1.0) -> Layer:
    """y = x if x > 0 else α (eˣ − 1), y' = 1 if x > 0 else y + α (Clevert et al., 2016).

    Raises:
        ValueError: ``alpha`` is negative.
    """
    require_number("elu", "alpha", alpha, minimum=0)
    return _scaled_elu("elu", alpha, 1.0)


def selu() -> Layer:
    """y = λ elu(x) with α = 1.6733, λ = 1.0507, which keep mean 0 and variance 1.

    Klambauer et al., 2017, with their constants to float64 precision.
    """
    return _scaled_elu("selu", 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _scaled_elu(name: str, alpha: float, scale: float) -> Layer:
    def function(x: Array):
        # Without the inner minimum, autodiff of the branch not taken meets the infinity of eˣ.
        return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))

    def slope(y: Array):
        return jnp.where(y > 0, scale, y + scale * alpha).astype(y.dtype)

    return pointwise(name, function, slope_from_output=slope)


def gelu(approximate: bool = True) -> Layer:
    """y = x Φ(x), the normal distribution function Φ exact or by tanh (Hendrycks & Gimpel, 2016).

    Exact: y' = Φ(x) + x φ(x) with the density φ. With t = tanh u, u = √(2/π) (x + 0.044715 x³):
    y = x (1 + t) / 2 and y' = (1 + t) / 2 + x (1 − t²) u' / 2.
    """
    require_boolean("gelu", "approximate", approximate)
    slope = _gelu_tanh_slope if approximate else _gelu_exact_slope
    return pointwise(
        "gelu", lambda x: jax.nn.gelu(x, approximate=approximate), slope_from_input=slope
    )


def _gelu_exact_slope(x: Array) -> Array:
    density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return jax.scipy.special.erfc(-x / math.sqrt(2)) / 2 + x * density


def _gelu_tanh_slope(x: Array) -> Array:
    x = jnp.clip(x, -8, 8)  # from there on t rounds to ±1 and x² would only overflow to 0 · ∞
    root = math.sqrt(2 / math.pi)
    t = jnp.tanh(root * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x) / 2


def silu() -> Layer:
    """y = x σ(x), y' = σ(x) (1 + x (1 − σ(x))) (also called swish)."""

    def slope(x: Array):
        s = jax.nn.sigmoid(x)
        return s * (1 + x * (1 - s))

    return pointwise("silu", jax.nn.silu, slope_from_input=slope)


def softplus() -> Layer:
    """y = log(1 + eˣ), y' = σ(x) = 1 − e⁻ʸ."""
    return pointwise("softplus", jax.nn.softplus, slope_from_output=lambda y: -jnp.expm1(-y))


def softmax(axis: int = -1) -> Layer:
    """yᵢ = e^(xᵢ − c) / Σₖ e^(xₖ − c) with c = max x, which avoids ∞/∞.

    The Jacobian diag(y) − y yᵀ gives dx = y (dy − y·dy).
    """

    require_feature_axis("softmax", axis)

    def forward(x: Array):
        _require_axis("softmax", x, axis)
        y = jax.nn.softmax(x, axis)
        return y, y

    def backward(y: Array, dy: Array):
        return y * (dy - jnp.sum(y * dy, axis, keepdims=True))

    return parameter_free("softmax", forward, backward)


def log_softmax(axis: int = -1) -> Layer:
    """y = x − log Σₖ e^xₖ, computed with the largest x shifted to 0; dx = dy − eʸ Σₖ dyₖ."""

    require_feature_axis("log_softmax", axis)

    def forward(x: Array):
        _require_axis("log_softmax", x, axis)
        y = jax.nn.log_softmax(x, axis)
        return y, y

    def backward(y: Array, dy: Array):
        return dy - jnp.exp(y) * jnp.sum(dy, axis, keepdims=True)

    return parameter_free("log_softmax", forward, backward)


def _require_axis(name: str, x: Array, axis: int) -> None:
    require_floating(name, "x", x)
    rank = len(x.shape)
    if not -rank < axis < rank:
        raise ValueError(
            f"{name}: expected axis to name an axis of x other than 0, the batch, "
            f"got {axis} for shape {tuple(x.shape)}"
        )
