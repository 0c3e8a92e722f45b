"""Gradient accumulation: a large batch in the memory of a small one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.layer import Layer
from jaxnn.core.validation import batch_size, require_positive_integer
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics.trees import mixing_layers


def accumulate(gradient: Callable, micro_batches: int, *, network: Layer) -> Callable:
    """``gradient`` of one micro-batch after the other, and their mean: the gradient of the batch.

    With g_m and w_m the gradient and the sum of the weights of micro-batch m, Σ w_m g_m / Σ w_m is
    the weighted mean over the whole batch, to rounding; sums run in at least float32. What backward
    keeps, `jaxnn.summarize`'s total, shrinks by the number of micro-batches. A scan goes through
    them: example i is in micro-batch i mod ``micro_batches``, so that each has its share on every
    device of a sharded batch. Where they do not divide the batch, examples without weight fill the
    last rows.

    Layer state passes from micro-batch to micro-batch; each draws random numbers of its own, so
    that dropout's are others than those of the whole batch.

    Args:
        gradient: What `jaxnn.backprop`, `jaxnn.autodiff` or `jaxnn.numerical` returns: a weighted
            mean over the batch, with that signature.
        micro_batches: Into how many the batch is cut.
        network: The network that ``gradient`` is of.

    Raises:
        ValueError: ``micro_batches`` is not positive; when called, a layer of the network mixes the
            examples of a batch, as batch norm does in training: of micro-batches it would compute
            something else than of the batch.
    """
    require_positive_integer("accumulate", "micro_batches", micro_batches)

    def accumulated(params, state, x, target, key=None, weights=None):
        size = batch_size("accumulate", (x, target))
        rows = -(-size // micro_batches)
        missing = rows * micro_batches - size
        if missing and weights is None:
            value_dtype = jax.eval_shape(gradient, params, state, x, target, key)[0][0].dtype
            weights = jnp.ones(size, value_dtype)
        examples = jax.tree.map(lambda a: _fill(a, missing), (x, target))
        if weights is not None:
            weights = jnp.pad(weights, (0, missing))
        # Cut so that neighbours go to different micro-batches; see above.
        cut = jax.tree.map(
            lambda a: a.reshape(rows, micro_batches, *a.shape[1:]), (*examples, weights)
        )
        one = jax.tree.map(lambda a: a[:, 0], cut[0])
        _require_examples_apart(network, params, state, one, key)

        def of(state: Any, index: Any):
            xs, targets, own = jax.tree.map(
                lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, keepdims=False), cut
            )
            own_key = None if key is None else jax.random.fold_in(key, index)
            (value, state), gradients = gradient(params, state, xs, targets, own_key, own)
            return state, own, (value, gradients)

        def body(carry: tuple, index: Any):
            state, weight_sum, total = carry
            state, own, terms = of(state, index)
            share = float(rows) if own is None else jnp.sum(own)
            # The mean of nothing is NaN: a micro-batch without weight adds nothing.
            total = jax.tree.map(lambda t, a: t + jnp.where(share > 0, a * share, 0), total, terms)
            return (state, weight_sum + share, total), None

        terms = jax.eval_shape(of, state, 0)[2]
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, sum_dtype(a.dtype)), terms)
        start = (state, jnp.zeros((), sum_dtype(terms[0].dtype)), zeros)
        (state, weight_sum, total), _ = jax.lax.scan(body, start, jnp.arange(micro_batches))
        value, gradients = jax.tree.map(lambda t, a: (t / weight_sum).astype(a.dtype), total, terms)
        return (value, state), gradients

    return accumulated


def _fill(a: Array, missing: int) -> Array:
    """The array with as many more examples, which are copies: whatever a layer asks of its input
    holds for them."""
    return jnp.concatenate([a, jnp.repeat(a[:1], missing, 0)]) if missing else a


def _require_examples_apart(network: Layer, params: Any, state: Any, x: Any, key: Any) -> None:
    def captures(params, state, x, key):
        y, _, residuals = network.forward(params, state, x, key)
        return network.backward(params, residuals, y)[1]

    for layer in mixing_layers(jax.eval_shape(captures, params, state, x, key)):
        raise ValueError(
            f"accumulate: expected layers that take every example by itself, but {layer} mixes the "
            "examples of a batch in training: of micro-batches it would compute something else "
            "than of the batch. Take a normalisation of each example (layer_norm, group_norm), or "
            "a smaller batch"
        )
