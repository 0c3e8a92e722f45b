"""Normalisation: subtract a mean, divide by a standard deviation, then scale and offset.

y = scale · x̂ + offset with x̂ = (x − μ) / √(σ² + ε), for the mean μ and the (biased) variance σ² of
a set of elements: the layers differ in the set. With d = dy · scale and means over the same set,

    dx = (d − mean(d) − x̂ · mean(d · x̂)) / √(σ² + ε),

where the two means are the projections on the directions that the normalisation removed, 1 and x̂.
All of it runs in at least float32: in half precision a square overflows from 256 on.
"""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import AffineCapture
from jaxnn.core.contract import Layer
from jaxnn.core.validation import (
    require_features,
    require_floating,
    require_non_negative,
    require_positive_integer,
    require_rank,
    require_share,
)
from jaxnn.kernels.products import sum_dtype


class _Norm(Layer):
    """Base of normalisations of x [batch, *positions, features], with parameters by feature.

    x̂ is computed again from x in the backward pass: x is there anyway, x̂ would be one array more.
    """

    mixes = False
    centred = True
    """Whether μ is subtracted and an offset added."""

    @property
    def wide(self) -> bool:
        return True

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        """An array like x, seen so that a set lies along axes of its own, and those axes."""
        return a, (-1,)

    def init(self, key: Array | None, x: Any):
        require_floating(self.name, "x", x)
        require_rank(self.name, "x", x, 2)
        params = {"scale": jnp.ones(x.shape[-1:], x.dtype)}
        if self.centred:
            params["offset"] = jnp.zeros(x.shape[-1:], x.dtype)
        return params, ()

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        self.require(params, x)
        mean, variance = self.moments(x)
        scales = mean, self.inverse(variance)
        return self.affine(params, x, *scales), state, (x, *scales)

    def backward(self, params: dict, residuals: Any, dy: Array):
        normalized, inverse = self.normalized(*residuals), residuals[-1]
        d, axes = self.sets(dy * params["scale"].astype(normalized.dtype))
        along = self.sets(normalized)[0]
        mean = jnp.mean(d, axes, keepdims=True) if self.centred else 0
        projected = d - mean - along * jnp.mean(d * along, axes, keepdims=True)
        dx = (projected * inverse).reshape(dy.shape).astype(dy.dtype)
        return dx, self.capture(normalized, dy)

    def require(self, params: dict, x: Any) -> None:
        """Raise unless x is what the parameters were made for."""
        require_features(self.name, x, params["scale"].shape[0], params["scale"].dtype)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """μ and σ² of every set, or 0 and the mean of x²; summed axes stay with size 1.

        A sum of many equal numbers is a little off, which deviations far smaller would show. So the
        first mean is but a shift near to the numbers, and the moments are taken of what remains
        (the corrected two-pass algorithm of Chan, Golub and LeVeque, 1983).
        """
        x, axes = self.sets(x.astype(sum_dtype(x.dtype)))
        if not self.centred:
            return jnp.zeros((), x.dtype), jnp.mean(x * x, axes, keepdims=True)
        shift = jax.lax.stop_gradient(jnp.mean(x, axes, keepdims=True))
        rest = jnp.mean(x - shift, axes, keepdims=True)
        variance = jnp.mean(jnp.square(x - shift), axes, keepdims=True) - rest * rest
        return shift + rest, jnp.maximum(variance, 0)

    def inverse(self, variance: Array) -> Array:
        """1 / √(σ² + ε)."""
        epsilon = self.epsilon  # pyright: ignore[reportAttributeAccessIssue]
        return jax.lax.rsqrt(variance.astype(sum_dtype(variance.dtype)) + epsilon)

    def normalized(self, x: Array, mean: Array, inverse: Array) -> Array:
        """x̂ of x, μ and 1 / √(σ² + ε)."""
        return ((self.sets(x.astype(inverse.dtype))[0] - mean) * inverse).reshape(x.shape)

    def affine(self, params: dict, x: Array, mean: Array, inverse: Array) -> Array:
        """y."""
        y = self.normalized(x, mean, inverse) * params["scale"]
        return (y + params["offset"] if self.centred else y).astype(x.dtype)

    def capture(self, normalized: Array, dy: Array) -> AffineCapture:
        """That of scale and offset."""
        mixed_by = self.name if self.mixes else None
        return AffineCapture(normalized.astype(dy.dtype), dy, mixed_by, self.centred)


