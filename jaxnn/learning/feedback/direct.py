"""Direct feedback alignment: the error of the output goes to every block at once."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import Many, inside, serial, split
from jaxnn.core.contract import Layer
from jaxnn.core.validation import brief, require_key
from jaxnn.learning.feedback.rules import FeedbackState


class direct_feedback_alignment(Many, init=False):
    """y = fₙ(… f₁(x)) as `serial`; block i is given the delta dy · Bᵢ in place of its successor's.

    Bᵢ [outputs of the network, *outputs of block i] is drawn once from N(0, 1 / outputs of the
    network) and is the ``memory`` of a `FeedbackState`, beside the states of the blocks; the last
    block is given dy itself (Nøkland, 2016). No delta waits for another, so that backward is
    parallel in depth. Within a block deltas travel back as its own layers have it: a block of a
    weight and an activation, ``serial(dense(512), relu())``, is direct feedback alignment as
    published.

    A block may return a tuple: each floating member has a Bᵢ of its own, others have no delta.
    Where lengths [batch], integers, or a mask [batch, time], booleans, are among them, the deltas
    of members [batch, time, …] are 0 where nothing is: no gradient would come from there.

    dx is that of the first block. The memory of Bᵢ is outputs times outputs: a convolution's block
    should end with its pooling.

    Raises:
        ValueError: there is a single block, which would be plain `serial`; a block returns nothing
            that is floating.
    """

    true_gradient: bool
    """Whether each block is given its successor's delta after all; see `plain`."""

    mixes = False

    def __init__(self, /, *layers: Layer, true_gradient: bool = False, **named: Layer):
        object.__setattr__(self, "true_gradient", true_gradient)
        super().__init__(*layers, **named)

    @property
    def options(self) -> dict[str, Any]:
        return {"true_gradient": True} if self.true_gradient else {}

    def validate(self) -> None:
        if len(self.layers) < 2:
            raise ValueError(
                "direct_feedback_alignment: expected at least two blocks, got one, which has the "
                "delta of the output anyhow"
            )

    @functools.cached_property
    def _chain(self) -> serial:
        return serial(*self.by_position, **self.by_name)

    def plain(self) -> Layer:
        if self.true_gradient:
            return self
        return direct_feedback_alignment(*self.by_position, **self.by_name, true_gradient=True)

    def of_parts(self, tree: Any) -> tuple:
        return tree.inner if isinstance(tree, FeedbackState) else tree

    def init(self, key: Array | None, x: Any):
        params, states = self._chain.init(key, x)
        outputs = []
        for block, p, s in zip(self.layers, params, states, strict=True):
            x = jax.eval_shape(block.predict, p, s, x)
            outputs.append(_floating(x))
            if not jax.tree.leaves(outputs[-1]):
                raise ValueError(
                    "direct_feedback_alignment: expected every block to return something floating, "
                    f"{block.name} returns {brief(x)}"
                )
        key = jax.random.fold_in(require_key("direct_feedback_alignment", key), 1)
        size = sum(math.prod(a.shape[1:]) for a in jax.tree.leaves(outputs[-1]))
        keys = jax.random.split(key, len(outputs) - 1)
        feedback = tuple(_drawn(*each, size) for each in zip(keys, outputs[:-1], strict=True))
        return params, FeedbackState(states, feedback)

    def predict(self, params: Any, state: Any, x: Any):
        return self._chain.predict(params, state.inner, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        if self.true_gradient:
            y, inner, residuals = self._chain.forward(params, state.inner, x, key)
            return y, state._replace(inner=inner), residuals
        states, kept = [], []
        keys = split(key, len(self.layers))
        for index, block in enumerate(self.layers):
            with inside(self, index):
                own = params[index], state.inner[index], x, keys[index]
                x, new_state, residuals = block.forward(*own)
            states.append(new_state)
            kept.append((residuals, _real(x)))
        return x, FeedbackState(self.gather(states), state.memory), (kept, state.memory)

    def backward(self, params: Any, residuals: Any, dy: Any):
        if self.true_gradient:
            return self._chain.backward(params, residuals, dy)
        kept, feedback = residuals
        flat = [a.reshape(a.shape[0], math.prod(a.shape[1:])) for a in jax.tree.leaves(dy)]
        error, results = jnp.concatenate(flat, 1), []
        for index, (block, (own, real)) in enumerate(zip(self.layers, kept, strict=True)):
            is_last = index + 1 == len(self.layers)
            delta = dy if is_last else _sent(error, feedback[index], real)
            with inside(self, index):
                results.append(block.backward(params[index], own, delta))
        dx, captures = zip(*results, strict=True)
        return dx[0], self.gather(captures)


def _floating(tree: Any) -> Any:
    """The tree with None in place of what has no delta."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, tree)


def _drawn(key: Array, members: Any, size: int) -> Any:
    """B for each member."""
    leaves, treedef = jax.tree.flatten(members)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    return treedef.unflatten(
        jax.random.normal(k, (size, *a.shape[1:]), a.dtype) / math.sqrt(size)
        for k, a in zip(keys, leaves, strict=True)
    )


def _real(y: Any) -> Array | None:
    """[batch, time], where something is in the members of a tuple; None where all is."""
    members = jax.tree.leaves(y) if isinstance(y, tuple) else []
    times = {a.shape[1] for a in members if a.ndim >= 3 and jnp.issubdtype(a.dtype, jnp.floating)}
    real = None
    for member in members:
        if len(times) == 1 and member.ndim == 1 and jnp.issubdtype(member.dtype, jnp.integer):
            own = jnp.arange(*times) < member[:, None]
        elif member.ndim == 2 and member.dtype == bool and times == {member.shape[1]}:
            own = member
        else:
            continue
        real = own if real is None else real & own
    return real


def _sent(error: Array, feedback: Any, real: Array | None) -> Any:
    """The error by way of B, for each member."""

    def send(b: Array):
        delta = jnp.tensordot(error.astype(b.dtype), b, 1)
        if real is None or delta.ndim < 3:
            return delta
        there = jnp.expand_dims(real, tuple(range(2, delta.ndim)))
        return jnp.where(there, delta, jnp.zeros_like(delta))

    return jax.tree.map(send, feedback)
