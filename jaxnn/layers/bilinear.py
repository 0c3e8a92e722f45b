"""The bilinear layer: linear in each of two inputs."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import LinearCapture, flat_positions
from jaxnn.core.contract import Capture
from jaxnn.core.pytrees import register_dataclass, static
from jaxnn.core.validation import (
    require_features,
    require_floating,
    require_members,
    require_rank,
)
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.dense import Affine


class bilinear(Affine):
    """y_k = Σ_ij a_i W_ijk b_j + b_k, of the two members (a, b) of x.

    With S_ij = Σ_k W_ijk dy_k at every position, da = S b and db = Sᵀ a; and ∂L/∂W = Σ (a bᵀ) ⊗ dy:
    the layer is a dense one on the products a_i b_j. a is [batch, *positions, m], b is
    [batch, *positions, n], y is [batch, *positions, features]; the parameters are ``weight``
    [m, n, features] and ``bias`` [features], in the dtype of x. Sums run in at least float32.

    Raises:
        TypeError: x is no tuple of two floating-point arrays of the parameters' dtype.
        ValueError: the two differ in batch or positions, or a last axis is not the one that the
            weight was made for.
    """

    def init(self, key: Array | None, x: Any):
        a, b = self._members(x)
        return self.make_params(key, (a.shape[-1], b.shape[-1]), a.dtype), ()

    def forward(self, params: dict, state: Any, x: Any, key: Array | None):
        weight = params["weight"]
        for member, features in zip(self._members(x), weight.shape, strict=False):
            require_features("bilinear", member, features, weight.dtype)
        a, b = x
        y = _product("...jk,...j->...k", _product("...i,ijk->...jk", a, weight), b)
        y = y + params["bias"] if self.use_bias else y
        return y.astype(a.dtype), state, x

    def backward(self, params: dict, residuals: Any, dy: Array):
        a, b = residuals
        s = _product("...k,ijk->...ij", dy, params["weight"])
        da, db = _product("...ij,...j->...i", s, b), _product("...ij,...i->...j", s, a)
        dx = da.astype(dy.dtype), db.astype(dy.dtype)
        return dx, BilinearCapture(a, b, dy, (a.shape[-1], b.shape[-1]), self.use_bias)

    def _members(self, x: Any) -> tuple[Any, Any]:
        require_members("bilinear", x, 2)
        for member in x:
            require_floating("bilinear", "every member of x", member)
            require_rank("bilinear", "every member of x", member, 2)
        shapes = [tuple(member.shape[:-1]) for member in x]
        if shapes[0] != shapes[1] or x[0].dtype != x[1].dtype:
            raise ValueError(
                "bilinear: expected the members of x to have one batch, positions and dtype, got "
                f"{[f'{m.dtype}{list(m.shape)}' for m in x]}"
            )
        return x


@register_dataclass
@dataclasses.dataclass(frozen=True)
class BilinearCapture(Capture):
    """Of y = a W b + c at every position: that of a linear map of the products a_i b_j."""

    first: Any  # [batch, *positions, m]
    second: Any  # [batch, *positions, n]
    deltas: Any  # [batch, *positions, out]
    features: tuple[int, int] = static()  # m, n
    use_bias: bool = static(default=True)

    def gradient(self) -> dict[str, Array]:
        """{"weight": [m, n, out], "bias": [out]}, accumulated in at least float32."""
        return self.fold(self.linear().gradient())

    def join(self, *others: "BilinearCapture") -> "BilinearCapture":
        """The uses as further positions."""
        return jax.tree.map(
            lambda *uses: jnp.concatenate([flat_positions(use) for use in uses], 1), self, *others
        )

    def map_deltas(self, function: Any) -> "BilinearCapture":
        return dataclasses.replace(self, deltas=function(self.deltas))

    def linear(self) -> LinearCapture:
        """Its inputs are the products, in row-major order."""
        first, second, deltas = (flat_positions(a) for a in (self.first, self.second, self.deltas))
        products = _product("...i,...j->...ij", first, second)
        inputs = products.reshape(*products.shape[:2], math.prod(products.shape[2:]))
        return LinearCapture(inputs, deltas, self.use_bias)

    def fold(self, parameters: dict[str, Array]) -> dict[str, Array]:
        weight = parameters["weight"]
        return parameters | {"weight": weight.reshape(*self.features, weight.shape[-1])}


def _product(formula: str, a: Array, b: Array) -> Array:
    """The sum of products, in at least float32."""
    dtype = sum_dtype(b.dtype)
    return jnp.einsum(formula, a.astype(dtype), b.astype(dtype))
