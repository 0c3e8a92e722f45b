"""Activation functions, each with its derivative written by hand.

At a kink the derivative is the one that the source notes and `jax.nn.relu` use: that of the left
side, so ReLU'(0) = 0 and leaky ReLU'(0) is the negative slope.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import ParameterFree, Pointwise
from jaxnn.core.validation import require_feature_axis, require_floating, require_non_negative


class Activation(Pointwise):
    """Base of those that are known to take every element by itself."""

    mixes = False


class heaviside(Activation):
    """y = 1 if x > 0 else 0; the derivative is 0 everywhere (at the jump by convention)."""

    def function(self, x: Array):
        return (x > 0).astype(x.dtype)

    def slope_from_output(self, y: Array):
        return jnp.zeros_like(y)


class sigmoid(Activation):
    """y = 1 / (1 + e⁻ˣ), y' = y (1 − y), which is at most 1/4."""

    def function(self, x: Array):
        return jax.nn.sigmoid(x)

    def slope_from_output(self, y: Array):
        return y * (1 - y)


class tanh(Activation):
    """y = tanh x, y' = 1 − y²."""

    def function(self, x: Array):
        return jnp.tanh(x)

    def slope_from_output(self, y: Array):
        return 1 - y * y


class relu(Activation):
    """y = max(0, x), y' = 1 if x > 0 else 0."""

    def function(self, x: Array):
        return jax.nn.relu(x)

    def slope_from_output(self, y: Array):
        return (y > 0).astype(y.dtype)

    def pull_back(self, residuals: Array, dy: Array):
        return jnp.where(residuals > 0, dy, 0)


class leaky_relu(Activation):
    """y = x if x > 0 else negative_slope · x, y' = 1 if x > 0 else negative_slope.

    Raises:
        ValueError: ``negative_slope`` is negative (y would no longer tell the sign of x).
    """

    negative_slope: Annotated[float, require_non_negative] = 0.01

    def function(self, x: Array):
        return jnp.where(x > 0, x, self.negative_slope * x)

    def slope_from_output(self, y: Array):
        return jnp.where(y > 0, 1, self.negative_slope).astype(y.dtype)


class elu(Activation):
    """y = x if x > 0 else α (eˣ − 1), y' = 1 if x > 0 else y + α (Clevert et al., 2016).

    Raises:
        ValueError: ``alpha`` is negative.
    """

    alpha: Annotated[float, require_non_negative] = 1.0

    def function(self, x: Array):
        return _scaled_elu(x, self.alpha, 1.0)

    def slope_from_output(self, y: Array):
        return _scaled_elu_slope(y, self.alpha, 1.0)


class selu(Activation):
    """y = λ elu(x) with α = 1.6733, λ = 1.0507, which keep mean 0 and variance 1.

    Klambauer et al., 2017, with their constants to float64 precision.
    """

    def function(self, x: Array):
        return _scaled_elu(x, _SELU_ALPHA, _SELU_SCALE)

    def slope_from_output(self, y: Array):
        return _scaled_elu_slope(y, _SELU_ALPHA, _SELU_SCALE)


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _scaled_elu(x: Array, alpha: float, scale: float) -> Array:
    # Without the inner minimum, autodiff of the branch not taken meets the infinity of eˣ.
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


def _scaled_elu_slope(y: Array, alpha: float, scale: float) -> Array:
    return jnp.where(y > 0, scale, y + scale * alpha).astype(y.dtype)


class gelu(Activation):
    """y = x Φ(x), the normal distribution function Φ exact or by tanh (Hendrycks & Gimpel, 2016).

    Exact: y' = Φ(x) + x φ(x) with the density φ. With t = tanh u, u = √(2/π) (x + 0.044715 x³):
    y = x (1 + t) / 2 and y' = (1 + t) / 2 + x (1 − t²) u' / 2.
    """

    approximate: bool = True

    def function(self, x: Array):
        return jax.nn.gelu(x, approximate=self.approximate)

    def slope_from_input(self, x: Array):
        return _gelu_tanh_slope(x) if self.approximate else _gelu_exact_slope(x)


def _gelu_exact_slope(x: Array) -> Array:
    density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return jax.scipy.special.erfc(-x / math.sqrt(2)) / 2 + x * density


def _gelu_tanh_slope(x: Array) -> Array:
    x = jnp.clip(x, -8, 8)  # from there on t rounds to ±1 and x² would only overflow to 0 · ∞
    root = math.sqrt(2 / math.pi)
    t = jnp.tanh(root * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x) / 2


class silu(Activation):
    """y = x σ(x), y' = σ(x) (1 + x (1 − σ(x))) (also called swish)."""

    def function(self, x: Array):
        return jax.nn.silu(x)

    def slope_from_input(self, x: Array):
        s = jax.nn.sigmoid(x)
        return s * (1 + x * (1 - s))


class softplus(Activation):
    """y = log(1 + eˣ), y' = σ(x) = 1 − e⁻ʸ."""

    def function(self, x: Array):
        return jax.nn.softplus(x)

    def slope_from_output(self, y: Array):
        return -jnp.expm1(-y)


class _OverAxis(ParameterFree):
    """Base of layers that normalise along one axis, in at least float32."""

    axis: Annotated[int, require_feature_axis] = -1

    mixes = False

    @property
    def wide(self) -> bool:
        return True

    def _require(self, x: Array) -> None:
        require_floating(self.name, "x", x)
        rank = len(x.shape)
        if not -rank < self.axis < rank:
            raise ValueError(
                f"{self.name}: expected axis to name an axis of x other than 0, the batch, "
                f"got {self.axis} for shape {tuple(x.shape)}"
            )


class softmax(_OverAxis):
    """yᵢ = e^(xᵢ − c) / Σₖ e^(xₖ − c) with c = max x, which avoids ∞/∞.

    The Jacobian diag(y) − y yᵀ gives dx = y (dy − y·dy).
    """

    def apply(self, x: Array):
        self._require(x)
        y = jax.nn.softmax(x, self.axis)
        return y, y

    def pull_back(self, residuals: Array, dy: Array):
        y = residuals
        return y * (dy - jnp.sum(y * dy, self.axis, keepdims=True))


class log_softmax(_OverAxis):
    """y = x − log Σₖ e^xₖ, computed with the largest x shifted to 0; dx = dy − eʸ Σₖ dyₖ."""

    def apply(self, x: Array):
        self._require(x)
        y = jax.nn.log_softmax(x, self.axis)
        return y, y

    def pull_back(self, residuals: Array, dy: Array):
        return dy - jnp.exp(residuals) * jnp.sum(dy, self.axis, keepdims=True)
