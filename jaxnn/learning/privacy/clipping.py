"""How far each example's gradient may reach: the factors that its deltas are multiplied by.

With g_b the gradient of example b, g_bl its part in layer l of L, and C the bound of the whole:

    clipped                 g_b min(1, C / ‖g_b‖)                          (Abadi et al., 2016)
    automatic (AUTO-S)      g_b C / (‖g_b‖ + γ)                            (Bu et al., 2022)
    clipped per layer       g_bl min(1, C_l / ‖g_bl‖), C_l = C / √L        (McMahan et al., 2018)
    automatic per layer     g_bl C_l / (‖g_bl‖ + γ)

In each of them no example moves the sum by more than C, as (L C_l²)^½ = C.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import map_captures
from jaxnn.kernels.products import add_all
from jaxnn.statistics import contractions
from jaxnn.statistics.trees import require_examples_apart, scaled, widened, without


class Clipped(NamedTuple):
    """The captures of gradients that reach as far as they may."""

    captures: Any
    within: Array
    """[batch], in how many of its layers (or of 1, all together) an example's gradient was within
    the bound, as a share of them; 0 where it is not finite."""
    finite: Array
    """[batch], whether the gradient is: what is not, adds nothing."""


def clip(
    where: str,
    captures: Any,
    clip_norm: Any,
    params: Any,
    *,
    per_layer: bool = False,
    automatic: float | None = None,
) -> Clipped:
    """Captures of each example's own loss, with deltas times its factors, in at least float32.

    What one capture is of, the parameters of one layer (all copies that `jaxnn.repeat` stacks), is
    a layer here. C is lowered by what rounding may add to a norm or a contracted gradient.

    Args:
        where: The name of what clips, for errors.
        captures: Of a network that takes examples apart.
        clip_norm: C, a number that may be traced.
        params: The parameters, whose number says how far rounding goes.
        per_layer: Whether each layer has a bound of its own.
        automatic: γ, for automatic clipping.

    Raises:
        ValueError: the network has no parameters, or mixes the examples of a batch.
    """
    captures = widened(require_examples_apart(where, captures))
    of_layers = map_captures(_squared_norms, captures)
    leaves, layers = jax.tree.flatten(of_layers)
    if not leaves:
        raise ValueError(f"{where}: expected a network with parameters, got one without")
    squares = jnp.stack(leaves)  # [layers, batch]
    finite = jnp.isfinite(jnp.sum(squares, 0))
    if not per_layer:
        squares = jnp.sum(squares, 0, keepdims=True)
    bound = jnp.asarray(clip_norm, squares.dtype) / len(squares) ** 0.5
    reach = bound * (1 - _rounding(params, squares.dtype))
    if automatic is None:
        # A norm of 0 divides to infinity, and the factor is 1.
        factors = jnp.minimum(1, reach * jax.lax.rsqrt(squares))
    else:
        factors = reach / (jnp.sqrt(squares) + automatic)
    factors = jnp.where(finite, factors, 0)
    own = layers.unflatten(jnp.broadcast_to(factors, (len(leaves), factors.shape[1])))
    within = jnp.mean(jnp.sqrt(squares) <= bound, 0, dtype=squares.dtype)
    captures = map_captures(scaled, without(captures, ~finite), own)
    return Clipped(captures, jnp.where(finite, within, 0), finite)


def _squared_norms(capture: Any) -> Array:
    return add_all(*contractions.squared_norms(capture).values())


def _rounding(params: Any, dtype: Any) -> float:
    """By what share of itself a norm, or a contracted gradient, may be wrong: the errors of sums of
    as many squares as there are parameters, which have independent signs, and of a few products."""
    size = sum(p.size for p in jax.tree.leaves(params))
    return float(jnp.finfo(dtype).eps) * (8 + size**0.5)
