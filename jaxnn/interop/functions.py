"""Hand-derived backward passes inside models that are written with other libraries.

`differentiable` turns a layer into an ordinary JAX function with a custom derivative, so that
`jax.grad` through a Flax, Equinox or plain JAX model takes the hand-derived pass. `max_pool` and
`conv_general_dilated` are such functions with the arguments that JAX users know: they replace
``flax.linen.max_pool`` and ``jax.lax.conv_general_dilated`` without another change.

A custom derivative is for reverse mode: `jax.jvp` and `jax.jacfwd` refuse these functions.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import CustomVJPPrimal
from jax.tree_util import keystr

from jaxnn.core.captures import contract_for
from jaxnn.core.contract import Layer, Loss
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

    def function(params: Any, x: Any, key: Array | None = None) -> Any:
        return output(layer, params, x, key)

    def function_with_state(params: Any, state: Any, x: Any, key: Array | None = None) -> Any:
        return output_and_state(layer, params, state, x, key)

    chosen = function_with_state if with_state else function
    chosen.__name__ = chosen.__qualname__ = layer.name
    arguments = "params, state, x" if with_state else "params, x"
    chosen.__doc__ = f"{layer.name}({arguments}, key=None), differentiated by its own layer."
    return chosen


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def output(layer: Layer, params: Any, x: Any, key: Array | None) -> Any:
    """y of a layer without state, differentiated by its backward pass: see `differentiable`."""
    return _forward(layer, params, x, key)[0]


def _forward(layer: Layer, params: Any, x: Any, key: Array | None):
    state = _no_state(layer, params, x)
    y, _, residuals = summing(layer).forward(params, state, x, key)
    return y, (params, residuals)


def _backward(layer: Layer, kept: Any, dy: Any):
    # JAX gives an output without gradient, an integer, a cotangent of type float0.
    dy = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dy)
    params, residuals = kept
    dx, captures = summing(layer).backward(params, residuals, dy)
    return contract_for(params, captures), dx, None


output.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def output_and_state(
    layer: Layer, params: Any, state: Any, x: Any, key: Array | None
) -> tuple[Any, Any]:
    """(y, state) of any layer, y differentiated by its backward pass: see `differentiable`."""
    return _forward_with_state(layer, params, state, x, key)[0]


def _forward_with_state(layer: Layer, params: Any, state: Any, x: Any, key: Array | None):
    expected = _made_for(layer, *_shapes_of(x))
    _require_fit(layer, "params", expected[0], params)
    _require_fit(layer, "state", expected[1], state)
    y, state, residuals = summing(layer).forward(params, state, x, key)
    return (y, state), (params, residuals)


def _backward_with_state(layer: Layer, kept: Any, cotangent: tuple):
    gradients, dx, dkey = _backward(layer, kept, cotangent[0])
    return gradients, None, dx, dkey


output_and_state.defvjp(_forward_with_state, _backward_with_state)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def values(loss: Loss, prediction: Any, target: Any) -> Array:
    """[batch], the loss of each example, differentiated by the prediction as the loss says.

    Raises:
        TypeError: a derivative by the target is asked for, which a loss does not have.
    """
    return loss.value(prediction, target)


def _values_forward(loss: Loss, prediction: Any, target: Any):
    def is_leaf(node: Any) -> bool:
        return isinstance(node, CustomVJPPrimal)

    if any(leaf.perturbed for leaf in jax.tree.leaves(target, is_leaf=is_leaf)):
        raise TypeError(
            f"{loss.name}: expected a target that does not depend on what is differentiated by, "
            "since the loss has no gradient by it; put jax.lax.stop_gradient around the target"
        )
    kept = jax.tree.map(lambda leaf: leaf.value, (prediction, target), is_leaf=is_leaf)
    return loss.value(*kept), kept


def _values_backward(loss: Loss, kept: tuple, factors: Array):
    prediction, target = kept
    return loss.weighted(prediction, target, factors)[1], None


values.defvjp(_values_forward, _values_backward, symbolic_zeros=True)


def over_batches(where: str, function: Callable, **arguments: tuple[Any, int]) -> Any:
    """``function`` of arrays with one batch axis each, of arrays with any number of them.

    Args:
        where: The name in errors.
        function: Of as many arguments; it returns a tree of arrays with the batch first.
        arguments: Each argument, an array or a tree of them, with the number of axes of an example
            of it. What stands before those is the batch, the same for all of them.

    Raises:
        ValueError: an array has another batch than the first.
    """
    (first, (leading, axes)), *_ = arguments.items()
    batch = leading.shape[: leading.ndim - axes]
    count = math.prod(batch)

    def flatten(name: str, axes: int, a: Array):
        if a.shape[: max(a.ndim - axes, 0)] != batch:
            raise ValueError(
                f"{where}: expected {name} to have the batch of {first}, {batch}, before its last "
                f"{axes} axes, got shape {a.shape}"
            )
        return a if len(batch) == 1 else a.reshape(count, *a.shape[len(batch) :])

    flat = (
        jax.tree.map(partial(flatten, name, axes), tree) for name, (tree, axes) in arguments.items()
    )
    if len(batch) == 1:
        return function(*flat)
    return jax.tree.map(lambda y: y.reshape(*batch, *y.shape[1:]), function(*flat))


def _no_state(layer: Layer, params: Any, x: Any) -> Any:
    """The empty state of a network without state, its parameters compared with ``params``."""
    expected, state = _made_without_state(layer, *_shapes_of(x))
    _require_fit(layer, "params", expected, params)
    return state


def _require_fit(layer: Layer, name: str, expected: Any, tree: Any) -> None:
    """Raise ValueError unless params or state are what the layer makes for x."""
    (wanted, structure), (given, other) = (
        jax.tree.flatten_with_path(tree) for tree in (expected, tree)
    )
    if structure != other:
        raise ValueError(
            f"{layer.name}: expected {name} to be {_shapes(expected)}, as fit x, "
            f"got {_shapes(tree)}"
        )
    for (path, one), (_, own) in zip(wanted, given, strict=True):
        if (one.shape, one.dtype) != (own.shape, own.dtype):
            raise ValueError(
                f"{layer.name}: expected {keystr(path, simple=True, separator='.')} to be "
                f"{_shapes(one)}, as fits x, got {_shapes(own)}"
            )


def _shapes_of(x: Any) -> tuple[Any, tuple, Any]:
    """What tells calls apart: the shapes of x, and JAX's default dtype, which a layer may take for
    its parameters."""
    leaves, treedef = jax.tree.flatten(x)
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves)
    return treedef, shapes, jax.dtypes.canonicalize_dtype(float)


@functools.lru_cache(maxsize=128)
def _made_for(layer: Layer, treedef: Any, shapes: tuple, default: Any) -> tuple[Any, Any]:
    """The shapes of params and state that a layer makes, found out once for equal calls."""
    return jax.eval_shape(layer.init, jax.random.key(0), treedef.unflatten(shapes))


@functools.lru_cache(maxsize=128)
def _made_without_state(layer: Layer, treedef: Any, shapes: tuple, default: Any) -> tuple[Any, Any]:
    """The same; raises where the layer has state."""
    expected, state = _made_for(layer, treedef, shapes, default)
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
    return expected, state


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)


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
    return over_batches(
        layer.name, partial(output, layer, (), key=None), inputs=(inputs, len(window) + 1)
    )


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
