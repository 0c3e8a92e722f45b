"""Normalisation: subtract a mean, divide by a standard deviation, then scale and offset."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import AffineCapture
from jaxnn.core.layer import Layer
from jaxnn.core.validation import (
    require_features,
    require_floating,
    require_number,
    require_positive_integer,
    require_rank,
)
from jaxnn.kernels.products import sum_dtype


def layer_norm(epsilon: float = 1e-5) -> Layer:
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over the features of one position.

    x is [batch, *positions, features] (Ba et al., 2016). With d = dy · scale and means over the
    features, dx = (d − mean(d) − x̂ · mean(d · x̂)) / √(σ² + ε): the two means are the projections
    on the directions that the normalisation removed, 1 and x̂.
    """
    require_number("layer_norm", "epsilon", epsilon, minimum=0)

    def init(key: Array | None, x: Any):
        _require_positions("layer_norm", x)
        return _affine_params(x), ()

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        _require_like("layer_norm", x, params)
        mean, variance = _moments(x, -1)
        inverse_deviation = jax.lax.rsqrt(variance + epsilon)
        y = _affine(params, _normalize(x, mean, inverse_deviation))
        return y, state, (x, mean, inverse_deviation)

    def backward(params: dict, residuals: Any, dy: Array):
        x, mean, inverse_deviation = residuals
        normalized = _normalize(x, mean, inverse_deviation)
        dx = _normalize_backward(normalized, inverse_deviation, dy * params["scale"], -1)
        return dx, AffineCapture(normalized, dy)

    def predict(params: dict, state: Any, x: Array):
        return forward(params, state, x, None)[0]

    return Layer(init, predict, forward, backward, "layer_norm")


