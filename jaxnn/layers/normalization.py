"""Normalisation: subtract a mean, divide by a standard deviation, then scale and offset.

y = scale · x̂ + offset with x̂ = (x − μ) / √(σ² + ε), for the mean μ and the (biased) variance σ² of
a set of elements: the layers differ in the set. With d = dy · scale and means over the same set,

    dx = (d − mean(d) − x̂ · mean(d · x̂)) / √(σ² + ε),

where the two means are the projections on the directions that the normalisation removed, 1 and x̂.
Without a scale d = dy. All of it runs in at least float32: in half precision a square overflows
from 256 on. In float32 one does from 10¹⁹ on, so σ² is computed in units of u²,

    σ² = u² v  and  1 / √(σ² + ε) = 1 / (u √(v + ε / u²)),

with the largest u (a power of two, which rounds nothing) by which all that is visible beside ε
stays above the smallest number: for ε = 10⁻⁵ deviations of 10³⁰ are squared as safely as ones of 1.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import AffineCapture
from jaxnn.core.contract import Layer
from jaxnn.core.validation import (
    require_axis,
    require_feature_axis,
    require_features,
    require_floating,
    require_non_negative,
    require_positive,
    require_positive_integer,
    require_rank,
    require_share,
)
from jaxnn.kernels.products import norm_along, sum_dtype
from jaxnn.layers.activations import OverAxis


def require_axes(where: str, name: str, value: Any) -> int | tuple[int, ...]:
    """The value; raises unless it is an axis or several, none of them 0, the batch."""
    if not isinstance(value, tuple | list):
        return require_feature_axis(where, name, value)
    return tuple(require_feature_axis(where, f"every one of {name}", axis) for axis in value)


class _Norm(Layer):
    """Base of normalisations of x [batch, *positions, features], with parameters by feature.

    x̂ is computed again from x in the backward pass: x is there anyway, x̂ would be one array more.
    """

    use_scale: bool = dataclasses.field(kw_only=True, default=True)
    use_offset: bool = dataclasses.field(kw_only=True, default=True)

    mixes = False
    centred: ClassVar[bool] = True
    """Whether μ is subtracted."""

    @property
    def wide(self) -> bool:
        return True

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        """An array like x, seen so that a set lies along axes of its own, and those axes."""
        return a, (-1,)

    def own_axes(self, x: Any) -> tuple[int, ...]:
        """The axes of x whose elements have a scale and an offset each, in ascending order."""
        return (len(x.shape) - 1,)

    def init(self, key: Array | None, x: Any):
        self.require((), x)
        shape = tuple(x.shape[axis] for axis in self.own_axes(x))
        scale = {"scale": jnp.ones(shape, x.dtype)} if self.use_scale else {}
        offset = {"offset": jnp.zeros(shape, x.dtype)} if self.use_offset else {}
        return scale | offset or (), ()

    def forward(self, params: Any, state: Any, x: Array, key: Array | None):
        self.require(params, x)
        mean, variance = self.moments(x)
        scales = mean, self.inverse(variance, self.unit(variance.dtype))
        return self.affine(params, x, *scales), state, (x, *scales)

    def backward(self, params: Any, residuals: Any, dy: Array):
        normalized, inverse = self.normalized(*residuals), residuals[-1]
        d, axes = self.sets(self.scaled(params, dy.astype(normalized.dtype)))
        along = self.sets(normalized)[0]
        mean = jnp.mean(d, axes, keepdims=True) if self.centred else 0
        projected = d - mean - along * jnp.mean(d * along, axes, keepdims=True)
        dx = (projected * inverse).reshape(dy.shape).astype(dy.dtype)
        return dx, self.captures(normalized, dy)

    def require(self, params: Any, x: Any) -> None:
        """Raise unless x is what the parameters were made for, where there are some."""
        require_floating(self.name, "x", x)
        require_rank(self.name, "x", x, 2)
        axes = self.own_axes(x)
        sizes = tuple(x.shape[axis] for axis in axes)
        by_features = axes == (len(x.shape) - 1,)
        for own in jax.tree.leaves(params):
            if sizes != own.shape and not by_features:
                raise ValueError(
                    f"{self.name}: expected the sizes of x along axes {axes} to be {own.shape}, "
                    f"got {sizes}"
                )
            features = own.shape[0] if by_features else x.shape[-1]
            require_features(self.name, x, features, own.dtype)

    def unit(self, dtype: Any) -> float:
        """u: what deviations are divided by before they are squared. Where ε is 0, it is 1."""
        info, epsilon = jnp.finfo(dtype), self._epsilon
        if epsilon == 0:
            return 1.0
        return 2.0 ** math.floor((math.log2(epsilon) - info.nmant - 1 - info.minexp) / 2)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """μ and σ² / u² of every set, or 0 and the mean of x² / u²; summed axes stay with size 1.

        A sum of many equal numbers is a little off, which deviations far smaller would show. So the
        first mean is but a shift near to the numbers, and the moments are taken of what remains
        (the corrected two-pass algorithm of Chan, Golub and LeVeque, 1983).
        """
        x, axes = self.sets(x.astype(sum_dtype(x.dtype)))
        unit = self.unit(x.dtype)
        if not self.centred:
            return jnp.zeros((), x.dtype), jnp.mean(jnp.square(x / unit), axes, keepdims=True)
        shift = jax.lax.stop_gradient(jnp.mean(x, axes, keepdims=True))
        rest = jnp.mean(x - shift, axes, keepdims=True)
        squares = jnp.mean(jnp.square((x - shift) / unit), axes, keepdims=True)
        return shift + rest, jnp.maximum(squares - jnp.square(rest / unit), 0)

    def inverse(self, variance: Array, unit: float = 1.0) -> Array:
        """1 / √(σ² + ε) of σ² / u²."""
        variance = variance.astype(sum_dtype(variance.dtype))
        return 1 / (unit * jnp.sqrt(variance + self._epsilon / unit**2))

    @property
    def _epsilon(self) -> float:
        return self.epsilon  # pyright: ignore[reportAttributeAccessIssue]

    def normalized(self, x: Array, mean: Any, inverse: Array) -> Array:
        """x̂ of x, μ and 1 / √(σ² + ε)."""
        return ((self.sets(x.astype(inverse.dtype))[0] - mean) * inverse).reshape(x.shape)

    def affine(self, params: Any, x: Array, mean: Any, inverse: Array) -> Array:
        """y."""
        y = self.scaled(params, self.normalized(x, mean, inverse))
        return (y + self._placed(params["offset"], x) if self.use_offset else y).astype(x.dtype)

    def scaled(self, params: Any, a: Array) -> Array:
        """An array like x times the scale, in its own dtype."""
        if not self.use_scale:
            return a
        return a * self._placed(params["scale"], a).astype(a.dtype)

    def _placed(self, parameter: Array, x: Array) -> Array:
        """A parameter with the axes of x."""
        axes = self.own_axes(x)
        return jnp.expand_dims(parameter, [axis for axis in range(x.ndim) if axis not in axes])

    def affine_capture(self, normalized: Array, dy: Array) -> AffineCapture:
        """That of scale and offset, whether they are there or not."""
        axes = self.own_axes(dy)
        shape = tuple(dy.shape[axis] for axis in axes)
        last = range(dy.ndim - len(axes), dy.ndim)

        def by_feature(a: Array):
            a = jnp.moveaxis(a, axes, last)
            return a.reshape(*a.shape[: last[0]], math.prod(shape))

        return AffineCapture(
            by_feature(normalized.astype(dy.dtype)),
            by_feature(dy),
            self.name if self.mixes else None,
            use_offset=self.use_offset,
            use_scale=self.use_scale,
            shape=None if len(shape) == 1 else shape,
        )

    def captures(self, normalized: Array, dy: Array) -> Any:
        """The captures tree: nothing where there are no parameters."""
        has_parameters = self.use_scale or self.use_offset
        return self.affine_capture(normalized, dy) if has_parameters else ()


class _OverAxes(_Norm):
    """Base of those whose sets lie along axes of their own, every element with its parameters."""

    axes: Annotated[int | tuple[int, ...], require_axes] = dataclasses.field(
        kw_only=True, default=-1
    )

    mixes = False

    def own_axes(self, x: Any) -> tuple[int, ...]:
        given = self.axes if isinstance(self.axes, tuple) else (self.axes,)
        axes = sorted({require_axis(self.name, "every one of axes", axis, x) for axis in given})
        if not axes or len(axes) < len(given):
            raise ValueError(
                f"{self.name}: expected axes to name some of x, each once, got {self.axes} for "
                f"shape {tuple(x.shape)}"
            )
        return tuple(axes)

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        return a, self.own_axes(a)


class layer_norm(_OverAxes):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over the features of one position.

    x is [batch, *positions, features] (Ba et al., 2016).

    Args:
        epsilon: ε.
        axes: The axis of the features, or several, which are normalised together: (1, 3) or, for
            the last two whatever their place, (-2, -1). ``scale`` and ``offset`` have their sizes,
            in the order of x.
        use_scale: Whether y has a scale; 1 otherwise.
        use_offset: Whether y has an offset; 0 otherwise. Without either, params are ().

    Raises:
        TypeError: x is not floating-point or not of the parameters' dtype.
        ValueError: ``epsilon`` is negative; ``axes`` name the batch, one that x lacks, or one
            twice; x has other sizes along them than the parameters.
    """

    epsilon: Annotated[float, require_non_negative] = 1e-5


