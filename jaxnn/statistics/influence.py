"""Which training examples made a prediction what it is."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import in_dtypes_of
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.networks import plain
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.validation import (
    batch_size,
    require_number,
    require_positive,
    require_positive_integer,
)
from jaxnn.kernels.chunks import sum_chunks
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics.examples import per_example_gradients, products_with
from jaxnn.statistics.gauss_newton import ggn_vector_product
from jaxnn.statistics.quantities import own_captures
from jaxnn.statistics.trees import widened

STATIC = {"static": True}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class GgnInverse:
    """(G + λ I)⁻¹ of the Gauss-Newton matrix G of the mean loss of (x, target), by conjugate
    gradients, in which G is a `ggn_vector_product`: nothing is formed. A pytree, which may go into
    `jax.jit`.

    Args:
        network: The network.
        loss: The loss.
        params: The parameters.
        state: The state.
        x: Inputs.
        target: Their targets.
        key: For a network that is random.
        weights: What each example counts in the mean.
        damping: λ, more than 0.
        tolerance: Of the residual, relative to the vector.
        iterations: The largest number of them.
        block: How many examples a product takes at a time; all of them unless given.

    Raises:
        ValueError: an option is out of range.
    """

    network: Layer = dataclasses.field(metadata=STATIC)
    loss: Loss = dataclasses.field(metadata=STATIC)
    params: Any
    state: Any
    x: Any
    target: Any
    key: Any = None
    weights: Any = None
    damping: float = dataclasses.field(kw_only=True, metadata=STATIC)
    tolerance: float = dataclasses.field(default=1e-5, kw_only=True, metadata=STATIC)
    iterations: int = dataclasses.field(default=100, kw_only=True, metadata=STATIC)
    block: int | None = dataclasses.field(default=None, kw_only=True, metadata=STATIC)

    def __post_init__(self):
        _require_options("GgnInverse", self.damping, self.tolerance, self.iterations)
        if self.block is not None:
            require_positive_integer("GgnInverse", "block", self.block)

    def matvec(self, vector: Any) -> Any:
        """(G + λ I)⁻¹ v, for v in the tree of the parameters."""
        # Half precision ends the iteration early: its residuals are those of rounding.
        solve, wide = jax.scipy.sparse.linalg.cg, widened(vector)
        found, _ = solve(self._damped, wide, tol=self.tolerance, maxiter=self.iterations)
        return in_dtypes_of(vector, found)

    __matmul__ = matvec

    def _damped(self, vector: Any) -> Any:
        product = ggn_vector_product(self.network, self.loss)
        along = in_dtypes_of(self.params, vector)
        count = batch_size("GgnInverse", self.x)
        weights = self._ones() if self.weights is None else self.weights
        wide = sum_dtype(weights.dtype)
        total = jnp.sum(weights, dtype=wide)

        def of_block(x: Any, target: Any, weights: Array) -> Any:
            # Where a block holds nothing, its mean is that of nothing.
            own = jnp.sum(weights, dtype=wide)
            some = jnp.where(own > 0, weights, jnp.ones_like(weights))
            part = product(along, self.params, self.state, x, target, self.key, some)
            return jax.tree.map(lambda p: p * (own / total).astype(p.dtype), widened(part))

        blocks = 1 if self.block is None else -(-count // self.block)
        leaves, treedef = jax.tree.flatten((self.x, self.target, weights))
        mean = sum_chunks(lambda *part: of_block(*treedef.unflatten(part)), blocks, *leaves)
        return jax.tree.map(lambda p, v: p + self.damping * v, mean, vector)

    def _ones(self) -> Array:
        """A weight for each example, in the dtype of its loss."""

        def losses(params: Any, state: Any, x: Any, target: Any) -> Array:
            prediction = self.network.forward(params, state, x, self.key)[0]
            return self.loss.value(prediction, target)

        values = jax.eval_shape(losses, self.params, self.state, self.x, self.target)
        return jnp.ones(values.shape, values.dtype)


def _require_options(where: str, damping: float, tolerance: float, iterations: int) -> None:
    require_positive(where, "damping", damping)
    require_number(where, "tolerance", tolerance, minimum=0)
    require_positive_integer(where, "iterations", iterations)


def influence(
    network: Layer,
    loss: Loss,
    *,
    damping: float,
    tolerance: float = 1e-5,
    iterations: int = 100,
) -> Callable[..., Array]:
    """(params, state, x, target, queries, query_target, key=None, weights=None)
    -> [queries, batch], −∂l_qᵀ (G + λ I)⁻¹ ∂l_b.

    How fast the loss of query q changes as the weight of training example b grows in the mean loss
    whose minimum is at params (Koh and Liang, 2017): negative where b helps q, 0 for a b of weight
    0, which is not there. G, the Gauss-Newton matrix of the (weighted) training batch, stands for
    the Hessian, which away from the minimum is not positive definite (Bae et al., 2022). Each query
    takes one solution by conjugate gradients, in which G is a `ggn_vector_product`; no gradient of
    a training example is formed.

    Args:
        network: The network; one with batch norm or dropout, `in_inference_mode`.
        loss: The loss, of training examples and queries alike.
        damping: λ, more than 0: by how much the parameters are held to where they are.
        tolerance: Of the residual of the linear systems, relative to ∂l_q.
        iterations: The largest number of them for a query.

    Raises:
        ValueError: an option is out of range; see also `per_example_gradients`.
    """
    inverse = partial(
        GgnInverse,
        network,
        loss,
        damping=damping,
        tolerance=tolerance,
        iterations=iterations,
    )
    _require_options("influence", damping, tolerance, iterations)
    run = own_captures("influence", plain(network), loss)

    def compute(params, state, x, target, queries, query_target, key=None, weights=None):
        training = run(params, state, x, target, key, weights)
        asked = run(params, state, queries, query_target, key)
        solve = inverse(params, state, x, target, key, weights).matvec

        def of_query(gradient: Any):
            solution = solve(gradient)
            products = -products_with(training, solution)
            return products if weights is None else jnp.where(weights == 0, 0, products)

        return jax.lax.map(of_query, per_example_gradients.of(asked))

    return compute
