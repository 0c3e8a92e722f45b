"""The Laplace approximation: a normal distribution of the parameters around those that were found.

With the loss −log p(t | x, θ) of each of N examples (divided by the variance σ² of the noise for
½ Σ (y − t)²) and the prior N(0, 1 / δ), the negative log posterior has at its minimum θ the Hessian

    H = N C / σ² + δ I

with the Gauss-Newton matrix C of the mean loss in the place of its Hessian. The posterior is then
N(θ, H⁻¹), and the evidence (MacKay, 1992)

    log Z = −Σ_i l_i + ½ P log δ − ½ δ ‖θ‖² − ½ log det H

with P parameters. Predictions go through the network that is linear in θ, whose Gauss-Newton
matrix C is exact (Immer et al., 2021): f(x) is normal with the covariance J H⁻¹ Jᵀ.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.captures import in_params
from jaxnn.core.combinators import serial
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import of_present, weighted_mean
from jaxnn.core.networks import in_inference_mode, plain
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.validation import (
    brief,
    known_values,
    require_key,
    require_positive,
    require_positive_integer,
    unknown_name,
)
from jaxnn.losses.classification import softmax_cross_entropy
from jaxnn.losses.elementwise import half_squared_error, sigmoid_binary_cross_entropy
from jaxnn.statistics import contractions
from jaxnn.statistics.columns import over_columns_of, pull_back, unit_columns
from jaxnn.statistics.gauss_newton import fisher_information
from jaxnn.statistics.kronecker import diagonal_curvature, kronecker
from jaxnn.statistics.over_batches import over_batches, total_weight
from jaxnn.statistics.trees import widened

STATIC = {"static": True}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """A symmetric matrix over all parameters by its eigenvectors, for small networks: it does what
    `Laplace` asks of a `Kronecker` operator."""

    values: Any  # [parameters]
    vectors: Any  # [parameters, parameters], in the order of ravel_pytree

    def map(self, function: Callable) -> "Dense":
        """f of the eigenvalues."""
        return dataclasses.replace(self, values=function(self.values))

    def eigenvalues(self) -> Array:
        """[parameters]."""
        return self.values

    def eigh(self) -> "Dense":
        """Itself."""
        return self

    def matvec(self, vector: Any) -> Any:
        """The product with a vector in the tree of the parameters."""
        flat, unravel = ravel_pytree(vector)
        return unravel(self.vectors @ (self.values * (self.vectors.T @ flat)))

    def quadratic(self, columns: Any) -> Array:
        """[batch, columns, columns], J C Jᵀ for the columns' gradients J of each example."""
        gradients = over_columns_of(contractions.per_example, columns)
        tree = in_params(gradients, leading=2)
        rows = jax.vmap(jax.vmap(lambda own: ravel_pytree(own)[0]))(tree) @ self.vectors
        return jnp.einsum("p,kbp,lbp->bkl", self.values, rows, rows)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace:
    """N(θ, H⁻¹) of the parameters, made by `laplace`: a pytree, which may go into `jax.jit`."""

    network: Layer = dataclasses.field(metadata=STATIC)
    loss: Loss = dataclasses.field(metadata=STATIC)
    first: int | None = dataclasses.field(metadata=STATIC)
    """The part of the network from which on parameters are random; None where all are."""
    outputs: int = dataclasses.field(metadata=STATIC)
    params: Any
    """θ, of the whole network."""
    state: Any
    curvature: Any
    """N C, of the parameters that are random, in its eigenbasis."""
    log_likelihood: Any
    """−Σ_i l_i, with σ = 1 and without constants."""
    count: Any
    """N, the sum of weights."""
    prior_precision: Any
    """δ."""
    noise: Any
    """σ², of ½ Σ (y − t)²; 1 of other losses."""

    def with_prior(self, precision: Any) -> "Laplace":
        """With another δ.

        Raises:
            ValueError: it is not above 0.
        """
        return dataclasses.replace(self, prior_precision=_positive("prior_precision", precision))

    def log_marginal_likelihood(self, prior_precision: Any = None) -> Array:
        """log Z, for the δ of this posterior unless another is given; differentiable by it."""
        precision = self.prior_precision if prior_precision is None else prior_precision
        values = self.curvature.eigenvalues() / self.noise
        squared_norm = sum(jnp.sum(p**2) for p in jax.tree.leaves(widened(self._random()[1])))
        data = self.log_likelihood / self.noise
        if isinstance(self.loss, half_squared_error):
            data -= 0.5 * self.count * self.outputs * jnp.log(2 * math.pi * self.noise)
        prior = 0.5 * (values.size * jnp.log(precision) - precision * squared_norm)
        return data + prior - 0.5 * jnp.sum(jnp.log(values + precision))

    def maximized(self, low: float = 1e-6, high: float = 1e6) -> "Laplace":
        """With the δ in [low, high] of the largest log Z: by a grid of its logarithm, then golden
        section between the neighbours of the best.

        Raises:
            ValueError: the bounds are not positive and in this order.
        """
        require_positive("Laplace.maximized", "low", low)
        if not high > low:
            raise ValueError(f"Laplace.maximized: expected high above low={low:g}, got {high:g}")
        evidence = jax.jit(lambda log: self.log_marginal_likelihood(jnp.exp(log)))
        grid = jnp.linspace(math.log(low), math.log(high), 49)
        best = int(jnp.argmax(jax.lax.map(evidence, grid)))
        a, b = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 48)])
        ratio = (math.sqrt(5) - 1) / 2
        for _ in range(40):
            c, d = b - ratio * (b - a), a + ratio * (b - a)
            a, b = (a, d) if evidence(c) > evidence(d) else (c, b)
        return self.with_prior(math.exp((a + b) / 2))

    def validated(self, x: Any, target: Any, grid: Sequence[float]) -> "Laplace":
        """With the δ of ``grid`` whose predictions have the smallest mean loss on (x, target): of
        probabilities by probit, of numbers the negative log-likelihood.

        Raises:
            ValueError: the grid is empty, or one of it is not above 0.
        """
        grid = list(grid)
        if not grid:
            raise ValueError("Laplace.validated: expected at least one precision in grid, got none")
        posteriors = [self.with_prior(precision) for precision in grid]
        losses = [float(posterior.loss_of(x, target)) for posterior in posteriors]
        return posteriors[losses.index(min(losses))]

    def loss_of(self, x: Any, target: Any) -> Array:
        """The mean negative log-likelihood of predictions, of classes by probit.

        Raises:
            ValueError: as the loss, where the target does not fit.
        """
        if isinstance(self.loss, half_squared_error):
            mean, covariance = self.predict(x)
            jax.eval_shape(self.loss.value, mean, target)
            variance = jnp.diagonal(covariance, axis1=1, axis2=2) + self.noise
            logs = (target - mean) ** 2 / variance + jnp.log(2 * math.pi * variance)
            return jnp.mean(jnp.sum(logs, -1)) / 2
        return jnp.mean(self.loss.value(self._moderated(*self.predict(x)), target))

    def predict(self, x: Any) -> tuple[Array, Array]:
        """(f [batch, outputs], its covariance J H⁻¹ Jᵀ [batch, outputs, outputs]).

        Those of the network's output without noise: the variance of a target is σ² more. The
        columns of all outputs are held at once; take a large batch in parts.
        """
        head, params, state = self._head()
        x = self._entering(x)
        prediction, _, residuals = head.forward(params, state, x, None)
        columns = pull_back("Laplace", head, params, residuals, unit_columns(prediction))
        return prediction, self._covariance().quadratic(columns)

    def probabilities(
        self, x: Any, *, samples: int | None = None, key: Array | None = None
    ) -> Array:
        """[batch, classes], or of labels by themselves [batch, labels], in the mean over f.

        Args:
            x: Inputs.
            samples: From so many draws of f; None for the probit approximation: the logits divided
                by √(1 + π v / 8) with their variances v (MacKay, 1992).
            key: For ``samples``.

        Raises:
            ValueError: the loss is not one of probabilities, or a key is missing.
        """
        if isinstance(self.loss, half_squared_error):
            raise ValueError(
                "Laplace.probabilities: expected a loss of classes, got half_squared_error; its "
                "predictions are numbers, whose mean and variance predict gives"
            )
        mean, covariance = self.predict(x)
        is_softmax = isinstance(self.loss, softmax_cross_entropy)
        decide = jax.nn.softmax if is_softmax else jax.nn.sigmoid
        if samples is None:
            return decide(self._moderated(mean, covariance))
        require_positive_integer("Laplace.probabilities", "samples", samples)
        key = require_key("Laplace.probabilities", key)
        values, vectors = jnp.linalg.eigh(covariance)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]

        def one(key: Array) -> Array:
            noise = jax.random.normal(key, mean.shape, mean.dtype)
            return decide(mean + jnp.einsum("bkl,bl->bk", root, noise))

        return jnp.mean(jax.lax.map(one, jax.random.split(key, samples)), 0)

    def sample(self, key: Array) -> Any:
        """Parameters of the whole network, drawn from the posterior."""
        _, random = self._random()
        leaves, treedef = jax.tree.flatten(random)
        keys = jax.random.split(require_key("Laplace.sample", key), len(leaves))
        noise = treedef.unflatten(
            jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)
        )
        root = self._covariance().map(jnp.sqrt)
        drawn = jax.tree.map(jnp.add, random, root.matvec(noise))
        if self.first is None:
            return drawn
        parts = (*self.network.of_parts(self.params)[: self.first], *drawn)
        return jax.tree.unflatten(jax.tree.structure(self.params), jax.tree.leaves(parts))

    def _covariance(self) -> Any:
        """H⁻¹."""
        return self.curvature.map(lambda v: 1 / (v / self.noise + self.prior_precision))

    def _moderated(self, mean: Array, covariance: Array) -> Array:
        variances = jnp.diagonal(covariance, axis1=1, axis2=2)
        return mean / jnp.sqrt(1 + math.pi / 8 * variances)

    def _random(self) -> tuple[Layer, Any]:
        head, params, _ = self._head()
        return head, params

    def _head(self) -> tuple[Layer, Any, Any]:
        return _head(self.network, self.first, self.params, self.state)

    def _entering(self, x: Any) -> Any:
        return _entering(self.network, self.first, self.params, self.state, x)


