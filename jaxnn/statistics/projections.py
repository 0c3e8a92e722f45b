"""Random projections of gradients, of which no gradient is formed.

The gradient G_b = Σ_t a_bt d_btᵀ of a linear map is projected from both sides (Choe et al., 2024),

    φ_b = R_Aᵀ G_b R_B = Σ_t (R_Aᵀ a_bt) (R_Bᵀ d_bt)ᵀ

so that inputs and deltas are projected before they are contracted. With independent normal numbers
of variance 1 / k in R_A and R_B, E[⟨φ_b, φ_c⟩] = ⟨G_b, G_c⟩.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.captures import EmbeddingCapture, LinearCapture, StackedCapture
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.networks import plain
from jaxnn.core.validation import (
    require_key,
    require_positive,
    require_positive_integer,
    widened,
)
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics import contractions
from jaxnn.statistics.blocks import multiplied
from jaxnn.statistics.quantities import own_captures, quantity
from jaxnn.statistics.scores import MEMORY, block_size, numbered, require_data
from jaxnn.statistics.trees import weighted


@quantity
def projected_gradients(
    captures: Any, weights: Array | None = None, *, size: int, key: Array
) -> Array:
    """[batch, features], the projections φ_b of all parameters beside each other, in at least
    float32: random features whose products are those of the gradients in the mean.

    Of each linear map there are size², and of an embedding, which is one of one-hot vectors, as
    many (for each layer of a stack, and each group). Gradients of other parameters are projected
    as vectors onto size² numbers, or stand for themselves where there are no more of them.

    Args:
        captures: Of each example's own loss.
        weights: What each example's loss is multiplied by.
        size: k, the columns of R_A and of R_B.
        key: For R_A and R_B. Features of one key can be compared.

    Raises:
        ValueError: ``size`` is less than 1.
    """
    require_positive_integer("projected_gradients", "size", size)
    require_key("projected_gradients", key)
    nodes = jax.tree.leaves(
        weighted(captures, weights), is_leaf=lambda node: isinstance(node, Capture)
    )
    features = [
        _projected(capture, size, jax.random.fold_in(key, index))
        for index, capture in enumerate(nodes)
    ]
    if not features:
        raise ValueError("projected_gradients: expected a network with parameters, got one without")
    return jnp.concatenate(features, 1)


def trak(
    network: Layer, loss: Loss, *, size: int, damping: float, memory: int = MEMORY
) -> Callable[..., np.ndarray]:
    """(params, state, queries, training, key, network_key=None) -> [queries, training],
    −φ_qᵀ (E[φ φᵀ] + λ I)⁻¹ φ_b.

    `influence_scores` with the empirical Fisher matrix in the space of random features, which are
    those of `projected_gradients` by ``key`` (TRAK of Park et al., 2023, with the gradients of the
    loss, which hold its factor 1 − p). All features of both sides are held, and the Gram matrix of
    features. Means over several keys, and over several trained networks, are less noisy.

    Args:
        network: The network; one with batch norm or dropout, `in_inference_mode`.
        loss: The loss.
        size: k; a linear map has k² features.
        damping: λ, more than 0.
        memory: About how many bytes the arrays between data and features may take.

    Raises:
        ValueError: an option is out of range, or as `influence_scores`.
    """
    require_positive_integer("trak", "size", size)
    require_positive("trak", "damping", damping)
    require_positive_integer("trak", "memory", memory)
    run = own_captures("trak", plain(network), loss)

    @jax.jit
    def features(params, state, x, target, network_key, key):
        captures = run(params, state, x, target, network_key)
        return projected_gradients.of(captures, size=size, key=key)

    @jax.jit
    def score(asked: Array, learnt: Array):
        gram = learnt.T @ learnt / learnt.shape[0]
        damped = gram + damping * jnp.eye(gram.shape[0], dtype=gram.dtype)
        return -jax.scipy.linalg.solve(damped, asked.T, assume_a="pos").T @ learnt.T

    def compute(params, state, queries, training, key, network_key=None):
        require_key("trak", key)

        def of_all(name: str, data: tuple) -> Array:
            count = require_data(name, data)
            block = block_size(run, params, state, data, network_key, memory)
            parts = (
                features(params, state, *part, network_key, key)[: rows.stop - rows.start]
                for rows, part in numbered(data, min(block, count))
            )
            return jnp.concatenate(list(parts))

        return np.asarray(score(of_all("queries", queries), of_all("training", training)))

    return compute


def _projected(capture: Any, size: int, key: Array) -> Array:
    """[batch, features]."""
    if isinstance(capture, StackedCapture):
        keys = jax.random.split(key, jax.tree.leaves(capture)[0].shape[0])
        each = jax.vmap(lambda inner, own: _projected(inner, size, own))(capture.capture, keys)
        return jnp.moveaxis(each, 0, 1).reshape(each.shape[1], -1)
    gradients = jax.eval_shape(lambda c: c.gradient(), capture)
    dtype = sum_dtype(jax.tree.leaves(gradients)[0].dtype)
    left, right = jax.random.split(key)

    def normal(key: Array, rows: int, columns: int) -> Array:
        return jax.random.normal(key, (rows, columns), dtype) / math.sqrt(columns)

    linear = jax.eval_shape(lambda c: c.linear(), capture)
    if isinstance(linear, StackedCapture):
        return _projected(capture.linear(), size, key)
    if isinstance(linear, LinearCapture):
        inputs = linear.inputs.shape[-1] + linear.use_bias
        outer = normal(left, inputs, size), normal(right, linear.deltas.shape[-1], size)
        small = multiplied(capture, *outer)
    elif isinstance(capture, EmbeddingCapture):
        rows = normal(left, capture.vocabulary, size)
        ids = widened(capture.ids)
        known = (ids >= 0) & (ids < capture.vocabulary)
        entered = jnp.where(known[..., None], rows[jnp.where(known, ids, 0)], 0)
        deltas = capture.deltas.astype(dtype)
        small = LinearCapture(
            entered, deltas @ normal(right, deltas.shape[-1], size), use_bias=False
        )
    else:
        own = contractions.per_example(capture)
        flat = [g.reshape(g.shape[0], -1).astype(dtype) for g in jax.tree.leaves(own)]
        vectors = jnp.concatenate(flat, 1)
        if vectors.shape[1] <= size**2:
            return vectors
        return vectors @ normal(left, vectors.shape[1], size**2)
    products = contractions.per_example(small)["weight"]
    return products.reshape(products.shape[0], -1)
