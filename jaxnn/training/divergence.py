"""What to say of a training whose loss or parameters are no longer finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checking import parameter_names
from jaxnn.core.gradients import backprop
from jaxnn.core.layer import Layer, Loss
from jaxnn.training.steps import TrainState, epoch_order, split_order

ADVICE = "A smaller learning rate, clip_norm or a normalisation may help"


class Diverged(RuntimeError):
    """Loss or parameters are no longer finite. ``train_state`` is from before that epoch."""

    def __init__(self, message: str, train_state: TrainState):
        super().__init__(message)
        self.train_state = train_state


def explain_divergence(
    network: Layer,
    loss: Loss,
    step: Callable,
    train_state: TrainState,
    take_batch: Callable,
    batch_size: int,
    examples: int,
) -> str:
    """Where it began: what was left of the epoch is taken again, step by step.

    Args:
        network: The network.
        loss: The loss.
        step: The step that diverged, from `make_step`.
        train_state: The one before it.
        take_batch: (indices) -> the inputs and targets of these examples.
        batch_size: Examples in a step.
        examples: How many there are.
    """
    gradient = jax.jit(backprop(network, loss))
    one_step = jax.jit(step)
    names = parameter_names(network, train_state.params)
    first = int(train_state.step)

    def not_finite(tree: Any) -> list[str]:
        return [name for name, ok in zip(names, finite_elements(tree), strict=True) if not ok.all()]

    order = epoch_order(train_state, examples, batch_size)
    batches = [batch for part in split_order(order, batch_size) for batch in part]
    for batch in batches[first % len(batches) :]:
        at = f"training diverged at step {int(train_state.step)}"
        key = jax.random.fold_in(train_state.key, train_state.step)
        xs, targets = take_batch(batch)
        params, state = train_state.params, train_state.state
        (value, _), gradients = gradient(params, state, xs, targets, key)
        bad = not_finite(gradients)
        if bad or not jnp.isfinite(value):
            # Backward starts at the loss: the last layer that is not finite was the first.
            where = f"; the first gradient not finite is that of {bad[-1]}" if bad else ""
            return f"{at}: the loss is {float(value)}{where}. {ADVICE}"
        train_state, _ = one_step(train_state, xs, targets)
        bad = not_finite(train_state.params)
        if bad:
            return f"{at}: its update made {bad[-1]} not finite. {ADVICE}"
    return f"training diverged between steps {first} and {int(train_state.step)}. {ADVICE}"


def finite_elements(tree: Any) -> list[jax.Array]:
    """For every leaf, which of its elements are finite."""
    return [jnp.isfinite(leaf) for leaf in jax.tree.leaves(tree)]
