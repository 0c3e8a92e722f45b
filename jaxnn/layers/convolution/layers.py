"""The layers `conv` and `conv_transpose`: arguments, parameters, padding and bias.

What is computed is in the algorithms beside this file. Here x is brought into the form that they
take, padded with zeros alone, and the three passes are put together: a transposed convolution is
the convolution with its forward pass and its input gradient exchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.initializers import Initializer, initializer
from jaxnn.core.layer import Arguments, Layer, Static
from jaxnn.core.validation import (
    require_boolean,
    require_features,
    require_key,
    require_positive_integer,
    unknown_name,
)
from jaxnn.kernels.convolution import elementwise, winograd
from jaxnn.kernels.convolution.choosing import ALGORITHMS, run
from jaxnn.kernels.convolution.geometry import Geometry, transposed_kernel
from jaxnn.layers.convolution.capture import ConvCapture, ConvTransposeCapture
from jaxnn.layers.windows import (
    Padding,
    Pairs,
    Sizes,
    extent,
    output_sizes,
    per_dimension,
    require_padding,
    require_sizes,
    require_spatial,
    resolve_padding,
    spatial_dimensions,
)


def conv(
    features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: Padding = "SAME",
    dilation: Sizes = 1,
    groups: int = 1,
    use_bias: bool = True,
    weight_init: Initializer = "lecun",
    bias_init: Initializer = "zeros",
    algorithm: str | None = None,
) -> Layer:
    """y[p] = Σ_t x[p · strides + t · dilation] W[t] + b, over the taps t of the kernel.

    A cross-correlation, as in every library of neural networks, in 1 to 3 spatial dimensions: x is
    [batch, *size, in], y is [batch, *output_size, features]; the parameters are ``weight``
    [*kernel_size, in / groups, features] and ``bias`` [features], in the dtype of x. Backward:
    ∂L/∂x adds dy[p] W[t]ᵀ to the place that tap t met in window p, ∂L/∂W[t] = Σ x[…]ᵀ dy[p] over
    batch and positions, ∂L/∂b = Σ dy. The result is that of `jax.lax.conv_general_dilated`.

    Args:
        features: The channels of y.
        kernel_size: Of the kernel in each spatial dimension. Here, in strides, dilation and
            padding an integer stands for the same number in every dimension; how many there are is
            known from those that are tuples, or else from x.
        strides: The distance between neighbouring windows.
        padding: "SAME" (zeros, ⌈size / strides⌉ outputs), "VALID" (none), "CIRCULAR" (x continued
            periodically, ⌈size / strides⌉ outputs), or how many zeros: (low, high) for each
            dimension, or one integer.
        dilation: The distance between neighbouring taps.
        groups: Into how many groups the channels of x and y are divided; each group of y sees its
            own group of x alone. As many groups as channels make a depthwise convolution.
        use_bias: Whether b is added.
        weight_init: The initialiser of ``weight``.
        bias_init: The initialiser of ``bias``.
        algorithm: "direct", "patches", "winograd" or "elementwise" for all three passes; unless
            given, the fastest is chosen for each (see `jaxnn.kernels.convolution.choosing`).

    Raises:
        TypeError: x is not floating-point or not of the parameters' dtype, or a size is not an
            integer.
        ValueError: a size, stride or dilation is below 1; groups do not divide the channels; x has
            another rank or number of channels than expected; the kernel is larger than the padded
            x; padding or algorithm is unknown; ``algorithm`` cannot compute this convolution.
    """
    window = _Window("conv", features, kernel_size, strides, padding, dilation, groups, algorithm)

    def plan(x: Any) -> tuple[Pairs, Geometry]:
        size, kernel, strides, dilation = window.sizes(x)
        zeros, periods = window.around(size, kernel, strides, dilation)
        size = tuple(n + sum(pair) for n, pair in zip(size, periods, strict=True))
        output = output_sizes("conv", size, kernel, strides, zeros, dilation, "kernel_size")
        geometry = Geometry(size, output, kernel, strides, zeros, dilation, groups)
        require_applicable("conv", algorithm, geometry, x.shape[-1])
        return periods, geometry

    return _layer(
        window, plan, "forward", "input_gradient", ConvCapture, use_bias, weight_init, bias_init
    )


def conv_transpose(
    features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: Padding = "SAME",
    dilation: Sizes = 1,
    groups: int = 1,
    use_bias: bool = True,
    weight_init: Initializer = "lecun",
    bias_init: Initializer = "zeros",
    algorithm: str | None = None,
) -> Layer:
    """y[p · strides + t · dilation] += x[p] W[t]ᵀ, then + b: the transpose of a convolution.

    It takes x [batch, *size, in] to y [batch, *output_size, features] as the input gradient of the
    convolution with the same ``weight`` [*kernel_size, features / groups, in] takes dy to dx; its
    own backward pass is therefore that convolution. ``bias`` is [features].

    The same as `jax.lax.conv_transpose` with ``transpose_kernel=True``, which mirrors the kernel,
    and as PyTorch's transposed convolution with the kernel's axes in another order. Padding is that
    of the convolution that is transposed, as in PyTorch: it makes y smaller.

    Args:
        features: The channels of y.
        kernel_size: As of `conv`, as are strides, dilation, groups and the other arguments.
        strides: The distance in y between the windows of neighbouring elements of x.
        padding: "SAME" (y has size · strides), "VALID" (y has size · strides, and as much more as
            a kernel reaches beyond a stride), "CIRCULAR" (y has size · strides and is periodic), or
            how much is cut off y: (low, high) for each dimension, or one integer. (low, high) gives
            (size − 1) · strides + (kernel_size − 1) · dilation + 1 − low − high; PyTorch's padding
            p with output_padding o is (p, p − o).
        dilation: The distance in y between neighbouring taps.
        groups: Into how many groups the channels of x and y are divided.
        use_bias: Whether b is added.
        weight_init: The initialiser of ``weight``, whose "in" is that of this layer.
        bias_init: The initialiser of ``bias``.
        algorithm: As of `conv`, of the convolution that is transposed.

    Raises:
        TypeError: As `conv`.
        ValueError: As `conv`; ``padding`` cuts off all of y.
    """
    name = "conv_transpose"
    window = _Window(name, features, kernel_size, strides, padding, dilation, groups, algorithm)

    def plan(x: Any) -> tuple[Pairs, Geometry]:
        size, kernel, strides, dilation = window.sizes(x)
        reach = extent(kernel, dilation)
        full = tuple((n - 1) * s + r for n, s, r in zip(size, strides, reach, strict=True))
        same = tuple(n * s for n, s in zip(size, strides, strict=True))
        if padding == "VALID":
            output = tuple(map(max, full, same))
        elif isinstance(padding, str):
            output = same
        else:
            pairs = resolve_padding(padding, same, kernel, strides, dilation)
            output = tuple(n - sum(pair) for n, pair in zip(full, pairs, strict=True))
            if min(output) < 1:
                raise ValueError(
                    f"{name}: expected padding to leave something of an output of size {full}, "
                    f"got {padding!r}"
                )
        zeros, periods = window.around(output, kernel, strides, dilation)
        if padding == "CIRCULAR":
            periods, zeros = _periods_that_reach(periods, strides, reach)
        size = tuple(n + sum(pair) for n, pair in zip(size, periods, strict=True))
        geometry = Geometry(output, size, kernel, strides, zeros, dilation, groups)
        require_applicable(name, algorithm, geometry, features)
        return periods, geometry

    return _layer(
        window,
        plan,
        "input_gradient",
        "forward",
        ConvTransposeCapture,
        use_bias,
        weight_init,
        bias_init,
    )


@dataclass(frozen=True)
class _Window:
    """The arguments that both layers share, checked as far as they can be without an input."""

    name: str
    features: int
    kernel_size: Sizes
    strides: Sizes
    padding: Padding
    dilation: Sizes
    groups: int
    algorithm: str | None

    def __post_init__(self):
        require_positive_integer(self.name, "features", self.features)
        require_positive_integer(self.name, "groups", self.groups)
        self._require_divisible("features", self.features)
        for argument in ("kernel_size", "strides", "dilation"):
            require_sizes(self.name, argument, getattr(self, argument))
        require_padding(self.name, self.padding, ("SAME", "VALID", "CIRCULAR"))
        require_algorithm(self.name, self.algorithm)
        self._dimensions()

    def sizes(self, x: Any) -> tuple[tuple[int, ...], ...]:
        """The spatial sizes of x, and kernel size, strides and dilation in each dimension."""
        size = require_spatial(self.name, x, self._dimensions())
        self._require_divisible("the channels of x", x.shape[-1])
        given = (self.kernel_size, self.strides, self.dilation)
        return size, *(per_dimension(value, len(size)) for value in given)

    def around(self, size: tuple, kernel: tuple, strides: tuple, dilation: tuple):
        """How many zeros stand around x, and by how many elements x is continued periodically."""
        pairs = resolve_padding(self.padding, size, kernel, strides, dilation)
        nothing = ((0, 0),) * len(size)
        return (nothing, pairs) if self.padding == "CIRCULAR" else (pairs, nothing)

    def _dimensions(self) -> int | None:
        padding = None if isinstance(self.padding, str) else self.padding
        return spatial_dimensions(
            self.name,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            padding=padding,
        )

    def _require_divisible(self, what: str, channels: int) -> None:
        if channels < 1 or channels % self.groups:
            raise ValueError(
                f"{self.name}: expected groups to divide {what}, got {self.groups} groups of "
                f"{channels}"
            )


def _layer(
    window: _Window,
    plan: Callable,
    forward_pass: str,
    backward_pass: str,
    capture: type[ConvCapture],
    use_bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
) -> Layer:
    """The layer whose forward and backward are these passes of the convolution.

    Args:
        window: The arguments.
        plan: x -> (by how many elements x is continued periodically, the geometry after that).
        forward_pass: The pass that takes x to y.
        backward_pass: The pass that takes dy to dx.
        capture: Of this layer.
        use_bias: Whether there is a bias.
        weight_init: Of the weight.
        bias_init: Of the bias.
    """
    name, features, groups, algorithm = (
        window.name,
        window.features,
        window.groups,
        window.algorithm,
    )
    transposed = forward_pass == "input_gradient"
    require_boolean(name, "use_bias", use_bias)
    init_weight, init_bias = initializer(weight_init), initializer(bias_init)

    def init(key: Array | None, x: Any):
        _, geometry = plan(x)
        weight_key, bias_key = jax.random.split(require_key(name, key))
        # Initialisers take the last axes for in and out, which a transposed kernel exchanges.
        shape = (*geometry.kernel_size, x.shape[-1] // groups, features)
        weight = init_weight(weight_key, shape, x.dtype)
        params = {"weight": transposed_kernel(weight, groups) if transposed else weight}
        if use_bias:
            params["bias"] = init_bias(bias_key, (features,), x.dtype)
        return params, ()

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        periods, geometry = plan(x)
        weight = params["weight"]
        channels = weight.shape[-1] if transposed else weight.shape[-2] * groups
        require_features(name, x, channels, weight.dtype)
        if weight.ndim != x.ndim:
            raise ValueError(
                f"{name}: expected x to have the {weight.ndim - 2} spatial dimensions that its "
                f"weight was made for, got shape {x.shape}"
            )
        inputs = _continue(x, periods)
        y = run(forward_pass, algorithm, inputs, weight, geometry)
        y = y + params["bias"] if use_bias else y
        return y, state, (inputs, Static((periods, geometry)))

    def predict(params: dict, state: Any, x: Array):
        return forward(params, state, x, None)[0]

    def backward(params: dict, residuals: Any, dy: Array):
        inputs, facts = residuals
        periods, geometry = facts.value
        dx = run(backward_pass, algorithm, dy, params["weight"], geometry)
        return _continue_backward(dx, periods), capture(inputs, dy, geometry, use_bias, algorithm)

    return Layer(
        init, predict, forward, backward, name, arguments=Arguments({"algorithm": algorithm})
    )


def _periods_that_reach(lows: Pairs, strides: tuple, reach: tuple) -> tuple[Pairs, Pairs]:
    """For a periodic transposed convolution, by how much x goes on and what is cut off around y.

    x goes on before and after as far as its elements' windows reach y, and y, longer by those, is
    cut to its size.
    """
    periods, cuts = [], []
    for (low, _), stride, r in zip(lows, strides, reach, strict=True):
        before, after = -(-(r - 1 - low) // stride), (stride - 1 + low) // stride
        periods.append((before, after))
        cuts.append((low + before * stride, (after - 1) * stride + r - low))
    return tuple(periods), tuple(cuts)


def _continue(x: Array, periods: Pairs) -> Array:
    """x continued periodically."""
    if not any(map(any, periods)):
        return x
    return jnp.pad(x, ((0, 0), *periods, (0, 0)), mode="wrap")


def _continue_backward(dx: Array, periods: Pairs) -> Array:
    """The gradients of all copies of an element added up: dx cut into whole periods, and summed."""
    for axis, (low, high) in enumerate(periods, start=1):
        if low == high == 0:
            continue
        size = dx.shape[axis] - low - high
        around = [(0, 0)] * dx.ndim
        around[axis] = (-low % size, -high % size)
        whole = jnp.pad(dx, around)
        count = whole.shape[axis] // size
        dx = jnp.sum(whole.reshape(*dx.shape[:axis], count, size, *dx.shape[axis + 1 :]), axis)
    return dx


def require_algorithm(where: str, algorithm: str | None) -> None:
    """Raise ValueError unless ``algorithm`` is None or the name of one."""
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise ValueError(f"{where}: {unknown_name('algorithm', algorithm, ALGORITHMS)}")


def require_applicable(where: str, algorithm: str | None, geometry: Geometry, inputs: int) -> None:
    """Raise ValueError where an algorithm was asked for that cannot compute this convolution."""
    if algorithm == "winograd" and not winograd.applies(geometry):
        raise ValueError(
            f"{where}: expected algorithm 'winograd' to be given a 3×3 kernel with stride 1 and "
            f"without dilation and groups, got {geometry}"
        )
    if algorithm == "elementwise" and not elementwise.applies(geometry, inputs):
        raise ValueError(
            f"{where}: expected algorithm 'elementwise' to be given one input channel for each "
            f"group, got {inputs} channels in {geometry.groups} groups"
        )
