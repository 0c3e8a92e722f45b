"""How much curvature is damped: a number, a schedule, or the rule of Levenberg and Marquardt."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backprop
from jaxnn.core.validation import require_number, require_positive, require_positive_integer
from jaxnn.core.value import Value
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics import ggn_vector_product


def _require_factor(where: str, name: str, value: Any) -> float:
    bounds = {"open_minimum": True, "open_maximum": True}
    return require_number(where, name, value, minimum=0, maximum=1, **bounds)


class levenberg_marquardt(Value):
    """A damping λ that follows how well the quadratic model foretells the loss.

    After every T steps, with δ the last step of the parameters from θ and h the mean loss of the
    batch at hand, the reduction ratio is

        ρ = (h(θ + δ) − h(θ)) / (∇h(θ)ᵀ δ + ½ δᵀ G δ)

    with the Gauss-Newton matrix G of that batch at θ, no approximation. λ ← ω^T λ where ρ > ¾, and
    λ ← λ / ω^T where ρ < ¼ or the loss is not finite (Martens and Grosse, 2015, section 6.5).

    Args:
        initial: λ of the first steps.
        every: T.
        factor: ω.
        smallest: What λ does not fall below.
        largest: What it does not rise above.
    """

    initial: Annotated[float, require_positive] = 1.0
    every: Annotated[int, require_positive_integer] = 5
    factor: Annotated[float, _require_factor] = 0.95
    smallest: Annotated[float, require_positive] = 1e-8
    largest: Annotated[float, require_positive] = 1e8

    def validate(self) -> None:
        if not self.smallest <= self.initial <= self.largest:
            raise ValueError(
                f"{self.name}: expected smallest <= initial <= largest, got "
                f"{self.smallest:g}, {self.initial:g}, {self.largest:g}"
            )


class Adapted(NamedTuple):
    """What the rule remembers."""

    damping: Array
    """λ, in at least float32."""
    previous: Any
    """The parameters of the step before."""


def adapted(rule: levenberg_marquardt, network: Layer, loss: Loss, mean_over: Callable) -> Callable:
    """(count, `Adapted`, params, arguments) -> `Adapted`, before the step of this number.

    ``mean_over`` makes of a function that is a mean over a batch one that takes it in parts.
    """
    gradient = mean_over(lambda *arguments: _slope(network, loss, *arguments))
    curvature = ggn_vector_product(network, loss)

    def run(count: Array, before: Adapted, params: Any, arguments: tuple) -> Adapted:
        damping, previous = before

        def changed() -> Array:
            step = jax.tree.map(jnp.subtract, params, previous)
            (value, slope), (now, _) = (gradient(p, *arguments) for p in (previous, params))
            bent = mean_over(lambda *a: curvature(step, *a))(previous, *arguments)
            model = _dot(slope, step) + _dot(step, bent) / 2
            ratio = (now - value) / model
            by = rule.factor**rule.every
            grown = jnp.where(ratio >= 0.25, damping, damping / by)  # where it is NaN too
            new = jnp.where(ratio > 0.75, damping * by, grown)
            new = jnp.where(model == 0, damping, new)  # nothing has moved
            return jnp.clip(new, rule.smallest, rule.largest).astype(damping.dtype)

        due = (count > 0) & (count % rule.every == 0)
        return Adapted(jax.lax.cond(due, changed, lambda: damping), params)

    return run


def _slope(network: Layer, loss: Loss, params: Any, *arguments: Any) -> tuple[Array, Any]:
    (value, _), slope = backprop(network, loss)(params, *arguments)
    return value.astype(sum_dtype(value.dtype)), slope


def _dot(a: Any, b: Any) -> Array:
    wide = (jax.tree.map(lambda g: g.astype(sum_dtype(g.dtype)), tree) for tree in (a, b))
    return jnp.asarray(optax.tree.vdot(*wide))
