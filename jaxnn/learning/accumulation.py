"""Gradient accumulation: a large batch in the memory of a small one."""

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.gradients import autodiff, backprop, numerical
from jaxnn.core.mixing import mixing_layers, require_loss_apart
from jaxnn.core.validation import batch_size, require_positive_integer
from jaxnn.core.value import Value
from jaxnn.kernels.products import sum_dtype


class SummedGradient(abc.ABC):
    """A gradient function: a sum over the examples, and what is done to the sum once."""

    @abc.abstractmethod
    def __call__(self, params, state, x, target, key=None, weights=None, **numbers) -> tuple:
        """((value, state), gradients); numbers by name, which may be traced, go to both parts."""

    @abc.abstractmethod
    def split(self, key: Array | None) -> tuple[Array | None, Array | None]:
        """The keys of `sums` and of `finish`."""

    @abc.abstractmethod
    def sums(self, params, state, x, target, key=None, weights=None, **numbers) -> tuple:
        """((values [batch], state), the sum over the examples); sums of parts add up."""

    @abc.abstractmethod
    def finish(self, params, state, values, weights, sums, key, **numbers) -> tuple:
        """((value, state), gradients) of the whole sum, after the last part's state."""


class accumulate(Value):
    """``gradient`` of one micro-batch after the other, put together to that of the whole batch.

    With g_m and w_m the gradient and the sum of the weights of micro-batch m, Σ w_m g_m / Σ w_m is
    the weighted mean over the whole batch, to rounding; sums run in at least float32. The sums of a
    `SummedGradient`, such as `jaxnn.learning.privacy.private`, add up, and are finished once: its
    noise is that of the whole batch. What backward keeps, `jaxnn.summarize`'s total, shrinks by the
    number of micro-batches. A scan goes through them: example i is in micro-batch
    i mod ``micro_batches``, so that each has its share on every device of a sharded batch. Where
    they do not divide the batch, examples without weight fill the last rows.

    Layer state passes from micro-batch to micro-batch; each draws random numbers of its own, so
    that dropout's are others than those of the whole batch.

    Args:
        gradient: A `SummedGradient`; or what `jaxnn.backprop`, `jaxnn.autodiff` or
            `jaxnn.numerical` returns: a weighted mean over the batch, with that signature.
        micro_batches: Into how many the batch is cut.
        network: The network that ``gradient`` is of.

    Raises:
        ValueError: ``micro_batches`` is not positive, or the loss compares the examples of a batch;
            when called, a layer of the network mixes the
            examples of a batch, as batch norm does in training: of micro-batches it would compute
            something else than of the batch.
    """

    gradient: Callable
    micro_batches: Annotated[int, require_positive_integer]
    _: dataclasses.KW_ONLY
    network: Layer

    def validate(self) -> None:
        self._require_loss_apart()

    def _require_loss_apart(self, *passed: Any) -> None:
        match self.gradient:
            case backprop(loss=loss) | autodiff(loss=loss) | numerical(loss=loss):
                require_loss_apart(self.name, loss, *passed)

    def __call__(self, params, state, x, target, key=None, weights=None, **numbers: Any):
        gradient, micro_batches = self.gradient, self.micro_batches
        size = batch_size("accumulate", (x, target))
        rows = -(-size // micro_batches)
        missing = rows * micro_batches - size
        counted = weights
        if weights is not None and jnp.shape(weights) != (size,):
            raise ValueError(
                f"accumulate: expected weights to have shape ({size},), one for each example, "
                f"got {jnp.shape(weights)}"
            )
        if missing and weights is None:
            compute = partial(gradient, **numbers)
            value = jax.eval_shape(compute, params, state, x, target, key)[0][0]
            _require_array(value)
            counted = jnp.ones(size, value.dtype)
        examples = jax.tree.map(lambda a: _fill(a, missing), (x, target))
        if counted is not None:
            counted = jnp.pad(counted, (0, missing))
        # Neighbours go to different micro-batches.
        cut = jax.tree.map(
            lambda a: a.reshape(rows, micro_batches, *a.shape[1:]), (*examples, counted)
        )
        _require_examples_apart(
            self.network, params, state, jax.tree.map(lambda a: a[:, 0], cut[0]), key
        )

        self._require_loss_apart(self.network, params, state, x, target, key)

        def part(index: Any, key: Array | None) -> tuple:
            xs, targets, own = jax.tree.map(
                lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, keepdims=False), cut
            )
            return xs, targets, None if key is None else jax.random.fold_in(key, index), own

        order = jnp.arange(micro_batches)
        put_together = _sum if isinstance(gradient, SummedGradient) else _mean
        return put_together(gradient, params, state, part, order, size, key, weights, numbers)


def _mean(gradient, params, state, part, order, size, key, weights, numbers):
    """The mean of the micro-batches' values and gradients, each by the weight that it has."""

    rows = -(-size // len(order))

    def of(state: Any, index: Any):
        arguments = part(index, key)
        (value, state), gradients = gradient(params, state, *arguments, **numbers)
        return state, arguments[-1], (value, gradients)

    def body(carry: tuple, index: Any):
        state, weight_sum, total = carry
        state, own, terms = of(state, index)
        share = float(rows) if own is None else jnp.sum(own, dtype=sum_dtype(own.dtype))
        # The mean of nothing is NaN: a micro-batch without weight adds nothing.
        total = jax.tree.map(lambda t, a: t + jnp.where(share > 0, a * share, 0), total, terms)
        return (state, weight_sum + share, total), None

    terms = jax.eval_shape(of, state, 0)[2]
    _require_array(terms[0])
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, sum_dtype(a.dtype)), terms)
    start = (state, jnp.zeros((), sum_dtype(terms[0].dtype)), zeros)
    (state, weight_sum, total), _ = jax.lax.scan(body, start, order)
    value, gradients = jax.tree.map(lambda t, a: (t / weight_sum).astype(a.dtype), total, terms)
    return (value, state), gradients


def _sum(gradient, params, state, part, order, size, key, weights, numbers):
    """The sum over the micro-batches, finished."""
    key, last_key = gradient.split(key)

    def of(state: Any, index: Any):
        return gradient.sums(params, state, *part(index, key), **numbers)

    def body(carry: tuple, index: Any):
        state, total = carry
        (values, state), sums = of(state, index)
        return (state, jax.tree.map(jnp.add, total, sums)), values

    sums = jax.eval_shape(of, state, 0)[1]
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), sums)
    (state, total), values = jax.lax.scan(body, (state, zeros), order)
    values = values.T.ravel()[:size]  # example i was the micro-batch's (i div their number)-th
    return gradient.finish(params, state, values, weights, total, last_key, **numbers)


def _require_array(value: Any) -> None:
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(
            "accumulate: expected gradient to return one number as value, got "
            f"{type(value).__name__}: measures of micro-batches cannot be put together"
        )


def _fill(a: Array, missing: int) -> Array:
    """The array with as many more examples, which are copies: whatever a layer asks of its input
    holds for them."""
    return jnp.concatenate([a, jnp.repeat(a[:1], missing, 0)]) if missing else a


def _require_examples_apart(network: Layer, params: Any, state: Any, x: Any, key: Any) -> None:
    for layer in mixing_layers(network, params, state, x, key):
        raise ValueError(
            f"accumulate: expected layers that take every example by itself, but {layer} mixes the "
            "examples of a batch in training: of micro-batches it would compute something else "
            "than of the batch. Take a normalisation of each example (layer_norm, group_norm), or "
            "a smaller batch"
        )
