"""What `conv` and `conv_transpose` share: arguments, parameters, padding and bias."""

import abc
from dataclasses import KW_ONLY
from typing import Annotated, Any

from jax import Array

from jaxnn.core.validation import (
    brief,
    require_features,
    require_positive_integer,
    unknown_name,
)
from jaxnn.kernels.convolution.choosing import ALGORITHMS, PASSES, algorithm_of, applies
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.layers.dense import Affine
from jaxnn.layers.windows import (
    CircularPadding,
    Pairs,
    Sizes,
    per_dimension,
    require_spatial,
    resolve_padding,
    spatial_dimensions,
)


def require_algorithm(where: str, name: str, value: Any) -> Any:
    """The value; raises unless it is None, the name of an algorithm, or one itself."""
    if value is None or all(callable(getattr(value, pass_name, None)) for pass_name in PASSES):
        return value
    if isinstance(value, str):
        if value not in ALGORITHMS:
            raise ValueError(f"{where}: {unknown_name(name, value, ALGORITHMS)}")
        return value
    raise TypeError(
        f"{where}: expected {name} to be a name or to have {', '.join(PASSES)}, got {brief(value)}"
    )


class Convolution(Affine):
    """Base of `conv` and `conv_transpose`, in 1 to 3 spatial dimensions.

    x is [batch, *size, in], y is [batch, *output_size, features].

    Args:
        features: The channels of y.
        kernel_size: Of the kernel in each spatial dimension. Here, in strides, dilation and
            padding an integer stands for the same number in every dimension; how many there are is
            known from those that are tuples, or else from x.
        strides: The distance between neighbouring windows.
        padding: "SAME", "VALID", "CIRCULAR", or (low, high) for each dimension, or one integer.
        dilation: The distance between neighbouring taps.
        groups: Into how many groups the channels of x and y are divided; each group of y sees its
            own group of x alone. As many groups as channels make a depthwise convolution.
        use_bias: Whether b is added.
        weight_init: The initialiser of ``weight``.
        bias_init: The initialiser of ``bias``.
        algorithm: "direct", "patches", "winograd", "elementwise" or "taps" for all three passes, or
            one of your own; unless given, the fastest is chosen for each (see
            `jaxnn.kernels.convolution.choosing`).

    Raises:
        TypeError: x is not floating-point or not of the parameters' dtype, or an argument is of
            another type.
        ValueError: a size, stride or dilation is below 1; groups do not divide the channels; x has
            another rank or number of channels than expected; the kernel is larger than the padded
            x; padding or algorithm is unknown; ``algorithm`` cannot compute this convolution.
    """

    kernel_size: Sizes
    _: KW_ONLY
    strides: Sizes = 1
    padding: CircularPadding = "SAME"
    dilation: Sizes = 1
    groups: Annotated[int, require_positive_integer] = 1
    algorithm: Annotated[Any, require_algorithm] = None

    def validate(self) -> None:
        self._require_divisible("features", self.features)
        self._dimensions()

    @abc.abstractmethod
    def plan(self, x: Any, weight: Any = None) -> tuple[Pairs, Geometry]:
        """By how many elements x is filled around, and the geometry after that.

        Args:
            x: An array, or its shape and dtype.
            weight: The parameter, which x must fit.
        """

    def init(self, key: Array | None, x: Any):
        _, geometry = self.plan(x)
        inputs = (*geometry.kernel_size, x.shape[-1] // self.groups)
        return self.make_params(key, inputs, x.dtype), ()

    def per_dimension(self, x: Any) -> tuple[tuple[int, ...], ...]:
        """The spatial sizes of x, and kernel size, strides and dilation in each dimension."""
        size = require_spatial(self.name, x, self._dimensions())
        self._require_divisible("the channels of x", x.shape[-1])
        given = (self.kernel_size, self.strides, self.dilation)
        return size, *(per_dimension(value, len(size)) for value in given)

    @property
    def filling(self) -> tuple[str, float]:
        """What stands around x: a mode and a value of `jaxnn.pad`."""
        return ("circular" if self.padding == "CIRCULAR" else "constant"), 0.0

    def around(self, size: tuple, kernel: tuple, strides: tuple, dilation: tuple):
        """How many zeros stand around x for the algorithms, and how many elements x is filled by
        before, where they are others than zeros."""
        pairs = resolve_padding(self.padding, size, kernel, strides, dilation)
        nothing = ((0, 0),) * len(size)
        return (pairs, nothing) if self.filling == ("constant", 0) else (nothing, pairs)

    def require_fit(self, x: Any, weight: Any, channels: int) -> None:
        """Raise unless x has what the weight was made for: ``channels``, dtype and dimensions."""
        require_features(self.name, x, channels, weight.dtype)
        if weight.ndim != x.ndim:
            raise ValueError(
                f"{self.name}: expected x to have the {weight.ndim - 2} spatial dimensions that "
                f"its weight was made for, got shape {x.shape}"
            )

    def require_applicable(self, geometry: Geometry, inputs: int) -> None:
        """Raise where an algorithm was asked for that cannot compute this convolution."""
        if self.algorithm is None:
            return
        algorithm = algorithm_of(self.algorithm)
        if not applies(algorithm, geometry, inputs):
            takes = getattr(algorithm, "TAKES", "a convolution that it applies to")
            raise ValueError(
                f"{self.name}: expected algorithm {self.algorithm!r} to be given {takes}, "
                f"got {inputs} channels in {geometry}"
            )

    def with_bias(self, y: Array, params: dict) -> Array:
        """y + b, where there is a bias."""
        return y + params["bias"] if self.use_bias else y

    def _dimensions(self, **more: Any) -> int | None:
        return spatial_dimensions(
            self.name,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            padding=self.padding,
            **more,
        )

    def _require_divisible(self, what: str, channels: int) -> None:
        if channels < 1 or channels % self.groups:
            raise ValueError(
                f"{self.name}: expected groups to divide {what}, got {self.groups} groups of "
                f"{channels}"
            )


def longer(size: tuple[int, ...], pairs: Pairs) -> tuple[int, ...]:
    """Sizes with what stands before and after."""
    return tuple(n + sum(pair) for n, pair in zip(size, pairs, strict=True))
