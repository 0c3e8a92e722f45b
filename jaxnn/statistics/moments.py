"""Moments of the gradient over the examples of a batch, and what they say about its size.

E is the mean over the batch with the shares sᵢ = wᵢ / Σ w, 1 / batch without ``weights``. All
moments are in at least float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract, in_params, map_captures
from jaxnn.statistics import contractions
from jaxnn.statistics.examples import per_example_squared_norms
from jaxnn.statistics.quantities import quantity
from jaxnn.statistics.trees import scaled, shares_of, widened


class GradientNoise(NamedTuple):
    """See `gradient_noise`."""

    trace: Array
    """tr(Σ), of the covariance of an example's gradient."""
    squared_gradient: Array
    """|G|², of its mean over all data."""


@quantity
def gradient_second_moment(captures: Any, weights: Array | None = None) -> Any:
    """The tree of params: E[g²], element by element, of the gradient g of an example's own loss.

    The same is the diagonal of the empirical Fisher matrix.
    """
    shared = scaled(widened(captures), jnp.sqrt(shares_of(captures, weights)))
    return in_params(map_captures(contractions.sum_of_squares, shared), leading=0)


@quantity
def gradient_variance(captures: Any, weights: Array | None = None) -> Any:
    """The tree of params: E[(g − E g)²], the biased variance over the batch, element by element.

    It is computed as E[g²] − (E g)², for which no example's gradient has to be formed; where it is
    far smaller than (E g)², it has the rounding errors of the difference, but is never negative.
    """

    def variance(second: Array, mean: Array):
        return jnp.maximum(second - mean.astype(second.dtype) ** 2, 0)

    second = gradient_second_moment.of(captures, weights)
    return jax.tree.map(variance, second, _mean(captures, weights))


@quantity
def gradient_signal_to_noise(captures: Any, weights: Array | None = None) -> Any:
    """The tree of params: (E g)² / Var g, element by element, for one example.

    A batch of n multiplies it by n. Infinite where all examples agree, NaN where their gradients
    all are 0.
    """

    def ratio(variance: Array, mean: Array):
        return mean.astype(variance.dtype) ** 2 / variance

    variance = gradient_variance.of(captures, weights)
    return jax.tree.map(ratio, variance, _mean(captures, weights))


@quantity
def gradient_noise(captures: Any, weights: Array | None = None) -> GradientNoise:
    """tr(Σ) and |G|², both estimated without bias from norms within one batch.

    With the covariance Σ of g and its mean G over all data,

        tr(Σ) = (E‖g‖² − ‖E g‖²) / (1 − Σ sᵢ²),  |G|² = ‖E g‖² − tr(Σ) Σ sᵢ²
    """
    norms = per_example_squared_norms.of(captures)
    shares = shares_of(captures, weights).astype(norms.dtype)
    of_mean = sum(jnp.sum(mean**2) for mean in jax.tree.leaves(_mean(captures, weights)))
    concentration = jnp.sum(shares**2)
    trace = (jnp.sum(shares * norms) - of_mean) / (1 - concentration)
    return GradientNoise(trace, of_mean - trace * concentration)


@quantity
def gradient_noise_scale(captures: Any, weights: Array | None = None) -> Array:
    """tr(Σ) / |G|² of `gradient_noise`, in examples.

    The batch size at which the noise of the gradient is as large as the gradient itself (McCandlish
    et al., 2018, the "simple" noise scale): far below it, twice the batch is worth twice the steps.
    A ratio of estimates is biased: average tr(Σ) and |G|² of several batches for a figure to rely
    on. Negative where noise hides the gradient, NaN for a single example.
    """
    noise = gradient_noise.of(captures, weights)
    return noise.trace / noise.squared_gradient


def _mean(captures: Any, weights: Array | None) -> Any:
    """E g."""
    return contract(scaled(widened(captures), shares_of(captures, weights)))