class rms_norm(_OverAxes):
    """y = scale · x̂, x̂ = x / √(mean x² + ε) over the features of one position.

    x is [batch, *positions, features] (Zhang and Sennrich, 2019); no mean is subtracted, and no
    offset added unless asked for. With d = dy · scale, dx = (d − x̂ · mean(d · x̂)) / √(mean x² + ε):
    `layer_norm` without the projection on 1. Arguments and errors are those of `layer_norm`.
    """

    epsilon: Annotated[float, require_non_negative] = 1e-5
    use_offset: bool = dataclasses.field(kw_only=True, default=False)

    centred = False


class group_norm(_Norm):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over positions and a group of channels.

    x is [batch, *positions, channels] (Wu and He, 2018); the channels are cut into ``groups`` of
    neighbours, and every example is normalised by itself, in training as in inference. ``scale``
    and ``offset`` are [channels], each left out by its option.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    groups: Annotated[int, require_positive_integer]
    epsilon: Annotated[float, require_non_negative] = 1e-5

    mixes = False

    def require(self, params: Any, x: Any) -> None:
        super().require(params, x)
        if x.shape[-1] % self.groups:
            raise ValueError(
                f"group_norm: expected groups to divide the {x.shape[-1]} channels of x, "
                f"got {self.groups}"
            )

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        positions, channels = math.prod(a.shape[1:-1]), a.shape[-1] // self.groups
        return a.reshape(a.shape[0], positions, self.groups, channels), (1, 3)