CURVATURES: dict[str, Callable] = {
    "kronecker": kronecker,
    "diagonal": diagonal_curvature,
    "full": fisher_information,
}


def laplace(
    network: Layer, loss: Loss, *, curvature: str = "kronecker", last_layer: bool = False
) -> Callable[..., Laplace]:
    """(params, state, batches, *, prior_precision=1.0, noise=1.0) -> `Laplace`.

        posterior = laplace(network, loss)(params, state, blocks(x, target, 500)).maximized()
        probabilities = posterior.probabilities(x_test)

    ``batches`` are (x, target) or (x, target, weights), as of `over_batches`, and the network is
    taken in inference mode.

    Args:
        network: The network; its prediction is [batch, outputs].
        loss: softmax_cross_entropy, sigmoid_binary_cross_entropy or half_squared_error, which are
            negative log-likelihoods; the average over outputs that the second takes is undone.
        curvature: "kronecker", "diagonal", or for small networks "full".
        last_layer: Whether the parameters of the last layer that has some are random, and no
            others; ``network`` is then a `serial`.

    Raises:
        ValueError: the loss or the curvature is none of these; the network is no `serial` where
            ``last_layer`` is set; a precision or a noise is not above 0; a noise is given to a loss
            without any.
    """
    losses = (softmax_cross_entropy, sigmoid_binary_cross_entropy, half_squared_error)
    if not isinstance(loss, losses):
        raise ValueError(
            "laplace: expected a loss that is a negative log-likelihood, softmax_cross_entropy, "
            f"sigmoid_binary_cross_entropy or half_squared_error, got {brief(loss)}"
        )
    if curvature not in CURVATURES:
        raise ValueError(f"laplace: {unknown_name('curvature', curvature, CURVATURES)}")
    if last_layer and not isinstance(network, serial):
        raise ValueError(
            f"laplace: expected a serial network with last_layer=True, got {network.name}"
        )
    network = in_inference_mode(plain(network))

    def fit(params, state, batches: Iterable, *, prior_precision: Any = 1.0, noise: Any = 1.0):
        if not isinstance(loss, half_squared_error) and noise != 1:
            raise ValueError(
                f"laplace: expected noise=1 with {loss.name}, which has none, got {noise}"
            )
        first = _first_random(network, params) if last_layer else None
        precision, variance = (
            _positive(name, value)
            for name, value in (("prior_precision", prior_precision), ("noise", noise))
        )
        head, *_ = _head(network, first, params, state)
        compute = CURVATURES[curvature](head, loss)
        total, outputs = 0.0, 0

        def counted():
            nonlocal total, outputs
            for x, target, *rest in batches:
                prediction = jax.eval_shape(network.predict, params, state, x)
                _require_rows(prediction)
                outputs = prediction.shape[1]
                total += total_weight("laplace", x, rest[0] if rest else None)
                yield x, target, *rest

        def both(params, state, x, target, key, weights):
            x = _entering(network, first, params, state, x)
            _, own, own_state = _head(network, first, params, state)
            values = widened(loss.value(head.predict(own, own_state, x), target))
            mean = weighted_mean(of_present(weights, values), weights)
            return compute(own, own_state, x, target, None, weights), mean

        matrix, mean_loss = over_batches(both)(params, state, counted())
        # Of a loss that is a mean over outputs, the log-likelihood is the sum.
        each = outputs if isinstance(loss, sigmoid_binary_cross_entropy) else 1
        eigen = _in_eigenbasis(matrix).map(lambda values: values * total * each)
        dtype = mean_loss.dtype
        return Laplace(
            network=network,
            loss=loss,
            first=first,
            outputs=outputs,
            params=params,
            state=state,
            curvature=eigen,
            log_likelihood=-mean_loss * total * each,
            count=jnp.asarray(total, dtype),
            prior_precision=jnp.asarray(precision, dtype),
            noise=jnp.asarray(variance, dtype),
        )

    return fit


