"""PEPITA: a second forward pass, of the input with the error added to it."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import serial
from jaxnn.core.contract import Loss
from jaxnn.core.validation import require_count, require_floating, require_positive
from jaxnn.learning.local.rule import OfLoss
from jaxnn.learning.local.stages import gradients_of, run_through


class pepita(OfLoss):
    """Two forward passes and no backward pass (Dellaferrera and Kreiman, 2022).

    With the error e = ∂l/∂y of the output y, the second pass is of x′ = x + e F for a fixed random
    F. With activities hᵢ of the first pass and hᵢ′ of the second, the update of a layer z = W h + b
    is as if its delta were hᵢ − hᵢ′, and its input the hᵢ₋₁′ of the second pass; the delta of the
    last layer is e, whatever activation is behind it. So weights move as gradients would have it
    where the second pass brings the activities closer to what is wanted.

    F [outputs, *input] is drawn from the uniform distribution between ±``scale`` √(6 / inputs).

    Args:
        network: See `Rule`.
        loss: Of the output.
        scale: Of F.
        seed: That F is drawn from.
    """

    network: serial
    loss: Loss
    scale: Annotated[float, require_positive] = 0.05
    seed: Annotated[int, require_count] = 0

    def update(self, params, state, x, target, key, weights) -> tuple[Array, Any]:
        require_floating(self.name, "x", x)
        stages, x, target = self.prepared(params, state, x, target, key, weights)
        h, _ = run_through(stages, x)
        value, factors = self.shared(self.loss.value(h[-1], target), weights)
        error = self.loss.gradient(h[-1], target)
        changed, kept = run_through(stages, x + self.projected(error, x))
        deltas = [*(a - b for a, b in zip(h[:-1], changed[:-1], strict=True)), error]
        captures = [
            stage.weigh_back(weighed, delta)[1]
            for stage, (weighed, _), delta in zip(stages, kept, deltas, strict=True)
        ]
        return value, gradients_of(self.network, params, stages, captures, factors)

    def projected(self, error: Array, x: Any) -> Array:
        """e F, in the shape of x."""
        flat = error.reshape(error.shape[0], math.prod(error.shape[1:]))
        inputs = math.prod(x.shape[1:])
        bound = self.scale * math.sqrt(6 / inputs)
        shape = (flat.shape[1], inputs)
        drawn = jax.random.uniform(jax.random.key(self.seed), shape, x.dtype, -bound, bound)
        return jnp.dot(flat, drawn).astype(x.dtype).reshape(x.shape)