def batch_norm(momentum: float = 0.9, epsilon: float = 1e-5) -> Layer:
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over batch and positions, by feature.

    x is [batch, *positions, features] (Ioffe and Szegedy, 2015). In training μ and σ² are those of
    the batch; backward is that of `layer_norm` with its means taken over the batch. Inference uses
    the running statistics in ``state``: ``mean`` and ``variance``, each updated in training as
    momentum · running + (1 − momentum) · batch (the biased variance); they do not depend on x, so
    that the backward pass of `in_inference_mode` is dx = dy · scale / √(σ² + ε).

    Raises:
        ValueError: a training batch is empty, which has no mean.
    """
    require_number("batch_norm", "momentum", momentum, minimum=0, maximum=1)
    require_number("batch_norm", "epsilon", epsilon, minimum=0)

    def init(key: Array | None, x: Any):
        _require_positions("batch_norm", x)
        features = x.shape[-1:]
        state = {"mean": jnp.zeros(features, x.dtype), "variance": jnp.ones(features, x.dtype)}
        return _affine_params(x), state

    def running_forward(params: dict, state: dict, x: Array, key: Array | None):
        _require_like("batch_norm", x, params)
        inverse_deviation = jax.lax.rsqrt(state["variance"] + epsilon)
        y = _affine(params, _normalize(x, state["mean"], inverse_deviation))
        return y, state, (x, state["mean"], inverse_deviation)

    def running_backward(params: dict, residuals: Any, dy: Array):
        # The running statistics do not depend on x.
        dx = dy * params["scale"] * residuals[-1]
        return dx, AffineCapture(_normalize(*residuals), dy)

    def predict(params: dict, state: dict, x: Array):
        return running_forward(params, state, x, None)[0]

    def forward(params: dict, state: dict, x: Array, key: Array | None):
        _require_like("batch_norm", x, params)
        if 0 in x.shape:
            raise ValueError(
                f"batch_norm: expected at least one example in training, got {x.shape}"
            )
        mean, variance = _moments(x, tuple(range(x.ndim - 1)))
        new_state = {
            name: momentum * state[name] + (1 - momentum) * moment.reshape(-1).astype(x.dtype)
            for name, moment in (("mean", mean), ("variance", variance))
        }
        inverse_deviation = jax.lax.rsqrt(variance + epsilon)
        y = _affine(params, _normalize(x, mean, inverse_deviation))
        return y, new_state, (x, mean, inverse_deviation)

    def backward(params: dict, residuals: Any, dy: Array):
        x, mean, inverse_deviation = residuals
        normalized = _normalize(x, mean, inverse_deviation)
        capture = AffineCapture(normalized, dy, mixed_by="batch_norm")
        # Over the batch, both projections are sums that the gradients of the parameters need, too.
        along, total = (s / (dy.size // dy.shape[-1]) for s in capture.sums())
        projected = dy - total - normalized * along
        return (projected * params["scale"] * inverse_deviation).astype(dy.dtype), capture

    inference = Layer(init, predict, running_forward, running_backward, "batch_norm")
    return Layer(init, predict, forward, backward, "batch_norm", inference=inference)


def group_norm(groups: int, epsilon: float = 1e-5) -> Layer:
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over positions and a group of channels.

    x is [batch, *positions, channels] (Wu and He, 2018); the channels are cut into ``groups`` of
    neighbours, and every example is normalised by itself, in training as in inference. Backward is
    that of `layer_norm` with its means taken over the positions and channels of a group.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """
    require_positive_integer("group_norm", "groups", groups)
    require_number("group_norm", "epsilon", epsilon, minimum=0)
    axes = (1, 3)

    def grouped(a: Array):
        """[batch, positions, groups, channels of a group]."""
        positions, channels = math.prod(a.shape[1:-1]), a.shape[-1]
        return a.reshape(a.shape[0], positions, groups, channels // groups)

    def init(key: Array | None, x: Any):
        _require_positions("group_norm", x)
        if x.shape[-1] % groups:
            raise ValueError(
                f"group_norm: expected groups to divide the {x.shape[-1]} channels of x, "
                f"got {groups}"
            )
        return _affine_params(x), ()

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        _require_like("group_norm", x, params)
        mean, variance = _moments(grouped(x), axes)
        inverse_deviation = jax.lax.rsqrt(variance + epsilon)
        normalized = _normalize(grouped(x), mean, inverse_deviation).reshape(x.shape)
        return _affine(params, normalized), state, (x, mean, inverse_deviation)

    def backward(params: dict, residuals: Any, dy: Array):
        x, mean, inverse_deviation = residuals
        normalized = _normalize(grouped(x), mean, inverse_deviation)
        d = grouped(dy * params["scale"])
        dx = _normalize_backward(normalized, inverse_deviation, d, axes)
        return dx.reshape(dy.shape), AffineCapture(normalized.reshape(x.shape), dy)

    def predict(params: dict, state: Any, x: Array):
        return forward(params, state, x, None)[0]

    return Layer(init, predict, forward, backward, "group_norm")


def rms_norm(epsilon: float = 1e-5) -> Layer:
    """y = scale · x̂, x̂ = x / √(mean x² + ε) over the features of one position.

    x is [batch, *positions, features] (Zhang and Sennrich, 2019); no mean is subtracted and nothing
    is added. With d = dy · scale, dx = (d − x̂ · mean(d · x̂)) / √(mean x² + ε): `layer_norm` without
    the projection on 1.
    """
    require_number("rms_norm", "epsilon", epsilon, minimum=0)

    def init(key: Array | None, x: Any):
        _require_positions("rms_norm", x)
        return {"scale": jnp.ones(x.shape[-1:], x.dtype)}, ()

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        _require_like("rms_norm", x, params)
        wide = x.astype(sum_dtype(x.dtype))
        inverse_root = jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + epsilon)
        return _normalize(x, 0, inverse_root) * params["scale"], state, (x, inverse_root)

    def backward(params: dict, residuals: Any, dy: Array):
        x, inverse_root = residuals
        normalized = _normalize(x, 0, inverse_root)
        d = dy * params["scale"]
        along = jnp.mean(d * normalized, -1, keepdims=True)
        dx = ((d - normalized * along) * inverse_root).astype(dy.dtype)
        return dx, AffineCapture(normalized, dy, use_offset=False)

    def predict(params: dict, state: Any, x: Array):
        return forward(params, state, x, None)[0]

    return Layer(init, predict, forward, backward, "rms_norm")


def _moments(x: Array, axes: Any) -> tuple[Array, Array]:
    """Mean and (biased) variance over the axes, which stay with size 1."""
    # In half precision the square of a deviation overflows from 256 on.
    wide = x.astype(sum_dtype(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True)
    return mean, jnp.mean(jnp.square(wide - mean), axes, keepdims=True)


def _normalize(x: Array, mean: Array | float, inverse_deviation: Array) -> Array:
    """x̂, which backward computes again from x: x is there anyway, x̂ would be one array more."""
    return ((x - mean) * inverse_deviation).astype(x.dtype)


def _normalize_backward(normalized: Array, inverse_deviation: Array, d: Array, axes: Any) -> Array:
    mean = jnp.mean(d, axes, keepdims=True)
    along = jnp.mean(d * normalized, axes, keepdims=True)
    return ((d - mean - normalized * along) * inverse_deviation).astype(d.dtype)


def _affine_params(x: Any) -> dict[str, Array]:
    features = x.shape[-1:]
    return {"scale": jnp.ones(features, x.dtype), "offset": jnp.zeros(features, x.dtype)}


def _affine(params: dict, normalized: Array) -> Array:
    return normalized * params["scale"] + params["offset"]


def _require_positions(name: str, x: Any) -> None:
    require_floating(name, "x", x)
    require_rank(name, "x", x, 2)


def _require_like(name: str, x: Any, params: dict) -> None:
    require_features(name, x, params["scale"].shape[0], params["scale"].dtype)
