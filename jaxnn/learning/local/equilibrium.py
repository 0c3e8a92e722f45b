"""Equilibrium propagation: a network that settles, and settles again with its output nudged."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import serial
from jaxnn.core.contract import Loss
from jaxnn.core.validation import require_positive, require_positive_integer
from jaxnn.learning.local.rule import OfLoss
from jaxnn.learning.local.stages import Stage, gradients_of


class equilibrium_propagation(OfLoss):
    """Gradients from two states of rest of a network with symmetric weights (Scellier and Bengio,
    2017).

    With s₀ = x, and the stages' fᵢ (linear) and ρᵢ (nondecreasing), the activities s₁ … sₘ of an
    example have the energy

        E = Σᵢ Gᵢ(sᵢ) − Σᵢ sᵢ · fᵢ(sᵢ₋₁),    Gᵢ′ = ρᵢ⁻¹

    and rest where sᵢ = ρᵢ(fᵢ(sᵢ₋₁) + sᵢ₊₁ ∂fᵢ₊₁/∂sᵢ): each stage hears the next one over the
    transposed weights. Given its neighbours, this sᵢ is where E is smallest, so that stages that
    take turns never raise it. The loss l of sₘ, times β, is added to E: sₘ = ρₘ(fₘ(sₘ₋₁) − β l′).
    With s^β for the state of rest, the gradient of the loss of s⁰ is

        ∂l(s⁰)/∂θ = lim_{β→0} −(1/2β) (∂Φ(s^β)/∂θ − ∂Φ(s^−β)/∂θ),    Φ = Σᵢ sᵢ · fᵢ(sᵢ₋₁)

    where ∂Φ/∂θ is what the stages' backward passes give for dz = sᵢ. The error is O(β²) (Laborieux
    et al., 2021); with ``two_sided=False``, (1/β) from s⁰ to s^β, it is O(β). The prediction is
    s⁰ₘ, not the forward pass. Both nudged phases start from s⁰, and that from zeros.

    Args:
        network: See `Rule`. Activations should be bounded.
        loss: Of the output's activity.
        beta: β.
        free_steps: How often all stages take their turn without the loss.
        nudged_steps: And with it.
        two_sided: Whether the output is nudged both ways.
    """

    network: serial
    loss: Loss
    beta: Annotated[float, require_positive] = 0.1
    free_steps: Annotated[int, require_positive_integer] = 30
    nudged_steps: Annotated[int, require_positive_integer] = 10
    two_sided: bool = True

    def update(self, params, state, x, target, key, weights) -> tuple[Array, Any]:
        stages, x, target = self.prepared(params, state, x, target, key, weights)
        free = self._rest(stages, x)
        value, factors = self.shared(self.loss.value(free[-1], target), weights)

        def slope(beta: float) -> Any:
            s = (
                free
                if beta == 0
                else self._settle(stages, x, free, self.nudged_steps, target, beta)
            )
            captures = [
                stage.weigh_back(stage.weigh(below)[1], own)[1]
                for stage, below, own in zip(stages, (x, *s[:-1]), s, strict=True)
            ]
            return gradients_of(self.network, params, stages, captures, factors)

        low, high = (-self.beta if self.two_sided else 0.0), self.beta
        gradients = jax.tree.map(lambda a, b: (a - b) / (high - low), slope(low), slope(high))
        return value, gradients

    def output(self, stages: list[Stage], x: Any) -> Array:
        """s⁰ₘ."""
        return self._rest(stages, x)[-1]

    def predict(self, params: Any, state: Any, x: Any) -> Any:
        return self.output(self.stages_at_rest(params, state), x)

    def _rest(self, stages: list[Stage], x: Any) -> list[Array]:
        """s⁰."""
        zeros, below = [], x
        for stage in stages:
            shape = jax.eval_shape(lambda a, stage=stage: stage.forward(a)[0], below)
            zeros.append(jnp.zeros(shape.shape, shape.dtype))
            below = zeros[-1]
        return self._settle(stages, x, zeros, self.free_steps, None, 0.0)

    def _settle(
        self, stages: list[Stage], x: Any, s: list[Array], steps: int, target: Any, beta: float
    ) -> list[Array]:
        first, _ = stages[0].weigh(x)

        # What is new is at the input first, and then at the output.
        order = range(len(stages)) if beta == 0 else range(len(stages) - 1, -1, -1)

        def turns(s: list[Array], _: None):
            s = list(s)
            for i in order:
                stage = stages[i]
                field = first if i == 0 else stage.weigh(s[i - 1])[0]
                if i + 1 < len(stages):
                    above = stages[i + 1]
                    field = field + above.weigh_back(above.weigh(s[i])[1], s[i + 1])[0]
                elif beta != 0:
                    field = field - beta * self.loss.gradient(s[i], target)
                s[i] = stage.activate(field)[0]
            return s, None

        # A scan rather than a loop, so that the state of rest can be differentiated.
        return jax.lax.scan(turns, s, length=steps)[0]
