"""Hand-derived backward passes inside models that are written with other libraries.

`differentiable` turns a layer into an ordinary JAX function with a custom derivative, so that
`jax.grad` through a Flax, Equinox or plain JAX model takes the hand-derived pass. `max_pool` and
`conv_general_dilated` are such functions with the arguments that JAX users know: they replace
``flax.linen.max_pool`` and ``jax.lax.conv_general_dilated`` without another change.

A custom derivative is for reverse mode: `jax.jvp` and `jax.jacfwd` refuse these functions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.core.captures import contract_for
from jaxnn.core.contract import Layer
from jaxnn.core.networks import label, summing, walk
from jaxnn.core.validation import brief
from jaxnn.layers import pooling
from jaxnn.layers.convolution import conv
from jaxnn.layers.windows import Padding


def differentiable(layer: Layer, *, with_state: bool = False) -> Callable:
    """f(params, x, key=None) -> y whose derivative is the layer's own backward pass.

    f runs the layer's forward pass, that of training; ``key`` is for layers that draw random
    numbers. `jax.vjp` and `jax.grad` of f call `Layer.backward` and contract its captures. What has
    no gradient (integers, masks, the key) receives none. f can be transformed by `jax.jit`,
    `jax.vmap` and `jax.lax.scan`; vmapped, it treats each mapped batch by itself.

    Args:
        layer: Any layer or network. Its parameters are made by ``layer.init``.
        with_state: Whether f is f(params, state, x, key=None) -> (y, state), for a layer that has
            state (running statistics), which it returns as training changes it. No gradient goes
            through state: what is asked of the one that is returned is left out. For inference,
            take f of ``in_inference_mode(layer)``.

    Raises:
        TypeError: ``layer`` is not a layer.
        ValueError: on calling f, a layer of the network has state, and ``with_state`` is not set;
            or ``params`` or ``state`` have other shapes or dtypes than those that the layer makes
            for x.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"differentiable: expected layer to be a Layer, got {brief(layer)}")
    summed = summing(layer)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, residuals = summed.forward(params, state, x, key)
        return (y, new_state), (params, residuals)

    def backward(kept: Any, cotangent: Any):
        # JAX gives an output without gradient, an integer, a cotangent of type float0.
        dy = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, cotangent[0])
        params, residuals = kept
        dx, captures = summed.backward(params, residuals, dy)
        return contract_for(params, captures), None, dx, None

    @jax.custom_vjp
    def apply(params: Any, state: Any, x: Any, key: Array | None):
        return forward(params, state, x, key)[0]

    apply.defvjp(forward, backward)

    def function(params: Any, x: Any, key: Array | None = None) -> Any:
        return apply(params, _no_state(layer, params, x), x, key)[0]

    def function_with_state(params: Any, state: Any, x: Any, key: Array | None = None) -> Any:
        expected = _made(layer, x)
        for name, given, wanted in zip(("params", "state"), (params, state), expected, strict=True):
            _require_same(layer, name, given, wanted)
        return apply(params, state, x, key)

    chosen = function_with_state if with_state else function
    chosen.__name__ = chosen.__qualname__ = layer.name
    arguments = "params, state, x" if with_state else "params, x"
    chosen.__doc__ = f"{layer.name}({arguments}, key=None), differentiated by its own layer."
    return chosen


def _made(layer: Layer, x: Any) -> tuple[Any, Any]:
    """The shapes of params and state that the layer makes for x."""
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    return jax.eval_shape(layer.init, jax.random.key(0), x)


def _no_state(layer: Layer, params: Any, x: Any) -> Any:
    """The empty state of a network without state, its parameters compared with ``params``."""
    expected, state = _made(layer, x)
    way_out = "which a function without it cannot update: say with_state=True"
    for path, part, of_part in walk(layer, state):
        if jax.tree.leaves(of_part):
            raise ValueError(
                f"differentiable: expected layers without state, but {label(path, part)} has "
                f"{jax.tree.map(lambda a: a.shape, of_part)}, {way_out}"
            )
    if jax.tree.leaves(state):
        raise ValueError(
            f"differentiable: expected layers without state, but {layer.name} has some of its own, "
            f"{way_out}"
        )
    _require_same(layer, "params", params, expected)
    return state


