"""What learning rules of stages have in common."""

import abc
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxnn.core.combinators import serial
from jaxnn.core.contract import Loss
from jaxnn.core.gradients import of_present, of_those_present, weighted_mean
from jaxnn.core.value import Value
from jaxnn.learning.feedback.angles import angles_between
from jaxnn.learning.local.stages import run_through, stages_of


class Rule(Value):
    """A gradient function of a `serial` network: ``rule(params, state, x, target, key=None,
    weights=None)`` is ((value, state), gradients).

    Layers may draw random numbers, the same in every pass of a step, but have no state.
    """

    network: serial

    @abc.abstractmethod
    def __call__(self, params, state, x, target, key=None, weights=None):
        raise NotImplementedError

    @abc.abstractmethod
    def objective(self, params, state, x, target, key=None, weights=None) -> Array:
        """The number that a step along the rule's update is meant to lower."""

    def predict(self, params: Any, state: Any, x: Any) -> Any:
        """What the trained network says."""
        return self.network.predict(params, state, x)


class OfLoss(Rule):
    """A rule whose objective is the weighted mean loss of the forward pass."""

    network: serial
    loss: Loss

    def objective(self, params, state, x, target, key=None, weights=None) -> Array:
        x, target = of_those_present(self.loss, weights, x, target)
        outputs, _ = run_through(stages_of(self.name, self.network, params, state, key), x)
        values = self.loss.value(outputs[-1], target)
        return weighted_mean(of_present(weights, values), weights)


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