@jax.jit
def _in_eigenbasis(matrix: Any) -> Any:
    if not isinstance(matrix, jax.Array):
        return matrix.eigh()
    values, vectors = jnp.linalg.eigh(matrix)
    return Dense(jnp.maximum(values, 0), vectors)


def _first_random(network: Layer, params: Any) -> int:
    own = network.of_parts(params)
    found = [index for index, part in enumerate(own) if jax.tree.leaves(part)]
    if not found:
        raise ValueError("laplace: expected a network with parameters, got one without")
    return found[-1]


def _head(network: Layer, first: int | None, params: Any, state: Any) -> tuple[Layer, Any, Any]:
    """The layers whose parameters are random, with those and their state."""
    if first is None:
        return network, params, state
    params, state = (tuple(network.of_parts(tree)[first:]) for tree in (params, state))
    return serial(*network.parts[first:]), params, state


def _entering(network: Layer, first: int | None, params: Any, state: Any, x: Any) -> Any:
    """What enters them."""
    if not first:
        return x
    params, state = (tuple(network.of_parts(tree)[:first]) for tree in (params, state))
    return serial(*network.parts[:first]).predict(params, state, x)


def _require_rows(prediction: Any) -> None:
    shape = getattr(prediction, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(
            f"laplace: expected a prediction of shape [batch, outputs], got {brief(prediction)}"
        )


def _positive(name: str, value: Any) -> Any:
    if isinstance(value, jax.Array):
        known = known_values(value)
        if known is not None and not known > 0:
            raise ValueError(f"laplace: expected {name} to lie above 0, got {known}")
        return value
    return require_positive("laplace", name, value)