def _require_same(layer: Layer, name: str, given: Any, wanted: Any) -> None:
    described = [
        jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree) for tree in (wanted, given)
    ]
    if described[0] != described[1]:
        raise ValueError(
            f"differentiable: expected {name} of {layer.name} to be {described[0]}, "
            f"got {described[1]}"
        )


def max_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """``flax.linen.max_pool`` with the backward pass of `jaxnn.max_pool`.

    Args:
        inputs: [*batch, *spatial, channels] with any number of batch axes, none among them.
        window_shape: The size of the window in each spatial dimension.
        strides: From window to window in each dimension; 1 unless given, as in Flax.
        padding: "SAME", "VALID" or (low, high) for each dimension.
    """
    window = tuple(window_shape)
    steps = 1 if strides is None else tuple(strides)
    layer = pooling.max_pool(window, strides=steps, padding=padding)
    if inputs.ndim < len(window) + 1:
        raise ValueError(
            f"max_pool: expected inputs to be [*batch, *spatial, channels] with {len(window)} "
            f"spatial dimensions, got shape {inputs.shape}"
        )
    batch = inputs.shape[: inputs.ndim - len(window) - 1]
    x = inputs.reshape(math.prod(batch), *inputs.shape[len(batch) :])
    y = differentiable(layer)((), x)
    return y.reshape(*batch, *y.shape[1:])


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = ("NHWC", "HWIO", "NHWC"),
    feature_group_count: int = 1,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """``jax.lax.conv_general_dilated`` with the passes of `jaxnn.conv`, in 1 to 3 dimensions.

    In Flax: ``nn.Conv(…, conv_general_dilated=jaxnn.interop.functions.conv_general_dilated)``.

    Args:
        lhs: The images.
        rhs: The kernel.
        window_strides: The distance between windows in each spatial dimension.
        padding: "SAME", "VALID" or (low, high) for each dimension.
        lhs_dilation: The images are spread with zeros between their elements; 1 (none) for each
            dimension unless given.
        rhs_dilation: The distance between the elements of the kernel, 1 unless given.
        dimension_numbers: The order of the axes, as `jax.lax` takes it. Another order than
            channels last ([batch, *spatial, channels] and [*kernel, in, out]) is transposed.
        feature_group_count: The number of groups.
        precision: Only None: the passes have the precision of their algorithms.
        preferred_element_type: Only None: the result has the dtype of lhs.
        out_sharding: Only None: the compiler places the result.

    Raises:
        TypeError: lhs or rhs is not floating-point.
        ValueError: as `jaxnn.conv`, and for an option that only `jax.lax` has.
    """
    options = {
        "precision": precision,
        "preferred_element_type": preferred_element_type,
        "out_sharding": out_sharding,
    }
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"conv_general_dilated: expected {name} to be None, got {value!r}")
    order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    batch, channels, *spatial = order.lhs_spec
    outputs, inputs, *kernel = order.rhs_spec
    x, weight = lhs.transpose(batch, *spatial, channels), rhs.transpose(*kernel, inputs, outputs)
    if lhs_dilation is not None and set(lhs_dilation) != {1}:
        if isinstance(padding, str):
            raise ValueError(
                "conv_general_dilated: expected padding to be (low, high) pairs where lhs_dilation "
                f"is given, since {padding!r} has no agreed meaning there"
            )
        gaps = [(0, 0, 0), *((0, 0, step - 1) for step in lhs_dilation), (0, 0, 0)]
        x = lax.pad(x, jnp.zeros((), x.dtype), gaps)
    layer = conv(
        weight.shape[-1],
        weight.shape[:-2],
        strides=tuple(window_strides),
        padding=padding if isinstance(padding, str) else tuple(padding),
        dilation=1 if rhs_dilation is None else tuple(rhs_dilation),
        groups=feature_group_count,
        use_bias=False,
    )
    y = differentiable(layer)({"weight": weight}, x)
    batch, channels, *spatial = order.out_spec
    return jnp.moveaxis(y, range(y.ndim), (batch, *spatial, channels))
