"""Mixed precision: parameters in float32, arithmetic in half precision, sums in float32.

`with_precision` rewrites a network so that every layer in it is given half-precision copies of its
parameters and inputs, and hands half-precision activations on. Three things stay in at least
float32: layers that are ``wide`` (normalisation, softmax), the prediction, so that losses are
computed from it in float32, and the captures, so that every sum over a batch runs and ends in
float32 (the values that enter it are those of half precision).

float16 has five bits of exponent: deltas below 6e-8 vanish. There the backward pass is given S · dy
and, being linear, gives back S times everything, of which the captures and dx, wide again, are
divided by S (loss scaling; Micikevicius et al., 2018). S is a power of two, which rounds nothing,
and lies in the state of the network: `adjust_scale` halves it when a gradient has overflowed, and
doubles it after many that have not; `skip_overflow` makes an optimiser pass over what has.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Around
from jaxnn.core.captures import map_captures
from jaxnn.core.combinators import Wrapper
from jaxnn.core.contract import Layer
from jaxnn.core.networks import below, label, rewrite
from jaxnn.core.residuals import Static
from jaxnn.core.validation import unknown_name
from jaxnn.kernels.products import sum_dtype

FIRST_SCALE, SMALLEST_SCALE, LARGEST_SCALE = 2.0**10, 2.0**-24, 2.0**24
"""The first is small: for statistics, deltas of single examples are not divided by the batch."""
DOUBLE_AFTER = 2000
"""Steps without overflow after which the scale is doubled."""
MOST_SKIPPED = 50
"""In a row; by then the scale is at its smallest, and the cause is another."""


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


class with_precision(Wrapper):
    """The same network under a policy; params have the same tree, in ``policy.parameters``.

    x keeps its dtype; its gradient has it too. With ``policy.scales`` the network's state is a
    `ScaledState`.

    Raises:
        ValueError: a dtype is unknown or not floating-point; at ``init``, a layer cannot compute in
            ``policy.compute``, which the message names.
    """

    layer: Layer
    policy: Policy

    mixes = False

    def validate(self) -> None:
        for field, name in self.policy._asdict().items():
            if name not in _DTYPES:
                raise ValueError(f"precision: {unknown_name(f'dtype of {field}', name, _DTYPES)}")

    @functools.cached_property
    def _mixed(self) -> Layer:
        """The network with casts around every layer without parts."""
        return _in_policy(self.layer, self.policy)

    def inner_state(self, tree: Any) -> Any:
        return tree.inner if isinstance(tree, ScaledState) else tree

    def init(self, key: Array | None, x: Any):
        params, state = self._mixed.init(key, _cast(x, self.policy.compute))
        if self.policy.scales:
            state = ScaledState(state, jnp.float32(FIRST_SCALE), jnp.int32(0))
        return params, state

    def predict(self, params: Any, state: Any, x: Any):
        x = _cast(x, self.policy.compute)
        return _cast(self._mixed.predict(params, self.inner_state(state), x), self.policy.output)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        leaves, treedef = jax.tree.flatten(x)
        dtypes = Static((treedef, tuple(leaf.dtype for leaf in leaves)))
        x = _cast(x, self.policy.compute)
        y, inner, residuals = self._mixed.forward(params, self.inner_state(state), x, key)
        scale = state.scale if self.policy.scales else None
        state = _with_inner(state, inner)
        return _cast(y, self.policy.output), state, (residuals, scale, dtypes)

    def backward(self, params: Any, residuals: Any, dy: Any):
        inner, scale, dtypes = residuals
        if scale is not None:
            dy = _times(dy, scale)
        dx, captures = self._mixed.backward(params, inner, _cast(dy, self.policy.compute))
        treedef, of_leaves = dtypes.value
        dx = _cast_each(dx, treedef.unflatten(of_leaves))
        if scale is not None:
            dx = _times(dx, 1 / scale)
            captures = map_captures(lambda capture: capture.scaled(1 / scale), captures)
        return dx, captures


def at_full_precision(network: Layer) -> Layer:
    """The network without its policies: its arithmetic has the dtypes of params and x. Both, and
    the state, are those of the network itself, whose scale stays as it is."""

    def widened(path: str, layer: Layer) -> Layer:
        return _Unscaled(layer.layer) if isinstance(layer, with_precision) else layer

    return rewrite(network, widened)


class _Unscaled(Wrapper):
    """What was under a policy, with the state that it had there."""

    layer: Layer

    mixes = False

    def inner_state(self, tree: Any) -> Any:
        return tree.inner if isinstance(tree, ScaledState) else tree

    def init(self, key: Array | None, x: Any):
        return self.layer.init(key, x)

    def predict(self, params: Any, state: Any, x: Any):
        return self.layer.predict(params, self.inner_state(state), x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, inner, residuals = self.layer.forward(params, self.inner_state(state), x, key)
        return y, _with_inner(state, inner), residuals

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self.layer.backward(params, residuals, dy)


def _with_inner(state: Any, inner: Any) -> Any:
    return state._replace(inner=inner) if isinstance(state, ScaledState) else inner


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


def skip_overflow(optimizer: Any) -> Any:
    """The optax optimiser, which does nothing in a step whose gradient is not finite."""
    import optax  # here: most who import this file do without

    return optax.apply_if_finite(optimizer, MOST_SKIPPED)


def skipped_steps(optimizer_state: Any) -> int:
    """How many steps an optimiser of `skip_overflow` has passed over."""
    return int(optimizer_state.total_notfinite)


_DTYPES = ("bfloat16", "float16", "float32", "float64")


def _in_policy(layer: Layer, policy: Policy, path: str = "") -> Layer:
    """The network with casts around all that computes by itself: what has no parts, or is wide."""
    if isinstance(layer, Around) and layer.keeps:
        return dataclasses.replace(layer, layer=_in_policy(layer.layer, policy, path))
    if layer.wide or not layer.parts:
        return _Cast(layer, policy, path)
    parts = zip(layer.part_names, layer.parts, strict=True)
    return layer.with_parts(
        tuple(_in_policy(part, policy, below(path, name)) for name, part in parts)
    )


class _Cast(Around):
    """A layer without parts, whose floating-point arrays are cast on the way in and out."""

    policy: Policy
    path: str

    @property
    def compute(self) -> str:
        """The dtype of its arithmetic."""
        return str(sum_dtype(self.policy.compute)) if self.layer.wide else self.policy.compute

    def init(self, key: Array | None, x: Any):
        params, state = self.layer.init(key, _cast(x, self.policy.parameters))
        _require_served(self.layer, self.path, self.compute, params, state, x, key)
        return _cast((params, state), self.policy.parameters)

    def predict(self, params: Any, state: Any, x: Any):
        params, state, x = _cast((params, state, x), self.compute)
        y = self.layer.predict(params, state, x)
        return _cast(y, self.policy.compute)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        params, state, x = _cast((params, state, x), self.compute)
        y, state, residuals = self.layer.forward(params, state, x, key)
        return _cast(y, self.policy.compute), _cast(state, self.policy.parameters), residuals

    def backward(self, params: Any, residuals: Any, dy: Any):
        params, dy = _cast((params, dy), self.compute)
        dx, captures = self.layer.backward(params, residuals, dy)
        sums = str(sum_dtype(self.policy.parameters))
        return _cast(dx, self.policy.compute), _cast(captures, sums)


def _require_served(
    layer: Layer, path: str, compute: str, params: Any, state: Any, x: Any, key: Any
) -> None:
    def run(params, state, x, key):
        params, state, x = _cast((params, state, x), compute)
        y, _, residuals = layer.forward(params, state, x, key)
        dy = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, y)
        return layer.backward(params, residuals, dy)[0]

    try:
        jax.eval_shape(run, params, state, x, jax.random.key(0) if key is None else key)
    except Exception as error:  # whatever a layer raises that cannot
        raise ValueError(
            f"precision: expected layers that compute in {compute}, but {label(path, layer)} does "
            f"not: {error}"
        ) from error


def _next_scale(state: ScaledState, gradients: Any) -> ScaledState:
    finite = jnp.all(jnp.array([jnp.isfinite(g).all() for g in jax.tree.leaves(gradients)]))
    steps = jnp.where(finite, state.finite_steps + 1, 0)
    grows = steps >= DOUBLE_AFTER
    scale = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5) * state.scale
    return ScaledState(
        state.inner, jnp.clip(scale, SMALLEST_SCALE, LARGEST_SCALE), jnp.where(grows, 0, steps)
    )


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


def _cast_each(dx: Any, dtypes: Any) -> Any:
    """dx in the dtypes of x; where None is no gradient, of an array or of a whole member."""
    return jax.tree.map(
        lambda a, dtype: a if a is None else a.astype(dtype),
        dx,
        dtypes,
        is_leaf=lambda node: node is None,
    )
