"""What slides windows over images, or changes their size: [*batch, *spatial, channels].

The number of spatial dimensions is that of a kernel, or of an argument with one entry for each of
them; then there may be any number of batch axes. Where all arguments are single numbers, x has one
batch axis, and the number of spatial dimensions is that of x.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_positive_integer
from jaxnn.functional.arrays import floats, given, run
from jaxnn.functional.making import function_of
from jaxnn.interop.functions import over_batches
from jaxnn.layers import augmentation, convolution, padding, pooling, reshaping, resizing
from jaxnn.layers import scattering as waves


def _on_images(make: Callable, x: Any):
    """``x`` may have any number of batch axes, none among them, where an argument has an entry for
    each spatial dimension, such as (2, 2); otherwise the first axis is the batch.

    Args:
        x: [*batch, *spatial, channels].
    """
    return _run_on_images(make(), x, None)


def _at_random(make: Callable, x: Any, key: Any):
    """``x`` may have any number of batch axes, none among them, where an argument has an entry for
    each spatial dimension, such as (2, 2); otherwise the first axis is the batch.

    Args:
        x: [*batch, *spatial, channels].
        key: The random key.
    """
    return _run_on_images(make(), x, key)


def _run_on_images(layer: Layer, x: Any, key: Array | None):
    fields = (getattr(layer, f.name) for f in dataclasses.fields(layer))  # pyright: ignore
    dimensions = next((len(value) for value in fields if isinstance(value, tuple)), None)
    if dimensions is None:
        return run(layer, (), floats(layer.name, "x", x, "[batch, *spatial, channels]"), key)
    x = _images(layer.name, x, dimensions)
    apply = partial(run, layer, (), key=key)
    return over_batches(layer.name, apply, x=(x, dimensions + 1))


def _images(where: str, x: Any, dimensions: int) -> Array:
    form = f"[*batch, *spatial, channels] with {dimensions} spatial dimensions"
    return floats(where, "x", x, form, dimensions + 1)


def _conv(make: Callable, x: Any, weight: Any, bias: Any = None):
    """``x`` may have any number of batch axes, none among them.

    Args:
        x: [*batch, *size, in], with as many spatial dimensions as the kernel has.
        weight: [*kernel_size, in / groups, features].
        bias: [features], or None.
    """
    arrays = _operands("conv", x, weight, bias)
    return _convolve(make(**_sizes(*arrays)), *arrays)


def _conv_relu_max_pool(make: Callable, x: Any, weight: Any, bias: Any = None):
    """The arguments are those of `conv`; ``x`` may have any number of batch axes, none among them.

    Args:
        x: [*batch, height, width, in].
        weight: [*kernel_size, in / groups, features].
        bias: [features], or None.
    """
    arrays = _operands("conv_relu_max_pool", x, weight, bias)
    return _convolve(convolution.conv_relu_max_pool(make(**_sizes(*arrays))), *arrays)


def _conv_transpose(make: Callable, x: Any, weight: Any, bias: Any = None, *, groups: int = 1):
    """``x`` may have any number of batch axes, none among them.

    Args:
        x: [*batch, *size, in], with as many spatial dimensions as the kernel has.
        weight: [*kernel_size, features / groups, in].
        bias: [features], or None.
    """
    arrays = _operands("conv_transpose", x, weight, bias)
    require_positive_integer("conv_transpose", "groups", groups)
    sizes = _sizes(*arrays) | {"features": arrays[1].shape[-2] * groups, "groups": groups}
    return _convolve(make(**sizes), *arrays)


def _operands(where: str, x: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    weight = floats(where, "weight", weight, "[*kernel_size, in, out], a kernel of 1 to 3 sizes", 3)
    if bias is not None:
        bias = floats(where, "bias", bias, "[features]")
    return _images(where, x, weight.ndim - 2), weight, bias


def _sizes(x: Array, weight: Array, bias: Array | None) -> dict[str, Any]:
    """The fields of a convolution that its parameters say."""
    return {
        "features": weight.shape[-1],
        "kernel_size": weight.shape[:-2],
        "use_bias": bias is not None,
    }


def _convolve(layer: Layer, x: Array, weight: Array, bias: Array | None):
    apply = partial(run, layer, given(weight=weight, bias=bias))
    return over_batches(layer.name, apply, x=(x, weight.ndim - 1))


max_pool = function_of(pooling.max_pool, _on_images)
avg_pool = function_of(pooling.avg_pool, _on_images)
adaptive_max_pool = function_of(pooling.adaptive_max_pool, _on_images)
adaptive_avg_pool = function_of(pooling.adaptive_avg_pool, _on_images)
global_max_pool = function_of(pooling.global_max_pool, _on_images)
global_avg_pool = function_of(pooling.global_avg_pool, _on_images)
pad = function_of(padding.pad, _on_images)
resize = function_of(resizing.resize, _on_images)
upsample = function_of(resizing.upsample, _on_images)
scattering = function_of(waves.scattering, _on_images)
pixel_shuffle = function_of(reshaping.pixel_shuffle, _on_images)
pixel_unshuffle = function_of(reshaping.pixel_unshuffle, _on_images)
random_flip = function_of(augmentation.random_flip, _at_random)
random_crop = function_of(augmentation.random_crop, _at_random)
random_shift = function_of(augmentation.random_shift, _at_random)

_OF_CONV = ("features", "kernel_size", "use_bias", "weight_init", "bias_init")

conv = function_of(convolution.conv, _conv, *_OF_CONV)
conv_relu_max_pool = function_of(
    convolution.conv,
    _conv_relu_max_pool,
    *_OF_CONV,
    name="conv_relu_max_pool",
    text=convolution.conv_relu_max_pool,
)
conv_transpose = function_of(convolution.conv_transpose, _conv_transpose, *_OF_CONV, "groups")
