"""What learning rules of stages have in common."""

import abc
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxnn.core.captures import in_dtypes_of
from jaxnn.core.combinators import serial
from jaxnn.core.contract import Loss
from jaxnn.core.gradients import (
    of_present,
    of_those_present,
    require_weights,
    shares,
    weighted_mean,
)
from jaxnn.core.mixing import require_apart, require_loss_apart
from jaxnn.core.networks import in_inference_mode
from jaxnn.core.value import Value
from jaxnn.learning.feedback.angles import angles_between
from jaxnn.learning.local.stages import Stage, run_through, stages_of
from jaxnn.statistics.trees import widened


class Rule(Value):
    """A gradient function of a `serial` network: ``rule(params, state, x, target, key=None,
    weights=None)`` is ((value, state), gradients).

    Layers may draw random numbers, the same in every pass of a step, but have no state. Activities
    that differ by little are what most rules learn from, so that all of an update is computed in
    at least float32; value and gradients have the dtypes of the parameters.

    Raises:
        ValueError: a layer or the loss mixes the examples of a batch; a layer has a state; the last
            layers are not one with parameters and, behind it, pointwise ones.
    """

    network: serial

    def __call__(self, params, state, x, target, key=None, weights=None):
        wide, x, target, weights = widened((params, x, target, weights))
        value, gradients = self.update(wide, state, x, target, key, weights)
        gradients = in_dtypes_of(params, gradients)
        return (value.astype(jax.tree.leaves(gradients)[0].dtype), state), gradients

    @abc.abstractmethod
    def update(self, params, state, x, target, key, weights) -> tuple[Array, Any]:
        """(value, gradients), of what is given in at least float32."""

    @abc.abstractmethod
    def objective(self, params, state, x, target, key=None, weights=None) -> Array:
        """The number that a step along the rule's update is meant to lower."""

    def predict(self, params: Any, state: Any, x: Any) -> Any:
        """What the trained network says."""
        return self.network.predict(params, state, x)

    def stages(self, params: Any, state: Any, x: Any, key: Array | None) -> list[Stage]:
        """Of the network in training."""
        stages = stages_of(self.name, self.network, params, state, key)
        require_apart(self.name, self.network, params, state, x, key)
        return stages

    def stages_at_rest(self, params: Any, state: Any) -> list[Stage]:
        """Of the network in inference, where nothing is drawn."""
        return stages_of(self.name, in_inference_mode(self.network), params, state, None)


class OfLoss(Rule):
    """A rule whose objective is the weighted mean loss of an output."""

    network: serial
    loss: Loss

    def objective(self, params, state, x, target, key=None, weights=None) -> Array:
        x, target = of_those_present(self.loss, weights, x, target)
        y = self.output(self.stages(params, state, x, key), x)
        values = self.loss.value(y, target)
        return weighted_mean(of_present(weights, values), weights)

    def output(self, stages: list[Stage], x: Any) -> Any:
        """That of the forward pass, where a rule does not say otherwise."""
        return run_through(stages, x)[0][-1]

    def prepared(self, params, state, x, target, key, weights) -> tuple[list[Stage], Any, Any]:
        """The stages, x and target of an update; raises where something mixes the examples."""
        x, target = of_those_present(self.loss, weights, x, target)
        require_loss_apart(self.name, self.loss, self.network, params, state, x, target, key)
        return self.stages(params, state, x, key), x, target

    def shared(self, values: Array, weights: Any) -> tuple[Array, Array]:
        """The weighted mean of the losses, and the share of each example in it."""
        require_weights(weights, values)
        return weighted_mean(of_present(weights, values), weights), shares(weights, values)


def objective_angles(rule: Rule) -> Callable[..., dict[str, Array]]:
    """(params, state, x, target, key=None, weights=None) -> {"2 dense": angle in degrees, …}.

    For each layer with parameters the angle between the rule's update and the gradient that
    autodiff finds of the rule's objective, all layers learning together: below 90° a small step
    descends.
    """

    def angles(params, *arguments, **named):
        gradient = jax.grad(rule.objective)(params, *arguments, **named)
        return angles_between(rule.network, rule(params, *arguments, **named)[1], gradient)

    return angles
