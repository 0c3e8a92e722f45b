"""Activation functions, each with its derivative written by hand.

At a kink at 0 the derivative is the one that the source notes and `jax.nn.relu` use: that of the
left side, so ReLU'(0) = 0 and leaky ReLU'(0) is the negative slope. Where a function becomes
constant or the identity at another point, the derivative there is already that of the outer piece.
"""

import abc
import math
from dataclasses import KW_ONLY
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import ParameterFree, Pointwise
from jaxnn.core.captures import AffineCapture
from jaxnn.core.contract import Layer
from jaxnn.core.validation import (
    require_axis,
    require_feature_axis,
    require_features,
    require_floating,
    require_non_negative,
    require_number,
    require_positive,
    require_rank,
)
from jaxnn.kernels.products import sum_dtype


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


class Clipped(Activation):
    """y = x between two bounds, else the nearer one; y' = 1 between them, 0 at and beyond them."""

    @property
    @abc.abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest y."""

    def function(self, x: Array):
        low, high = self.bounds
        return jnp.where(x <= low, low, jnp.where(x >= high, high, x))

    def slope_from_output(self, y: Array):
        low, high = self.bounds
        return ((y > low) & (y < high)).astype(y.dtype)


class hard_tanh(Clipped):
    """y = min(max(x, low), high), y' = 1 if low < x < high else 0, at both bounds 0.

    Raises:
        ValueError: ``low`` is not below ``high``.
    """

    low: float = -1.0
    high: float = 1.0

    def validate(self) -> None:
        require_number("hard_tanh", "low", self.low, maximum=float(self.high), open_maximum=True)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high


class relu6(Clipped):
    """y = min(max(x, 0), 6), y' = 1 if 0 < x < 6 else 0, at both bounds 0."""

    @property
    def bounds(self) -> tuple[float, float]:
        return 0, 6


class hard_sigmoid(Activation):
    """y = min(max(x / 6 + 1/2, 0), 1), y' = 1/6 if −3 < x < 3 else 0, at both bounds 0."""

    def function(self, x: Array):
        return _hard_sigmoid(x)

    def slope_from_input(self, x: Array):
        return jnp.where(abs(x) < 3, 1 / 6, 0).astype(x.dtype)


class hard_swish(Activation):
    """y = x · hard_sigmoid(x), y' = x / 3 + 1/2 if −3 < x < 3, 0 from there down and 1 up.

    Howard et al., 2019; the derivatives at −3 and 3 are 0 and 1.
    """

    def function(self, x: Array):
        # The identity from 3 on, so that nothing of an infinite x is multiplied by 0.
        return jnp.where(x >= 3, x, jnp.where(x <= -3, 0, x) * _hard_sigmoid(x))

    def slope_from_input(self, x: Array):
        return jnp.where(x >= 3, 1, jnp.where(x <= -3, 0, x / 3 + 0.5)).astype(x.dtype)


def _hard_sigmoid(x: Array) -> Array:
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, x / 6 + 0.5))


class _Exponential(Activation):
    """y = λ x if x > 0 else λ α (e^(x/β) − 1), y' = λ if x > 0 else (y + λ α) / β."""

    @property
    @abc.abstractmethod
    def constants(self) -> tuple[float, float, float]:
        """α, β and λ."""

    def function(self, x: Array):
        alpha, beta, scale = self.constants
        # Without the inner where, autodiff of the branch not taken meets the infinity of eˣ.
        return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) / beta))

    def slope_from_output(self, y: Array):
        alpha, beta, scale = self.constants
        return jnp.where(y > 0, scale, (y + scale * alpha) / beta).astype(y.dtype)


class elu(_Exponential):
    """y = x if x > 0 else α (eˣ − 1), y' = 1 if x > 0 else y + α (Clevert et al., 2016).

    Raises:
        ValueError: ``alpha`` is negative.
    """

    alpha: Annotated[float, require_non_negative] = 1.0

    @property
    def constants(self) -> tuple[float, float, float]:
        return self.alpha, 1.0, 1.0


class celu(_Exponential):
    """y = x if x > 0 else α (e^(x/α) − 1), y' = 1 if x > 0 else y / α + 1 (Barron, 2017).

    Unlike `elu`'s, its derivative is continuous for every α.

    Raises:
        ValueError: ``alpha`` is not positive.
    """

    alpha: Annotated[float, require_positive] = 1.0

    @property
    def constants(self) -> tuple[float, float, float]:
        return self.alpha, self.alpha, 1.0


class selu(_Exponential):
    """y = λ elu(x) with α = 1.6733, λ = 1.0507, which keep mean 0 and variance 1.

    Klambauer et al., 2017, with their constants to float64 precision.
    """

    @property
    def constants(self) -> tuple[float, float, float]:
        return 1.6732632423543772848170429916717, 1.0, 1.0507009873554804934193349852946


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
    x = _finite(x)
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
        x, s = _finite(x), jax.nn.sigmoid(x)
        return s * (1 + x * (1 - s))


