"""What to say of a training whose loss or parameters are no longer finite."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checking import parameter_names
from jaxnn.core.contract import Layer
from jaxnn.sharding.stages import whole_of
from jaxnn.training.drawing import Batches
from jaxnn.training.steps import TrainState

ADVICE = "A smaller learning rate, clip_norm or a normalisation may help"


class Diverged(RuntimeError):
    """Loss or parameters are no longer finite. ``train_state`` is from before that epoch."""

    def __init__(self, message: str, train_state: TrainState):
        super().__init__(message)
        self.train_state = train_state


def explain_divergence(
    network: Layer,
    gradient: Callable,
    step: Callable,
    train_state: TrainState,
    batches: Sequence[Batches],
    take: Callable,
) -> str:
    """Where it began: what was left of the epoch is taken again, step by step.

    Args:
        network: The network.
        gradient: The gradient function.
        step: The step that diverged, from `make_step`.
        train_state: The one before it.
        batches: Those of the epoch.
        take: (indices) -> the inputs and targets of these examples.
    """
    gradient, one_step = jax.jit(gradient), jax.jit(step)
    names = parameter_names(network, whole_of(train_state.params))
    first = int(train_state.step)

    def not_finite(tree: Any) -> list[str]:
        return [
            name
            for name, ok in zip(names, finite_elements(whole_of(tree)), strict=True)
            if not ok.all()
        ]

    each = [
        jax.tree.map(lambda a, i=i: a[i], part)
        for part in batches
        for i in range(len(part.indices))
    ]
    for indices, weights in each[first % len(each) :]:
        at = f"training diverged at step {int(train_state.step)}"
        key = jax.random.fold_in(train_state.key, train_state.step)
        examples = take(indices)
        counted = () if weights is None else (weights,)
        params, state = train_state.params, train_state.state
        (value, _), gradients = gradient(params, state, *examples, key, *counted)
        bad = not_finite(gradients)
        train_state, _ = one_step(train_state, *examples, *counted)
        if not jnp.isfinite(value) or (bad and not_finite(train_state.params)):
            # Backward starts at the loss: the last layer that is not finite was the first.
            where = f"; the first gradient not finite is that of {bad[-1]}" if bad else ""
            return f"{at}: the loss is {float(value)}{where}. {ADVICE}"
        if bad := not_finite(train_state.params):
            return f"{at}: its update made {bad[-1]} not finite. {ADVICE}"
    return f"training diverged between steps {first} and {int(train_state.step)}. {ADVICE}"


def finite_elements(tree: Any) -> list[jax.Array]:
    """For every leaf, which of its elements are finite."""
    return [jnp.isfinite(leaf) for leaf in jax.tree.leaves(tree)]
