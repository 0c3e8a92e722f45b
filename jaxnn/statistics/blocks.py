"""Blocks of a curvature matrix, each of the parameters of one capture.

The parameters of a linear map are one matrix V [in + 1, out], the bias its last row, and its block
is a Kronecker product, as two factors or in their eigenbasis:

    (A ⊗ B) V = A V B                                    with symmetric A and B
    (U_A ⊗ U_B) diag(Λ) (U_A ⊗ U_B)ᵀ V = U_A (Λ ∘ (U_Aᵀ V U_B)) U_Bᵀ

The first is the second with Λ = a bᵀ, the products of eigenvalues. Of all other parameters the
block is a diagonal. Axes before the last two, of groups or of stacked layers, are as many blocks.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import StackedCapture
from jaxnn.core.pytrees import register_dataclass, static
from jaxnn.kernels.products import add_all
from jaxnn.kernels.sums import sum_examples
from jaxnn.statistics import contractions
from jaxnn.statistics.choosing import linear_bytes, positions_of
from jaxnn.statistics.columns import ColumnsCapture, over_columns
from jaxnn.statistics.trees import widened


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """A ⊗ B."""

    inputs: Any  # A [..., m, m]
    deltas: Any  # B [..., n, n]
    use_bias: bool = static(default=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of V, [..., m, n]."""
        return (*self.inputs.shape[:-1], self.deltas.shape[-1])

    def apply(self, matrix: Array) -> Array:
        """A V B."""
        return self.inputs @ matrix @ self.deltas

    def trace(self) -> Array:
        """tr A · tr B, over all blocks."""
        return jnp.sum(_trace(self.inputs) * _trace(self.deltas))

    def diagonal(self) -> Array:
        """diag(A) diag(B)ᵀ."""
        a, b = (jnp.diagonal(f, axis1=-2, axis2=-1) for f in (self.inputs, self.deltas))
        return a[..., :, None] * b[..., None, :]

    def scaled(self, factor: Any) -> "Factors":
        """Times a number, with which A is multiplied."""
        return dataclasses.replace(self, inputs=self.inputs * factor)

    def eigh(self) -> "Eigenbasis":
        """In the basis of eigenvectors of A and of B; what rounding leaves below 0 is 0."""
        (a, u), (b, v) = (jnp.linalg.eigh(f) for f in (self.inputs, self.deltas))
        a, b = jnp.maximum(a, 0), jnp.maximum(b, 0)
        return Eigenbasis(u, v, a[..., :, None] * b[..., None, :], self.use_bias)

    def inverse(self, damping: Any) -> "Factors":
        """(A + π √λ I)⁻¹ ⊗ (B + √λ / π I)⁻¹ with π² = (tr A / m) / (tr B / n)."""
        a, b = (_trace(f) / f.shape[-1] for f in (self.inputs, self.deltas))
        # A factor of zeros, of a layer that nothing reaches, says nothing about the other's scale.
        pi = jnp.sqrt(jnp.where((a > 0) & (b > 0), a / jnp.where(b > 0, b, 1), 1))
        root = math.sqrt(damping) if isinstance(damping, int | float) else jnp.sqrt(damping)
        inputs, deltas = _inverse(self.inputs, root * pi), _inverse(self.deltas, root / pi)
        return dataclasses.replace(self, inputs=inputs, deltas=deltas)

    def quadratic(self, columns: Any) -> Array:
        """See `Eigenbasis.quadratic`."""
        return self.eigh().quadratic(columns)

    def corrected(self, capture: Any, root_shares: Array) -> "Eigenbasis":
        """See `Eigenbasis.corrected`."""
        return self.eigh().corrected(capture, root_shares)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Eigenbasis:
    """(U_A ⊗ U_B) diag(Λ) (U_A ⊗ U_B)ᵀ."""

    inputs: Any  # U_A [..., m, m]
    deltas: Any  # U_B [..., n, n]
    values: Any  # Λ [..., m, n]
    use_bias: bool = static(default=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of V, [..., m, n]."""
        return self.values.shape

    def apply(self, matrix: Array) -> Array:
        """U_A (Λ ∘ (U_Aᵀ V U_B)) U_Bᵀ."""
        return self.turned_back(self.values * (_t(self.inputs) @ matrix @ self.deltas))

    def turned_back(self, matrix: Array) -> Array:
        """U_A V U_Bᵀ."""
        return self.inputs @ matrix @ _t(self.deltas)

    def trace(self) -> Array:
        """Σ Λ."""
        return jnp.sum(self.values)

    def diagonal(self) -> Array:
        """(U_A ∘ U_A) Λ (U_B ∘ U_B)ᵀ."""
        return self.inputs**2 @ self.values @ _t(self.deltas**2)

    def scaled(self, factor: Any) -> "Eigenbasis":
        """Times a number."""
        return self.map(lambda values: values * factor)

    def eigh(self) -> "Eigenbasis":
        """Itself."""
        return self

    def map(self, function: Callable) -> "Eigenbasis":
        """The function of the matrix: that of its eigenvalues."""
        return dataclasses.replace(self, values=function(self.values))

    def quadratic(self, columns: Any) -> Array:
        """[batch, columns, columns], J C Jᵀ for the columns' gradients J of each example."""
        turned_columns = turned(widened(columns), self)
        return contractions.weighted_products(turned_columns, {"weight": self.values})

    def corrected(self, capture: Any, root_shares: Array) -> "Eigenbasis":
        """With Λ = Σ_b s_b (U_Aᵀ G_b U_B)², element by element, of the examples' gradients G_b.

        Inputs and deltas are turned, and the sum of squares is that of the turned capture: no
        gradient is turned, nor formed where a capture has one position.
        """
        return dataclasses.replace(self, values=_squares(capture, self, root_shares))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Diagonal:
    """diag(Λ), of parameters that are not those of a linear map."""

    values: Any  # a dict of arrays like the parameters

    def apply(self, parameters: Any) -> Any:
        """Λ ∘ V."""
        return jax.tree.map(jnp.multiply, self.values, parameters)

    def trace(self) -> Array:
        """Σ Λ."""
        return add_all(*map(jnp.sum, jax.tree.leaves(self.values)))

    def diagonal(self) -> Any:
        """Λ."""
        return self.values

    def scaled(self, factor: Any) -> "Diagonal":
        """Times a number."""
        return self.map(lambda values: values * factor)

    def eigh(self) -> "Diagonal":
        """Itself."""
        return self

    def map(self, function: Callable) -> "Diagonal":
        """The function of the matrix: that of its diagonal."""
        return Diagonal(jax.tree.map(function, self.values))

    def inverse(self, damping: Any) -> "Diagonal":
        """1 / (Λ + λ)."""
        return self.map(lambda values: 1 / (values + damping))

    def quadratic(self, columns: Any) -> Array:
        """[batch, columns, columns], J C Jᵀ for the columns' gradients J of each example."""
        return contractions.weighted_products(columns, self.values)

    def corrected(self, capture: Any, root_shares: Array) -> "Diagonal":
        """The second moments of the gradients in ``capture``."""
        return diagonal_of(capture, root_shares)


def diagonal_of(capture: Any, root_shares: Array) -> Diagonal:
    """Of Σ_b s_b G_b G_bᵀ, for the roots √s_b [batch] of what each example counts."""
    return Diagonal(contractions.sum_of_squares(_shared(capture, root_shares)))


def to_matrix(capture: Any, block: Any, parameters: dict[str, Array]) -> Any:
    """The parameters of a capture as its block takes them, in at least the block's dtype."""
    if isinstance(block, Diagonal):
        return jax.tree.map(lambda p, v: p.astype(v.dtype), parameters, block.values)
    dtype = block.deltas.dtype
    # Folding only moves elements, so that its transpose is its inverse.
    fold = _folding(capture, block)
    wide = jax.tree.map(lambda p: p.astype(dtype), parameters)
    (matrix,) = jax.linear_transpose(fold, jax.ShapeDtypeStruct(block.shape, dtype))(wide)
    return matrix


def from_matrix(capture: Any, block: Any, matrix: Any) -> dict[str, Array]:
    """What a block gives, as parameters of the capture."""
    return matrix if isinstance(block, Diagonal) else _folding(capture, block)(matrix)


def product(capture: Any, block: Any, parameters: dict[str, Array]) -> dict[str, Array]:
    """The block times the parameters of its capture."""
    return from_matrix(capture, block, block.apply(to_matrix(capture, block, parameters)))


def turned(capture: Any, basis: Eigenbasis) -> Any:
    """The linear capture whose gradient is U_Aᵀ G U_B, without a bias: inputs a U_A, deltas d U_B.

    Under `StackedCapture` and `ColumnsCapture` as these have it.
    """
    return multiplied(capture, basis.inputs, basis.deltas)


def multiplied(capture: Any, left: Array, right: Array) -> Any:
    """The linear capture whose gradient is leftᵀ G right, without a bias."""
    linear = capture if isinstance(capture, StackedCapture) else capture.linear()
    if isinstance(linear, StackedCapture):
        return StackedCapture(jax.vmap(multiplied)(linear.capture, left, right))
    if isinstance(linear, ColumnsCapture):
        return ColumnsCapture(_multiplied(linear.capture, left, right))
    return _multiplied(linear, left, right)


def with_bias_as_input(capture: Any) -> Any:
    """The linear capture of weight and bias as one matrix: a constant 1 has entered as well."""
    linear = capture if isinstance(capture, StackedCapture) else capture.linear()
    if isinstance(linear, StackedCapture):
        return StackedCapture(jax.vmap(with_bias_as_input)(linear.capture))
    if not linear.use_bias:
        return linear
    ones = jnp.ones((*linear.inputs.shape[:-1], 1), linear.inputs.dtype)
    inputs = jnp.concatenate([linear.inputs, ones], -1)
    return dataclasses.replace(linear, inputs=inputs, use_bias=False)


def _multiplied(linear: Any, left: Array, right: Array) -> Any:
    inputs, deltas = (a.astype(left.dtype) for a in (linear.inputs, linear.deltas))
    inner = inputs.shape[-1]
    # The constant 1 is the input of the bias, whose row of ``left`` it picks.
    inputs = inputs @ left[:inner] + (left[inner] if linear.use_bias else 0)
    return dataclasses.replace(linear, inputs=inputs, deltas=deltas @ right, use_bias=False)


def _squares(capture: Any, basis: Eigenbasis, root_shares: Array) -> Array:
    if isinstance(capture, StackedCapture):
        return jax.vmap(_squares, (0, 0, None))(capture.capture, basis, root_shares)
    if isinstance(capture, ColumnsCapture) and positions_of(capture) != 1:
        of_columns = over_columns(lambda inner: _squares(inner, basis, root_shares))(capture)
        return jnp.sum(of_columns, 0)

    def of_examples(part: Any, root_shares: Array) -> Array:
        return contractions.sum_of_squares(turned(_shared(part, root_shares), basis))["weight"]

    if isinstance(capture, ColumnsCapture):
        return of_examples(capture, root_shares)
    return sum_examples(of_examples, linear_bytes(capture), capture, root_shares)


def _shared(capture: Any, root_shares: Array) -> Any:
    """The widened capture with the deltas of each example times its root."""

    def scale(deltas: Array) -> Array:
        return deltas * jnp.expand_dims(root_shares, range(1, deltas.ndim)).astype(deltas.dtype)

    return widened(capture).map_deltas(scale)


def _folding(capture: Any, block: Any) -> Callable:
    inputs = block.shape[-2] - block.use_bias

    def fold(matrix: Array) -> dict[str, Array]:
        """[in + 1, out], with its leading axes, as parameters."""
        parameters = {"weight": matrix[..., :inputs, :]}
        if block.use_bias:
            parameters["bias"] = matrix[..., inputs, :]
        return capture.fold(parameters)

    return fold


def _inverse(matrix: Array, added: Any) -> Array:
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    lower = jnp.linalg.cholesky(matrix + added[..., None, None] * eye)
    half = jax.lax.linalg.triangular_solve(
        lower, jnp.broadcast_to(eye, matrix.shape), left_side=True, lower=True
    )
    return _t(half) @ half


def _trace(matrix: Array) -> Array:
    return jnp.trace(matrix, axis1=-2, axis2=-1)


def _t(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)