class softplus(Activation):
    """y = log(1 + eˣ), y' = σ(x) = 1 − e⁻ʸ."""

    def function(self, x: Array):
        return jax.nn.softplus(x)

    def slope_from_output(self, y: Array):
        return -jnp.expm1(-y)


class log_sigmoid(Activation):
    """y = log σ(x) = −log(1 + e⁻ˣ), y' = σ(−x) = 1 − eʸ."""

    def function(self, x: Array):
        return jax.nn.log_sigmoid(x)

    def slope_from_output(self, y: Array):
        return -jnp.expm1(y)


class mish(Activation):
    """y = x t with t = tanh(log(1 + eˣ)), y' = t + x (1 − t²) σ(x) (Misra, 2019)."""

    def function(self, x: Array):
        return jax.nn.mish(x)

    def slope_from_input(self, x: Array):
        x, t = _finite(x), jnp.tanh(jax.nn.softplus(x))
        return t + x * (1 - t * t) * jax.nn.sigmoid(x)


class softsign(Activation):
    """y = x / (1 + |x|), y' = 1 / (1 + |x|)²."""

    def function(self, x: Array):
        return jax.nn.soft_sign(x)

    def slope_from_input(self, x: Array):
        return jnp.square(1 / (1 + abs(x)))


class prelu(Layer):
    """y = x if x > 0 else a · x, with a learned a (He et al., 2015).

    dx = dy if x > 0 else a · dy, at 0 that of the left side; ∂L/∂a = Σ min(x, 0) dy. The only
    parameter is ``scale``, a, in the dtype of x: [1], or [channels], one for each element of the
    last axis. As 1-dimensional parameters are, it is left out of weight decay.

    Args:
        negative_slope: What a starts from.
        per_channel: Whether every channel has an a of its own.

    Raises:
        TypeError: x is not floating-point or not of the parameter's dtype.
        ValueError: x has other channels than the parameter, or none.
    """

    negative_slope: float = 0.25
    _: KW_ONLY
    per_channel: bool = False

    mixes = False

    def init(self, key: Array | None, x: Any):
        shape = jax.eval_shape(self._by_channel, x).shape[-1:]
        return {"scale": jnp.full(shape, self.negative_slope, x.dtype)}, ()

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        scale = params["scale"]
        require_features("prelu", self._by_channel(x), scale.shape[0], scale.dtype)
        return jnp.where(x > 0, x, scale * jnp.where(x > 0, 0, x)), state, x

    def backward(self, params: dict, residuals: Array, dy: Array):
        x = residuals
        below = self._by_channel(jnp.where(x > 0, 0, x))
        capture = AffineCapture(below, self._by_channel(dy), use_offset=False)
        return jnp.where(x > 0, dy, params["scale"] * dy), capture

    def _by_channel(self, x: Array) -> Array:
        """With as many elements on the last axis as a has; one a sees one channel of positions."""
        require_floating("prelu", "x", x)
        require_rank("prelu", "x", x, 2 if self.per_channel else 1)
        return x if self.per_channel else x.reshape(x.shape[0], math.prod(x.shape[1:]), 1)


class OverAxis(ParameterFree):
    """Base of layers that normalise along one axis, in at least float32."""

    axis: Annotated[int, require_feature_axis] = -1

    mixes = False

    @property
    def wide(self) -> bool:
        return True

    def require(self, x: Array) -> None:
        """Raise unless x is floating-point and has the axis."""
        require_floating(self.name, "x", x)
        require_axis(self.name, "axis", self.axis, x)


class softmax(OverAxis):
    """yᵢ = e^(xᵢ − c) / Σₖ e^(xₖ − c) with c = max x, which avoids ∞/∞.

    The Jacobian diag(y) − y yᵀ gives dx = y (dy − y·dy). Sums run in at least float32.
    """

    def apply(self, x: Array):
        self.require(x)
        y = jax.nn.softmax(_wide(x), self.axis).astype(x.dtype)
        return y, y

    def pull_back(self, residuals: Array, dy: Array):
        y, d = _wide(residuals), _wide(dy)
        return (y * (d - jnp.sum(y * d, self.axis, keepdims=True))).astype(dy.dtype)


class log_softmax(OverAxis):
    """y = x − log Σₖ e^xₖ, computed with the largest x shifted to 0; dx = dy − eʸ Σₖ dyₖ.

    Sums run in at least float32.
    """

    def apply(self, x: Array):
        self.require(x)
        # Of y in half precision, whose error grows with |y|, e^y would have few digits left.
        return jax.nn.log_softmax(_wide(x), self.axis).astype(x.dtype), x

    def pull_back(self, residuals: Array, dy: Array):
        exp_y, d = jax.nn.softmax(_wide(residuals), self.axis), _wide(dy)
        return (d - exp_y * jnp.sum(d, self.axis, keepdims=True)).astype(dy.dtype)


def _wide(x: Array) -> Array:
    return x.astype(sum_dtype(x.dtype))


def _finite(x: Array) -> Array:
    """x with the largest numbers in place of infinities, of which a multiple of 0 is NaN."""
    bounds = jnp.finfo(x.dtype)
    return jnp.clip(x, bounds.min, bounds.max)
