"""Captures: what a backward pass knows about a parameter gradient before it is contracted.

``Layer.backward`` returns, for each dict of parameters, a capture: what entered the parameters and
the delta (the cotangent) at their output. Contracting it over the batch gives the gradient; because
both factors are still there, other contractions of the same pair give other quantities.

Laws that every capture keeps:

1. A captures tree mirrors the params tree, one capture for each dict of parameters.
2. The inputs of a capture do not depend on the cotangent; its deltas are linear in it.
3. Extra leading axes are wrapped explicitly (`StackedCapture`); a capture never guesses.
4. Captures have no validation in their constructors: JAX rebuilds them with placeholder leaves.
5. The arrays that depend on the cotangent, and no others, are called ``deltas``; a capture that
   wraps one with an extra leading axis calls it ``capture``. What changes the deltas alone (weights
   of examples) can so be done to any tree of captures.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.products import contract_small_rows, rows_of, sum_dtype, sum_rows

static = partial(dataclasses.field, metadata={"static": True})


class Capture:
    """Base of all captures. A subclass is a registered dataclass that can contract itself."""

    def gradient(self) -> Any:
        """The gradient of the summed loss, with the tree of the parameters it belongs to."""
        raise NotImplementedError

    def join(self, *others: Any) -> Any:
        """One capture for parameters that were used several times in the same example.

        The uses are joined along positions, before any contraction: the norm of a sum is not the
        sum of norms.
        """
        raise NotImplementedError


contract_at_once = jax.make_user_context(False)
"""``with contract_at_once(True)``: of the captures nothing but gradients is wanted, so that a layer
or combinator may return them contracted (see `contracted`) where this saves memory or time, in the
dtype of sums or of the parameters."""


def contract(captures: Any) -> Any:
    """Sum every capture over batch and positions: the gradients, in the tree of the parameters."""
    return map_captures(lambda capture: capture.gradient(), captures)


def contract_for(params: Any, captures: Any) -> Any:
    """`contract`, in the dtypes of the parameters: of captures that were contracted at once."""
    return in_dtypes_of(params, contract(captures))


def in_dtypes_of(params: Any, sums: Any) -> Any:
    """A tree of sums, each in the dtype of its parameter."""
    return jax.tree.map(lambda p, total: total.astype(p.dtype), params, sums)


def contracted(captures: Any) -> Any:
    """The captures with their gradients in place of inputs and deltas."""
    return map_captures(lambda capture: ContractedCapture(capture.gradient()), captures)


def join(*captures: Any) -> Any:
    """Join captures trees of several uses of the same parameters, capture by capture."""
    return map_captures(lambda first, *others: first.join(*others), *captures)


def stack(captures: Any) -> Any:
    """Declare that every capture carries one extra leading axis, as its parameters do."""
    return map_captures(StackedCapture, captures)


def map_captures(function: Callable, *captures: Any) -> Any:
    """``function`` of every capture of a tree (and of its fellows in further trees)."""

    def checked(capture, *others):
        if not isinstance(capture, Capture):
            raise TypeError(
                "captures: expected a Capture for each dict of parameters, "
                f"got {type(capture).__name__}"
            )
        return function(capture, *others)

    return jax.tree.map(checked, *captures, is_leaf=lambda node: isinstance(node, Capture))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearCapture(Capture):
    """Of y = x W + b at every position: ∂L/∂W = Σ_batch Σ_position xᵀ δ and ∂L/∂b = Σ Σ δ."""

    inputs: Any  # [batch, *positions, in]
    deltas: Any  # [batch, *positions, out]
    use_bias: bool = static(default=True)

    def gradient(self) -> dict[str, Array]:
        """{"weight": [in, out], "bias": [out]}, accumulated in at least float32."""
        weight = contract_small_rows(self.inputs, self.deltas).astype(self.deltas.dtype)
        if not self.use_bias:
            return {"weight": weight}
        return {"weight": weight, "bias": sum_rows(self.deltas).astype(self.deltas.dtype)}

    def join(self, *others: "LinearCapture") -> "LinearCapture":
        """The uses as further positions."""
        return _join_positions(self, *others)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AffineCapture(Capture):
    """Of y = scale · x + offset, feature by feature: ∂L/∂scale = Σ x δ and ∂L/∂offset = Σ δ."""

    inputs: Any  # [batch, *positions, features]
    deltas: Any  # [batch, *positions, features]
    # The layer that mixed the examples of the batch into `inputs`, if one did: quantities of a
    # single example have no meaning then and must refuse by this name.
    mixed_by: str | None = static(default=None)
    use_offset: bool = static(default=True)

    def sums(self) -> tuple[Array, Array]:
        """Σ x δ and Σ δ, both [features], in at least float32."""
        rows = rows_of(self.deltas)
        rows = rows.astype(sum_dtype(rows.dtype))
        # A product of half-precision numbers would overflow or be rounded before it is summed.
        products = self.inputs.reshape(rows.shape).astype(rows.dtype) * rows
        return jnp.sum(products, axis=0), jnp.sum(rows, axis=0)

    def gradient(self) -> dict[str, Array]:
        """{"scale": [features], "offset": [features]}, accumulated in at least float32."""
        scale, offset = (total.astype(self.deltas.dtype) for total in self.sums())
        return {"scale": scale} | ({"offset": offset} if self.use_offset else {})

    def join(self, *others: "AffineCapture") -> "AffineCapture":
        """The uses as further positions."""
        return _join_positions(self, *others)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EmbeddingCapture(Capture):
    """Of y = weight[id] at every position: ∂L/∂weight[v] = Σ δ over the positions whose id is v."""

    ids: Any  # [batch, *positions], integers
    deltas: Any  # [batch, *positions, features]
    vocabulary: int = static()

    def gradient(self) -> dict[str, Array]:
        """{"weight": [vocabulary, features]}, accumulated in at least float32.

        A sum by segments, without one-hot vectors; ids outside of the vocabulary are dropped.
        """
        rows = rows_of(self.deltas)
        total = jax.ops.segment_sum(
            rows.astype(sum_dtype(rows.dtype)), self.ids.reshape(-1), self.vocabulary
        )
        return {"weight": total.astype(rows.dtype)}

    def join(self, *others: "EmbeddingCapture") -> "EmbeddingCapture":
        """The uses as further positions."""
        uses = (self, *others)
        ids = jnp.concatenate([flat_positions(use.ids[..., None])[..., 0] for use in uses], 1)
        deltas = jnp.concatenate([flat_positions(use.deltas) for use in uses], 1)
        return dataclasses.replace(self, ids=ids, deltas=deltas)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackedCapture(Capture):
    """A capture with one extra leading axis, of layers stacked by `repeat`."""

    capture: Any

    def gradient(self) -> Any:
        """The gradient of every layer of the stack, stacked."""
        return jax.vmap(lambda capture: capture.gradient())(self.capture)

    def join(self, *others: "StackedCapture") -> "StackedCapture":
        """Joined layer by layer."""
        join_each = jax.vmap(lambda first, *rest: first.join(*rest))
        return StackedCapture(join_each(self.capture, *(other.capture for other in others)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContractedCapture(Capture):
    """A gradient that its layer had to contract at once, since keeping the deltas costs too much.

    Only the gradient can be had of it; every other quantity must refuse it by the layer's name.
    """

    gradients: Any
    layer: str = static(default="")

    def gradient(self) -> Any:
        """The gradient as the layer gave it."""
        return self.gradients

    def join(self, *others: "ContractedCapture") -> "ContractedCapture":
        """The sum of the uses."""
        total = jax.tree.map(lambda *g: sum(g), self.gradients, *(o.gradients for o in others))
        return dataclasses.replace(self, gradients=total)


def _join_positions(*captures):
    def concatenate(field):
        arrays = (getattr(capture, field) for capture in captures)
        return jnp.concatenate([flat_positions(a) for a in arrays], axis=1)

    return dataclasses.replace(
        captures[0], inputs=concatenate("inputs"), deltas=concatenate("deltas")
    )


def flat_positions(a: Array) -> Array:
    """[batch, *positions, features] as [batch, positions, features]."""
    positions = 1
    for size in a.shape[1:-1]:
        positions *= size
    return a.reshape(a.shape[0], positions, a.shape[-1])
