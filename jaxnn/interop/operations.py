"""Captures of any operation that is linear in a parameter, by the transpose of the operation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive

from jaxnn.core.contract import Capture
from jaxnn.core.pytrees import register_dataclass


@dataclasses.dataclass(frozen=True)
class Operation:
    """A primitive of JAX with a parameter in one of its two operands."""

    primitive: Primitive
    options: tuple[tuple[str, Any], ...]
    side: int
    """Which operand the parameter is in."""
    shape: tuple[int, ...]
    """Of that operand."""
    window: tuple[tuple[int, int], ...]
    """Where in it the parameter lies, (start, size) of each axis."""
    steps: int
    """How many axes of data and deltas count steps of scans, beside that of the batch."""

    def linear(self, data: Array) -> Callable[[Array], Array]:
        """The parameter as its argument, [batch, *steps, …] as its result."""

        def one(parameter: Array, data: Array) -> Array:
            bounds = zip(self.window, self.shape, strict=True)
            edges = [(start, n - start - size, 0) for (start, size), n in bounds]
            operand = lax.pad(parameter, jnp.zeros((), parameter.dtype), edges)
            operands = (operand, data) if self.side == 0 else (data, operand)
            return self.primitive.bind(*operands, **dict(self.options))

        def of_all(parameter: Array) -> Array:
            function = one
            for _ in range(1 + self.steps):
                function = jax.vmap(function, (None, 0))
            return function(parameter, data)

        return of_all


@register_dataclass
@dataclasses.dataclass(frozen=True)
class OperationCapture(Capture):
    """Of y = operation(W, x), linear in W: ∂L/∂W = Σ operationᵀ(δ, x)."""

    data: Any  # [batch, *steps, *operand]
    deltas: Any  # [batch, *steps, *output]
    operation: Operation = dataclasses.field(metadata={"static": True})

    def gradient(self) -> dict[str, Array]:
        """{"weight"}, of the shape of the operation's window."""
        function = self.operation.linear(self.data)
        dtype = self.data.dtype if jnp.issubdtype(self.data.dtype, jnp.floating) else None
        sizes = tuple(size for _, size in self.operation.window)
        parameter = jax.ShapeDtypeStruct(sizes, dtype or self.deltas.dtype)
        deltas = self.deltas.astype(jax.eval_shape(function, parameter).dtype)
        (weight,) = jax.linear_transpose(function, parameter)(deltas)
        return {"weight": weight.astype(self.deltas.dtype)}

    def map_deltas(self, function: Callable) -> "OperationCapture":
        return dataclasses.replace(self, deltas=function(self.deltas))