class instance_norm(_Norm):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over the positions of a channel.

    x is [batch, *positions, channels] (Ulyanov et al., 2016): `group_norm` with a group for every
    channel. ``scale`` and ``offset`` are [channels], each left out by its option. At a single
    position nothing is left of x, and y is the offset.

    Raises:
        ValueError: ``epsilon`` is negative, or x has no axis of positions.
    """

    epsilon: Annotated[float, require_non_negative] = 1e-5

    mixes = False

    def require(self, params: Any, x: Any) -> None:
        super().require(params, x)
        require_rank(self.name, "x", x, 3)

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        return a, tuple(range(1, a.ndim - 1))


class batch_norm(_Norm):
    """y = scale · x̂ + offset, x̂ = (x − μ) / √(σ² + ε) over batch and positions, by feature.

    x is [batch, *positions, features] (Ioffe and Szegedy, 2015). In training μ and σ² are those of
    the batch. Inference uses the running statistics in ``state``: ``mean`` and ``variance``, each
    updated in training as momentum · running + (1 − momentum) · batch (the biased variance); they
    do not depend on x, so that the backward pass of `in_inference_mode` is
    dx = dy · scale / √(σ² + ε). ``scale`` and ``offset`` are [features], each left out by its
    option.

    Raises:
        ValueError: a training batch is empty, which has no mean.
    """

    momentum: Annotated[float, require_share] = 0.9
    epsilon: Annotated[float, require_non_negative] = 1e-5

    mixes = True

    def sets(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        return a, tuple(range(a.ndim - 1))

    def at_rest(self) -> Layer:
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return batch_norm_at_rest(**{field.name: getattr(self, field.name) for field in fields})

    def init(self, key: Array | None, x: Any):
        params, _ = super().init(key, x)
        features = x.shape[-1:]
        return params, {
            "mean": jnp.zeros(features, x.dtype),
            "variance": jnp.ones(features, x.dtype),
        }

    def predict(self, params: Any, state: dict, x: Array):
        self.require((params, state), x)
        return self.affine(params, x, state["mean"], self.inverse(state["variance"]))

    def forward(self, params: Any, state: dict, x: Array, key: Array | None):
        self.require((params, state), x)
        if 0 in x.shape:
            raise ValueError(
                f"batch_norm: expected at least one example in training, got {x.shape}"
            )
        mean, variance = self.moments(x)
        unit = self.unit(variance.dtype)
        new_state = {
            name: self._updated(state[name], moment.reshape(-1))
            for name, moment in (("mean", mean), ("variance", variance * unit * unit))
        }
        scales = mean, self.inverse(variance, unit)
        return self.affine(params, x, *scales), new_state, (x, *scales)

    def backward(self, params: Any, residuals: Any, dy: Array):
        normalized, inverse = self.normalized(*residuals), residuals[-1]
        # Over the batch, both projections are sums that the gradients of the parameters need, too.
        sums = self.affine_capture(normalized, dy).sums()
        along, total = (s / (dy.size // dy.shape[-1]) for s in sums)
        projected = dy - total - normalized * along
        dx = (self.scaled(params, projected) * inverse).astype(dy.dtype)
        return dx, self.captures(normalized, dy)

    def _updated(self, running: Array, moment: Array) -> Array:
        # In half precision a small step of a running statistic would be rounded away.
        wide = running.astype(moment.dtype)
        return (self.momentum * wide + (1 - self.momentum) * moment).astype(running.dtype)


class batch_norm_at_rest(batch_norm):
    """`batch_norm` in inference: it has the same params and state, and leaves the state alone."""

    mixes = False

    def at_rest(self) -> Layer:
        return self

    def forward(self, params: Any, state: dict, x: Array, key: Array | None):
        self.require((params, state), x)
        scales = state["mean"], self.inverse(state["variance"])
        return self.affine(params, x, *scales), state, (x, *scales)

    def backward(self, params: Any, residuals: Any, dy: Array):
        normalized, inverse = self.normalized(*residuals), residuals[-1]
        # The running statistics do not depend on x. Wide first: dy · scale may overflow a half.
        dx = self.scaled(params, dy.astype(normalized.dtype)) * inverse
        return dx.astype(dy.dtype), self.captures(normalized, dy)


class normalize(OverAxis):
    """y = x / max(‖x‖, ε), with the Euclidean norm along one axis, in at least float32.

    Where ‖x‖ ≥ ε, dx = (dy − y (y · dy)) / ‖x‖: of dy, what lies along y is taken away. Below, the
    denominator does not depend on x, and dx = dy / ε, for x = 0 too.

    Raises:
        TypeError: x is not floating-point.
        ValueError: ``epsilon`` is not positive, or x has no such axis.
    """

    epsilon: Annotated[float, require_positive] = 1e-12

    def apply(self, x: Array):
        self.require(x)
        wide = x.astype(sum_dtype(x.dtype))
        length = norm_along(wide, (self.axis,))
        return (wide / self._floored(length)).astype(x.dtype), (x, length)

    def pull_back(self, residuals: tuple, dy: Array):
        x, length = residuals
        floored, d = self._floored(length), dy.astype(length.dtype)
        y = x.astype(length.dtype) / floored
        along = jnp.where(length < self.epsilon, 0, jnp.sum(y * d, self.axis, keepdims=True))
        return ((d - y * along) / floored).astype(dy.dtype)

    def _floored(self, length: Array) -> Array:
        return jnp.where(length < self.epsilon, self.epsilon, length)