class layer_norm(_Norm):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over the features of one position.

    x is [batch, *positions, features] (Ba et al., 2016).

    Raises:
        ValueError: ``epsilon`` is negative.
    """

    epsilon: Annotated[float, require_non_negative] = 1e-5


class rms_norm(_Norm):
    """y = scale · x̂, x̂ = x / √(mean x² + ε) over the features of one position.

    x is [batch, *positions, features] (Zhang and Sennrich, 2019); no mean is subtracted and nothing
    is added. With d = dy · scale, dx = (d − x̂ · mean(d · x̂)) / √(mean x² + ε): `layer_norm` without
    the projection on 1.
    """

    epsilon: Annotated[float, require_non_negative] = 1e-5

    centred = False


class group_norm(_Norm):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over positions and a group of channels.

    x is [batch, *positions, channels] (Wu and He, 2018); the channels are cut into ``groups`` of
    neighbours, and every example is normalised by itself, in training as in inference.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    groups: Annotated[int, require_positive_integer]
    epsilon: Annotated[float, require_non_negative] = 1e-5

    mixes = False

    def init(self, key: Array | None, x: Any):
        made = super().init(key, x)
        if x.shape[-1] % self.groups:
            raise ValueError(
                f"group_norm: expected groups to divide the {x.shape[-1]} channels of x, "
                f"got {self.groups}"
            )
        return made

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        positions, channels = math.prod(a.shape[1:-1]), a.shape[-1] // self.groups
        return a.reshape(a.shape[0], positions, self.groups, channels), (1, 3)


class batch_norm(_Norm):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over batch and positions, by feature.

    x is [batch, *positions, features] (Ioffe and Szegedy, 2015). In training μ and σ² are those of
    the batch. Inference uses the running statistics in ``state``: ``mean`` and ``variance``, each
    updated in training as momentum · running + (1 − momentum) · batch (the biased variance); they
    do not depend on x, so that the backward pass of `in_inference_mode` is
    dx = dy · scale / √(σ² + ε).

    Raises:
        ValueError: a training batch is empty, which has no mean.
    """

    momentum: Annotated[float, require_share] = 0.9
    epsilon: Annotated[float, require_non_negative] = 1e-5

    mixes = True

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        return a, tuple(range(a.ndim - 1))

    def at_rest(self) -> Layer:
        return batch_norm_at_rest(self.momentum, self.epsilon)

    def init(self, key: Array | None, x: Any):
        params, _ = super().init(key, x)
        features = x.shape[-1:]
        return params, {
            "mean": jnp.zeros(features, x.dtype),
            "variance": jnp.ones(features, x.dtype),
        }

    def predict(self, params: dict, state: dict, x: Array):
        self.require(params, x)
        return self.affine(params, x, state["mean"], self.inverse(state["variance"]))

    def forward(self, params: dict, state: dict, x: Array, key: Array | None):
        self.require(params, x)
        if 0 in x.shape:
            raise ValueError(
                f"batch_norm: expected at least one example in training, got {x.shape}"
            )
        mean, variance = self.moments(x)
        new_state = {
            name: self.momentum * state[name]
            + (1 - self.momentum) * moment.reshape(-1).astype(x.dtype)
            for name, moment in (("mean", mean), ("variance", variance))
        }
        scales = mean, self.inverse(variance)
        return self.affine(params, x, *scales), new_state, (x, *scales)

    def backward(self, params: dict, residuals: Any, dy: Array):
        normalized, inverse = self.normalized(*residuals), residuals[-1]
        capture = self.capture(normalized, dy)
        # Over the batch, both projections are sums that the gradients of the parameters need, too.
        along, total = (s / (dy.size // dy.shape[-1]) for s in capture.sums())
        projected = dy - total - normalized * along
        return (projected * params["scale"] * inverse).astype(dy.dtype), capture


class batch_norm_at_rest(batch_norm):
    """`batch_norm` in inference: it has the same params and state, and leaves the state alone."""

    mixes = False

    def at_rest(self) -> Layer:
        return self

    def forward(self, params: dict, state: dict, x: Array, key: Array | None):
        self.require(params, x)
        scales = state["mean"], self.inverse(state["variance"])
        return self.affine(params, x, *scales), state, (x, *scales)

    def backward(self, params: dict, residuals: Any, dy: Array):
        normalized, inverse = self.normalized(*residuals), residuals[-1]
        # The running statistics do not depend on x.
        return (dy * params["scale"] * inverse).astype(dy.dtype), self.capture(normalized, dy)
