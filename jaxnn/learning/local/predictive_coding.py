"""Predictive coding: activities settle between what is predicted and what is wanted."""

from functools import partial
from typing import Annotated, Any

import jax
from jax import Array

from jaxnn.core.combinators import serial
from jaxnn.core.contract import Loss
from jaxnn.core.validation import require_positive, require_positive_integer
from jaxnn.learning.local.rule import OfLoss
from jaxnn.learning.local.stages import Stage, gradients_of, run_through


class predictive_coding(OfLoss):
    """Weights descend an energy after the activities have (Whittington and Bogacz, 2017).

    With v₀ = x and stages hᵢ = fᵢ(vᵢ₋₁), the activities v₁ … vₘ₋₁ of an example have the energy

        E = Σ_{i<m} ½ ‖vᵢ − fᵢ(vᵢ₋₁)‖² + l(fₘ(vₘ₋₁), target)

    which with `half_squared_error` is that of the paper, where activations stand in front of the
    weights rather than behind them. With δᵢ = fᵢ(vᵢ₋₁) − vᵢ, and δₘ the loss's
    gradient, ∂E/∂vᵢ = δᵢ₊₁ ∂fᵢ₊₁/∂vᵢ − δᵢ: all local. From vᵢ = hᵢ of the forward pass, where every
    δᵢ but the last is 0, they take ``steps`` steps of the size ``rate`` down this slope; then the
    weights' gradient is that of E, δᵢ ∂fᵢ/∂θᵢ.

    With ``fixed_prediction`` (Millidge, Tschantz and Buckley, 2022) hᵢ and ∂fᵢ stay those of the
    forward pass, and the activities settle where δᵢ = δᵢ₊₁ ∂fᵢ₊₁/∂vᵢ: at the deltas of backprop. At
    a rate of 1 each step carries one of them a stage further. Without it they settle at backprop's
    up to terms of the second order in the loss's gradient.

    Args:
        network: See `Rule`.
        loss: Of the output.
        steps: How many steps the activities take.
        rate: Their size.
        fixed_prediction: Whether predictions and slopes are held.
    """

    network: serial
    loss: Loss
    steps: Annotated[int, require_positive_integer] = 20
    rate: Annotated[float, require_positive] = 0.1
    fixed_prediction: bool = False

    def update(self, params, state, x, target, key, weights) -> tuple[Array, Any]:
        stages, x, target = self.prepared(params, state, x, target, key, weights)
        h, kept = run_through(stages, x)
        value, factors = self.shared(self.loss.value(h[-1], target), weights)
        run = partial(self._slopes, stages, x, target, (h, kept))

        def settle(_: Any, v: list[Array]) -> list[Array]:
            slopes, _ = run(v)
            return [a - self.rate * slope for a, slope in zip(v, slopes, strict=True)]

        settled = jax.lax.fori_loop(0, self.steps, settle, h[:-1])
        return value, gradients_of(self.network, params, stages, run(settled)[1], factors)

    def _slopes(
        self, stages: list[Stage], x: Any, target: Any, forward: tuple, v: list[Array]
    ) -> tuple[list[Array], list[tuple]]:
        """(∂E/∂v of every hidden stage, captures of E of every stage)."""
        h, kept = forward
        if not self.fixed_prediction:
            passed = [s.forward(a) for s, a in zip(stages, (x, *v), strict=True)]
            h, kept = zip(*passed, strict=True)
        deltas = [a - b for a, b in zip(h[:-1], v, strict=True)]
        deltas.append(self.loss.gradient(h[-1], target))
        back = [s.backward(r, d) for s, r, d in zip(stages, kept, deltas, strict=True)]
        slopes = [dx - d for (dx, _), d in zip(back[1:], deltas[:-1], strict=True)]
        return slopes, [captures for _, captures in back]
