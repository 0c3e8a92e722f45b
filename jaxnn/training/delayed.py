"""Delayed backward passes: blocks that are given old deltas (Huo et al., 2018; Dean et al., 2012).

Of blocks one after the other, each by itself on a device say, backprop lets all but one wait. Let
the delta between blocks i and i + 1 take k_i steps instead, in which both go on. With the age of
block i

    a_i = k_i + … + k_{n−1},

its backward pass in step t is that of the batch of step t − a_i: it is given what its forward pass
kept then, and the delta that block i + 1 returned in step t − k_i, which was of the same batch.
Both propagate over the weights as they are when they run: with W(s) the weights in step s and f_i'
the derivative of block i at what it kept,

    δ_i(t) = f_{i+1}'(kept(t − a_i); W_{i+1}(t − k_i))ᵀ δ_{i+1}(t − k_i).

In the first a_i steps a block has no delta, and gradients of zero. Where all k are 0 it is
backprop.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract_for
from jaxnn.core.combinators import inside, serial, split
from jaxnn.core.gradients import (
    of_present,
    of_those_present,
    require_weights,
    shares,
    weighted_mean,
)
from jaxnn.core.networks import summing
from jaxnn.core.validation import brief, require_count
from jaxnn.training.steps import Step, TrainState, require_unscaled


class Waiting(NamedTuple):
    """What a `delayed` step keeps for later ones, the oldest first."""

    inner: Any
    """The optimiser's own state."""
    residuals: Any
    """Of every block, of the last a_i batches."""
    deltas: Any
    """Of every block but the last, those that are on their way to it: k_i."""


class delayed(Step):
    """The step of `make_step` with `jaxnn.backprop`, in which deltas take ``delays`` steps.

    What a block keeps for backward is held for all the batches that are on their way. State, such
    as the statistics of batch norm, is that of the newest forward pass. All batches must have one
    size, that of the x which `create_state` is given.

    Args:
        network: A `serial` of the blocks.
        loss: The loss, whose weighted mean over the batch is minimised.
        optimizer: An optax transformation.
        delays: k, for each place between two blocks.

    Raises:
        ValueError: there are not as many ``delays`` as places between blocks, or one is negative; a
            policy in float16 is in the network; when called, the batch has another size than those
            that wait.
    """

    _: dataclasses.KW_ONLY
    delays: tuple[Annotated[int, require_count], ...]

    def validate(self) -> None:
        """Raise unless there is a delay between every two blocks."""
        require_unscaled(self.name, self.network)
        if not isinstance(self.network, serial):
            raise ValueError(
                f"delayed: expected network to be a serial of blocks, got {brief(self.network)}"
            )
        places = len(self.network.layers) - 1
        if len(self.delays) != places:
            raise ValueError(
                f"delayed: expected {places} delays, one between every two of the "
                f"{places + 1} blocks, got {len(self.delays)}: put layers of one block together, "
                "serial(serial(…), serial(…))"
            )

    @property
    def _chain(self) -> serial:
        assert isinstance(self.network, serial)
        return self.network

    @property
    def ages(self) -> tuple[int, ...]:
        """a, of every block."""
        return tuple(sum(self.delays[i:]) for i in range(len(self.delays) + 1))

    def start(self, params: Any, state: Any, x: Any) -> Waiting:
        """Deltas of zero; residuals are those of x, none of which is of any effect."""
        x = jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), a.dtype), x)
        ys, _, kept = self._forward(params, state, x, jax.random.key(0))
        residuals = tuple((own,) * age for own, age in zip(kept, self.ages, strict=True))
        nothing = [jax.tree.map(_zeros, y) for y in ys[:-1]]
        deltas = tuple((dy,) * k for dy, k in zip(nothing, self.delays, strict=True))
        return Waiting(self.optimizer.init(params), residuals, deltas)

    def __call__(
        self, train_state: TrainState, x: Any, target: Any, weights: Array | None = None
    ) -> tuple[TrainState, Array]:
        """One step."""
        params, state, (inner, residuals, deltas), key, count = train_state
        x, target = of_those_present(self.loss, weights, x, target)
        step_key = jax.random.fold_in(key, count)
        ys, state, kept = self._forward(params, state, x, step_key)
        shape = jax.eval_shape(self.loss.value, ys[-1], target)
        require_weights(weights, shape, "delayed")
        values, delta = self.loss.weighted(ys[-1], target, shares(weights, shape))
        value = weighted_mean(of_present(weights, values), weights)
        residuals = [_require_alike((*old, own)) for old, own in zip(residuals, kept, strict=True)]
        left, gradients = list(deltas), []
        blocks = summing(self.network).parts
        for i in reversed(range(len(blocks))):
            with inside(self.network, i):
                dx, capture = blocks[i].backward(params[i], residuals[i][0], delta)
            own = contract_for(params[i], capture)
            if self.ages[i]:
                # What is kept at the start is of no batch: its backward pass may even be NaN.
                begun = count >= self.ages[i]
                dx, own = jax.tree.map(lambda a, begun=begun: jnp.where(begun, a, 0), (dx, own))
            gradients.append(own)
            residuals[i] = residuals[i][1:]
            if i:
                delta, *rest = (*left[i - 1], dx)
                left[i - 1] = tuple(rest)
        gradients = self._chain.gather(reversed(gradients))
        params, inner = self.updated(gradients, inner, params, value)
        waiting = Waiting(inner, tuple(residuals), tuple(left))
        return TrainState(params, state, waiting, key, count + 1), value

    def _forward(self, params: Any, state: Any, x: Any, key: Array) -> tuple[list, Any, list]:
        """(what each block returns, its state, what it keeps)."""
        blocks = summing(self.network).parts
        ys, states, kept = [], [], []
        for i, own in enumerate(split(key, len(blocks))):
            with inside(self.network, i):
                x, new, residuals = blocks[i].forward(params[i], state[i], x, own)
            ys.append(x)
            states.append(new)
            kept.append(residuals)
        return ys, self._chain.gather(states), kept


def _zeros(y: Array) -> Array | None:
    return jnp.zeros_like(y) if jnp.issubdtype(y.dtype, jnp.floating) else None


def _require_alike(waiting: tuple) -> tuple:
    """The residuals, of batches of one size."""
    *old, new = ([jnp.shape(a) for a in jax.tree.leaves(own)] for own in waiting)
    for shapes in old:
        if shapes != new:
            raise ValueError(
                "delayed: expected batches of the size of those whose deltas are on their way, "
                f"which kept arrays of {brief(shapes)}, got {brief(new)}: give create_state an x "
                "of the size of a batch, and take batches that divide the examples"
            )
    return waiting
