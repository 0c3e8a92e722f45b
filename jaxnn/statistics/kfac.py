"""K-FAC: a block of the Gauss-Newton matrix approximated by a Kronecker product.

With one position, the block of y = x W + b is E[(a aᵀ) ⊗ (δ δᵀ)], a = (x, 1) and δ = Jᵀ S; K-FAC
takes the product of the means, E[a aᵀ] ⊗ E[δ δᵀ] (Martens and Grosse, 2015). Where the same W acts
at R positions there are two ways (Eschenhagen et al., 2023):

    expand: positions count as examples    E[(1/R) Σ_r a_r a_rᵀ] ⊗ E[Σ_r δ_r δ_rᵀ]
    reduce: an example is the mean of its  E[ā āᵀ] ⊗ E[δ̂ δ̂ᵀ],  ā = (1/R) Σ_r a_r,  δ̂ = Σ_r δ_r
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import StackedCapture, map_captures
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.validation import unknown_name
from jaxnn.kernels.products import rows_of, sum_dtype
from jaxnn.kernels.sums import sum_examples
from jaxnn.statistics.choosing import linear_bytes
from jaxnn.statistics.columns import ColumnsCapture, hessian_root_captures, over_columns
from jaxnn.statistics.quantities import quantity
from jaxnn.statistics.trees import shares_of


def _roots(
    where: str, network: Layer, loss: Loss, *, samples: int | None = 1, positions: str = "expand"
) -> Callable:
    if positions not in _POSITIONS:
        raise ValueError(f"{where}: {unknown_name('positions', positions, _POSITIONS)}")
    return hessian_root_captures(where, network, loss, samples=samples)


@quantity(captures_of=_roots)
def kfac_factors(captures: Any, weights: Array | None = None, *, positions: str = "expand") -> Any:
    """The factors, in the tree of captures.

    For each dict of parameters {"inputs": A [in + 1, in + 1], "deltas": B [out, out]}, with
    kron(A, B) for the block of ``weight`` and ``bias`` stacked as [in + 1, out] and read row by
    row; A is [in, in] without a bias. A convolution is the linear map of its patches, taps in
    row-major order, with an axis of groups before both factors where it has some; what `repeat`
    stacks is stacked here. None where the parameters are not those of a linear map (normalisation,
    embedding). In at least float32.

    By the option ``samples`` so many random combinations of the columns of S estimate B, 1 unless
    given; it needs a key. None is for the exact B, for which an example has as many columns as
    outputs.

    Args:
        captures: Of the columns of a root of each example's loss Hessian.
        weights: What each example counts in the means.
        positions: "expand" or "reduce"; see the head of this file.

    Raises:
        ValueError: ``positions`` is unknown, or the loss has no ``hessian_root``; see also
            `per_example_gradients`.
    """
    shares = shares_of(captures, weights)
    return map_captures(lambda c: _factors(c, shares, _POSITIONS[positions]), captures)


def _factors(capture: Any, shares: Array, gather: Callable) -> dict[str, Array] | None:
    if isinstance(capture, StackedCapture):
        return jax.vmap(lambda inner: _factors(inner, shares, gather))(capture.capture)
    if isinstance(capture, ColumnsCapture):
        # The inputs are those of every column; of the deltas' factor, columns add up.
        mapped = over_columns(lambda inner: _factors(inner, shares, gather))(capture)
        return mapped and {"inputs": mapped["inputs"][0], "deltas": jnp.sum(mapped["deltas"], 0)}
    if jax.eval_shape(lambda c: c.linear(), capture) is None:
        return None

    def of_examples(part: Any, shares: Array) -> dict[str, Array]:
        return _linear_factors(part.linear(), shares, gather)

    return sum_examples(of_examples, linear_bytes(capture), capture, shares)


def _linear_factors(linear: Any, shares: Array, gather: Callable) -> dict[str, Array]:
    if isinstance(linear, StackedCapture):
        return jax.vmap(lambda inner: _linear_factors(inner, shares, gather))(linear.capture)
    dtype = sum_dtype(linear.deltas.dtype)
    inputs, deltas = gather(*(a.astype(dtype) for a in (linear.inputs, linear.deltas)))
    if linear.use_bias:
        # The constant 1 is the input of the bias.
        inputs = jnp.concatenate([inputs, jnp.ones((*inputs.shape[:-1], 1), dtype)], -1)
    root = jnp.sqrt(shares)[:, None, None].astype(dtype)
    per_position = root / max(inputs.shape[1], 1) ** 0.5
    return {"inputs": _self_product(per_position * inputs), "deltas": _self_product(root * deltas)}


def _expand(inputs: Array, deltas: Array) -> tuple[Array, Array]:
    return inputs, deltas


def _reduce(inputs: Array, deltas: Array) -> tuple[Array, Array]:
    return jnp.mean(inputs, 1, keepdims=True), jnp.sum(deltas, 1, keepdims=True)


_POSITIONS: dict[str, Callable] = {"expand": _expand, "reduce": _reduce}


def _self_product(a: Array) -> Array:
    rows = rows_of(a)
    return rows.T @ rows
