"""Mixed precision: parameters in float32, arithmetic in half precision, sums in float32.

`with_precision` rewrites a network so that every layer in it is given half-precision copies of its
parameters and inputs, and hands half-precision activations on. Three things stay in at least
float32: normalisation and softmax (`WIDE_LAYERS`), the prediction, so that losses are computed from
it in float32, and the captures, so that every sum over a batch runs and ends in float32 (the values
that enter it are those of half precision).

float16 has five bits of exponent: deltas below 6e-8 vanish. There the backward pass is given S · dy
and, being linear, gives back S times everything, of which the captures and dx, wide again, are
divided by S (loss scaling; Micikevicius et al., 2018). S is a power of two, which rounds nothing,
and lies in the state of the network: `adjust_scale` halves it when a gradient has overflowed, and
doubles it after many that have not; `skip_overflow` makes an optimiser pass over what has.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.core.layer import Layer, Static, label, rewrite
from jaxnn.core.validation import unknown_name
from jaxnn.kernels.products import sum_dtype

WIDE_LAYERS = (
    "batch_norm",
    "group_norm",
    "layer_norm",
    "log_softmax",
    "rms_norm",
    "softmax",
)
"""The names of the layers that compute in at least float32 whatever the policy."""

FIRST_SCALE, LARGEST_SCALE = 2.0**10, 2.0**24
"""The first is small: for statistics, deltas of single examples are not divided by the batch."""
DOUBLE_AFTER = 2000
"""Steps without overflow after which the scale is doubled."""
MOST_SKIPPED = 50
"""In a row; by then the scale is at 1, and what is not finite is so for other reasons."""


class Policy(NamedTuple):
    """The dtypes of a network: the names of floating-point dtypes."""

    parameters: str = "float32"
    """Of what the optimiser changes."""
    compute: str = "bfloat16"
    """Of arithmetic and activations."""
    output: str = "float32"
    """Of the prediction, and so of the loss."""

    @property
    def scales(self) -> bool:
        """Whether the range of the deltas has to be looked after: of float16 alone."""
        return self.compute == "float16"


POLICIES = {
    "bfloat16": Policy(compute="bfloat16"),
    "float16": Policy(compute="float16"),
}
"""Policies by the dtype of their arithmetic."""


class ScaledState(NamedTuple):
    """The state of a network whose deltas are scaled."""

    inner: Any
    """That of the network itself."""
    scale: Array
    """What dy is multiplied by, float32."""
    finite_steps: Array
    """Steps since the scale was last changed, int32."""


def with_precision(network: Layer, policy: Policy) -> Layer:
    """The same network under a policy; params have the same tree, in ``policy.parameters``.

    x keeps its dtype; its gradient has it too. With ``policy.scales`` the network's state is a
    `ScaledState`. `jaxnn.fuse` comes before: of layers under a policy it leaves the hands.

    Raises:
        ValueError: a dtype is unknown or not floating-point; at ``init``, a layer cannot compute in
            ``policy.compute``, which the message names.
    """
    for field, name in policy._asdict().items():
        if name not in _DTYPES:
            raise ValueError(f"precision: {unknown_name(f'dtype of {field}', name, _DTYPES)}")
    return _around(rewrite(network, lambda path, layer: _under(policy, path, layer)), policy)


def adjust_scale(gradient: Callable) -> Callable:
    """``gradient``, which then sets the scale of the next step: half after an overflow.

    A gradient function as `jaxnn.backprop`'s; where the state is no `ScaledState`, it is as it was.
    """

    def adjusted(params, state, *arguments):
        (value, new_state), gradients = gradient(params, state, *arguments)
        if isinstance(new_state, ScaledState):
            new_state = _next_scale(new_state, gradients)
        return (value, new_state), gradients

    return adjusted


def skip_overflow(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, which does nothing in a step whose gradient is not finite."""
    return optax.apply_if_finite(optimizer, MOST_SKIPPED)


def skipped_steps(optimizer_state: Any) -> int:
    """How many steps an optimiser of `skip_overflow` has passed over."""
    return int(optimizer_state.total_notfinite)


_DTYPES = ("bfloat16", "float16", "float32", "float64")


def _under(policy: Policy, path: str, layer: Layer) -> Layer:
    """A layer without parts, whose floating-point arrays are cast on the way in and out."""
    wide = layer.name in WIDE_LAYERS
    compute = str(sum_dtype(policy.compute)) if wide else policy.compute

    def init(key: Array | None, x: Any):
        params, state = layer.init(key, _cast(x, policy.parameters))
        _require_served(layer, path, compute, params, state, x, key)
        return _cast((params, state), policy.parameters)

    def predict(params: Any, state: Any, x: Any):
        y = layer.predict(*_cast((params, state, x), compute))
        return _cast(y, policy.compute)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, residuals = layer.forward(*_cast((params, state, x), compute), key)
        return _cast(y, policy.compute), _cast(new_state, policy.parameters), residuals

    def backward(params: Any, residuals: Any, dy: Any):
        dx, captures = layer.backward(_cast(params, compute), residuals, _cast(dy, compute))
        sums = str(sum_dtype(policy.parameters))
        return _cast(dx, policy.compute), _cast(captures, sums)

    inference = layer.inference and _under(policy, path, layer.inference)
    return layer._replace(
        init=init,
        predict=predict,
        forward=forward,
        backward=backward,
        name=f"{layer.name} in {compute}",
        inference=inference,
    )


