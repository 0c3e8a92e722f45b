"""What several test files share."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

import jaxnn as nn

PUBLIC = {name: getattr(nn, name) for name in dir(nn)}
HALVES_AND_FLOATS = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)


def normal(seed, shape, dtype=float):
    """Standard normal numbers in JAX's default dtype unless another is given."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_agree(value, reference, tolerance):
    """‖a − b‖ ≤ tolerance · ‖b‖ for every leaf, of the same shape and dtype as its reference.

    Written with NumPy in float64, independent of `jaxnn.core.checking`. A reference with a norm
    below a thousandth of the largest one is held against that thousandth: it is rounding.
    """
    assert jax.tree.structure(value) == jax.tree.structure(reference)
    references = tree_leaves_with_path(reference)
    norms = [np.linalg.norm(np.asarray(b, float).ravel()) for _, b in references]
    floor = 1e-3 * max(norms, default=0.0)
    for (path, b), a, norm in zip(references, jax.tree.leaves(value), norms, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), keystr(path)
        error = np.linalg.norm((np.asarray(a, float) - np.asarray(b, float)).ravel())
        assert error <= tolerance * max(norm, floor), (keystr(path), error, norm)


def differences(function, x, step=1e-5):
    """The gradient of a function of a float64 array to a number, by central differences."""
    x = np.asarray(x, np.float64)
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        high, low = x.copy(), x.copy()
        high[index] += step
        low[index] -= step
        slopes[index] = (float(function(jnp.asarray(high))) - float(function(jnp.asarray(low)))) / (
            2 * step
        )
    return slopes


def masked():
    """(x, mask) -> x · mask: a layer whose second input has no gradient."""

    def forward(x):
        return x[0] * x[1], x[1]

    return nn.parameter_free("masked", forward, lambda mask, dy: (dy * mask, None))


def changed(layer, name=None, **methods):
    """A layer with some of its methods exchanged, given as functions."""
    own = {m: getattr(layer, m) for m in ("init", "predict", "forward", "backward")} | methods
    return nn.layer(layer.name if name is None else name, **own)


class ChangedLoss(nn.Loss):
    """A loss with another gradient."""

    loss: nn.Loss
    function: Callable

    def value(self, prediction, target):
        return self.loss.value(prediction, target)

    def gradient(self, prediction, target):
        return self.function(prediction, target)


def initialized(layer, x, seed=0):
    """The params and state of a layer, by one program rather than one for every operation."""
    return jax.jit(layer.init)(jax.random.key(seed), x)


def started(layer, x, seed=0):
    """Params of a layer drawn with NumPy, none of them zero or one, and its initial state."""
    params, state = jax.eval_shape(layer.init, jax.random.key(seed), x)
    leaves, treedef = jax.tree.flatten(params)
    drawn = [
        jnp.asarray(np.random.default_rng(seed + i).normal(size=p.shape) / 2, p.dtype)
        for i, p in enumerate(leaves)
    ]
    if jax.tree.leaves(state):
        state = jax.jit(lambda key, x: layer.init(key, x)[1])(jax.random.key(seed), x)
    return treedef.unflatten(drawn), state


@partial(jax.jit, static_argnums=0)
def passes(layer, params, state, x, dy=None, key=None):
    """(y, dx, gradients) of a forward and a backward pass in one program; dy of ones if not given.

    `passes.__wrapped__` is the same without `jax.jit`.
    """
    y, _, residuals = layer.forward(params, state, x, key)
    dx, captures = layer.backward(
        params, residuals, jax.tree.map(jnp.ones_like, y) if dy is None else dy
    )
    return y, dx, nn.contract(captures)


@partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, prediction, target):
    """What a loss gives by hand; `value_and_gradient.__wrapped__` is the same without `jax.jit`."""
    return loss.value(prediction, target), loss.gradient(prediction, target)


@partial(jax.jit, static_argnums=0)
def differentiated(value, prediction, target):
    """A function of predictions, and its gradient by autodiff."""
    values, vjp = jax.vjp(lambda y: value(y, target), prediction)
    return values, *vjp(jnp.ones_like(values))
