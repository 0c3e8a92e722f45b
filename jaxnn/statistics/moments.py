"""Moments of the gradient over the examples of a batch, and what they say about its size.

Each function of captures also takes ``shares`` [batch], what each example counts in the mean: 1 /
batch, or wᵢ / Σ w (`jaxnn.core.gradients.shares`). An example of weight 0 is as if it were not there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract, map_captures
from jaxnn.core.gradients import backward_pass, require_weights, shares
from jaxnn.core.layer import Layer, Loss
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics import contractions
from jaxnn.statistics.examples import squared_norms_of
from jaxnn.statistics.trees import require_examples_apart, scaled


def gradient_second_moment(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> the tree of params: E[g²] by element.

    g is the gradient of an example's own loss and E the (weighted) mean over the batch; the same
    is the diagonal of the empirical Fisher matrix. In at least float32, as all moments are.
    """
    return _of_captures("gradient_second_moment", second_moment_of, network, loss)


def gradient_variance(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> the tree of params: E[(g − E g)²].

    The biased variance over the batch, element by element. It is computed as E[g²] − (E g)², for
    which no example's gradient has to be formed; where it is far smaller than (E g)², it has the
    rounding errors of the difference, but is never negative.
    """
    return _of_captures("gradient_variance", variance_of, network, loss)


def gradient_signal_to_noise(network: Layer, loss: Loss) -> Callable[..., Any]:
    """(params, state, x, target, key=None, weights=None) -> the tree of params: (E g)² / Var g.

    Element by element, for one example; a batch of n multiplies it by n. Infinite where all
    examples agree, NaN where their gradients all are 0.
    """
    return _of_captures("gradient_signal_to_noise", signal_to_noise_of, network, loss)


def gradient_noise_scale(network: Layer, loss: Loss) -> Callable[..., Array]:
    """(params, state, x, target, key=None, weights=None) -> tr(Σ) / |G|², in examples.

    The batch size at which the noise of the gradient is as large as the gradient itself (McCandlish
    et al., 2018, the "simple" noise scale): far below it, twice the batch is worth twice the steps.
    Σ is the covariance of g and G its mean over all data, both estimated without bias from norms
    within one batch: tr(Σ) = (E‖g‖² − ‖E g‖²) / (1 − Σ sᵢ²) and |G|² = ‖E g‖² − tr(Σ) Σ sᵢ² with
    the shares sᵢ, 1 / batch without weights. A ratio of estimates is biased: average tr(Σ) and
    |G|² of several batches with `noise_of` for a figure to rely on. Negative where noise hides the
    gradient, NaN for a single example.
    """

    def ratio(captures: Any, of: Array):
        trace, squared_gradient = noise_of(captures, of)
        return trace / squared_gradient

    return _of_captures("gradient_noise_scale", ratio, network, loss)


def second_moment_of(captures: Any, shares: Array) -> Any:
    """E[g²], element by element; see `gradient_second_moment`."""
    require_examples_apart("second_moment_of", captures)
    return map_captures(contractions.sum_of_squares, scaled(captures, jnp.sqrt(shares)))


def variance_of(captures: Any, shares: Array) -> Any:
    """E[(g − E g)²], element by element; see `gradient_variance`."""

    def variance(second: Array, mean: Array):
        return jnp.maximum(second - mean.astype(second.dtype) ** 2, 0)

    means = contract(scaled(captures, shares))
    return jax.tree.map(variance, second_moment_of(captures, shares), means)


def signal_to_noise_of(captures: Any, shares: Array) -> Any:
    """(E g)² / Var g, element by element; see `gradient_signal_to_noise`."""

    def ratio(variance: Array, mean: Array):
        return mean.astype(variance.dtype) ** 2 / variance

    means = contract(scaled(captures, shares))
    return jax.tree.map(ratio, variance_of(captures, shares), means)


def noise_of(captures: Any, shares: Array) -> tuple[Array, Array]:
    """tr(Σ) and |G|², estimated without bias; see `gradient_noise_scale`."""
    norms = squared_norms_of(captures)
    shares = shares.astype(norms.dtype)
    means = jax.tree.leaves(contract(scaled(captures, shares)))
    of_mean = sum(jnp.sum(mean.astype(sum_dtype(mean.dtype)) ** 2) for mean in means)
    concentration = jnp.sum(shares**2)
    trace = (jnp.sum(shares * norms) - of_mean) / (1 - concentration)
    return trace, of_mean - trace * concentration


def _of_captures(where: str, function: Callable, network: Layer, loss: Loss) -> Callable:
    run = backward_pass(network, loss)

    def compute(params, state, x, target, key=None, weights=None):
        result = run(params, state, x, target, key)
        require_weights(weights, result.values)
        captures = require_examples_apart(where, result.captures)
        return function(captures, shares(weights, result.values))

    return compute