def _require_served(
    layer: Layer, path: str, compute: str, params: Any, state: Any, x: Any, key: Any
) -> None:
    def run(params, state, x, key):
        y, _, residuals = layer.forward(*_cast((params, state, x), compute), key)
        dy = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, y)
        return layer.backward(_cast(params, compute), residuals, dy)[0]

    try:
        jax.eval_shape(run, params, state, x, jax.random.key(0) if key is None else key)
    except Exception as error:  # whatever a layer raises that cannot
        raise ValueError(
            f"precision: expected layers that compute in {compute}, but {label(path, layer)} does "
            f"not: {error}"
        ) from error


def _around(network: Layer, policy: Policy) -> Layer:
    """The network with casts at both ends, and scaled deltas where the policy has them."""

    def init(key: Array | None, x: Any):
        params, state = network.init(key, _cast(x, policy.compute))
        if policy.scales:
            state = ScaledState(state, jnp.float32(FIRST_SCALE), jnp.int32(0))
        return params, state

    def predict(params: Any, state: Any, x: Any):
        inner = state.inner if policy.scales else state
        return _cast(network.predict(params, inner, _cast(x, policy.compute)), policy.output)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        inner = state.inner if policy.scales else state
        scale = state.scale if policy.scales else None
        dtypes = Static(tuple(leaf.dtype for leaf in jax.tree.leaves(x)))
        y, inner, residuals = network.forward(params, inner, _cast(x, policy.compute), key)
        new_state = state._replace(inner=inner) if policy.scales else inner
        return _cast(y, policy.output), new_state, (residuals, scale, dtypes)

    def backward(params: Any, residuals: Any, dy: Any):
        inner, scale, dtypes = residuals
        if scale is not None:
            dy = _times(dy, scale)
        dx, captures = network.backward(params, inner, _cast(dy, policy.compute))
        dx = _cast_each(dx, dtypes.value)
        if scale is not None:
            dx, captures = _times(dx, 1 / scale), _divide_deltas(captures, scale)
        return dx, captures

    def rebuild(*parts: Layer):
        assert network.rebuild is not None
        return _around(network.rebuild(*parts)._replace(name=network.name), policy)

    inference = network.inference and _around(network.inference, policy)
    return network._replace(
        init=init,
        predict=predict,
        forward=forward,
        backward=backward,
        rebuild=network.rebuild and rebuild,
        inference=inference,
    )


def _next_scale(state: ScaledState, gradients: Any) -> ScaledState:
    finite = jnp.all(jnp.array([jnp.isfinite(g).all() for g in jax.tree.leaves(gradients)]))
    steps = jnp.where(finite, state.finite_steps + 1, 0)
    grows = steps >= DOUBLE_AFTER
    scale = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5) * state.scale
    return ScaledState(state.inner, jnp.clip(scale, 1.0, LARGEST_SCALE), jnp.where(grows, 0, steps))


def _divide_deltas(captures: Any, scale: Array) -> Any:
    """What is linear in dy, divided: the deltas, and gradients that are contracted already."""

    def divide(path: tuple, leaf: Array):
        linear = any(getattr(entry, "name", None) in ("deltas", "gradients") for entry in path)
        return leaf * (1 / scale).astype(leaf.dtype) if linear else leaf

    return jax.tree_util.tree_map_with_path(divide, captures)


def _times(tree: Any, factor: Array) -> Any:
    return jax.tree.map(lambda a: a * factor.astype(a.dtype), tree)


def _cast(tree: Any, dtype: str) -> Any:
    """The tree with its floating-point arrays, or shapes, in another dtype."""

    def cast(a: Any):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        if isinstance(a, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(a.shape, dtype)
        return jnp.asarray(a, dtype)

    return jax.tree.map(cast, tree)


def _cast_each(dx: Any, dtypes: tuple) -> Any:
    """dx in the dtypes of x, leaf by leaf, where None is no gradient."""
    leaves, treedef = jax.tree.flatten(dx, is_leaf=lambda node: node is None)
    # A whole member of x without gradient may be one None: then nothing is left to tell apart.
    if len(leaves) != len(dtypes):
        return dx
    pairs = zip(leaves, dtypes, strict=True)
    return treedef.unflatten([a if a is None else a.astype(dtype) for a, dtype in pairs])
