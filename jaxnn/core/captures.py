"""Captures: what a backward pass knows about a parameter gradient before it is contracted.

``Layer.backward`` returns, for each dict of parameters, a capture: what entered the parameters and
the delta (the cotangent) at their output. Contracting it over the batch gives the gradient; because
both factors are still there, other contractions of the same pair give other quantities. What every
capture can do, and the laws that it keeps, stand in `jaxnn.core.contract`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Capture
from jaxnn.core.moves import Moves, move, move_back
from jaxnn.core.pytrees import register_dataclass, static
from jaxnn.kernels.products import add_all, contract_small_rows, rows_of, sum_dtype, sum_rows


def contract(captures: Any) -> Any:
    """Sum every capture over batch and positions: the gradients, in the tree of the parameters."""
    return in_params(map_captures(lambda capture: capture.gradient(), captures), leading=0)


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

    def deeper(node: Any) -> Any:
        is_placed = isinstance(node, PlacedCaptures)
        return dataclasses.replace(node, depth=node.depth + 1) if is_placed else node

    stacked = map_captures(StackedCapture, captures)
    return jax.tree.map(
        deeper, stacked, is_leaf=lambda node: isinstance(node, PlacedCaptures | Capture)
    )


def map_captures(function: Callable, *captures: Any) -> Any:
    """``function`` of every capture of a tree (and of its fellows in further trees)."""

    others = tuple(split_like(captures[0], tree) for tree in captures[1:])

    def checked(capture, *others):
        if not isinstance(capture, Capture):
            raise TypeError(
                "captures: expected a Capture for each dict of parameters, "
                f"got {type(capture).__name__}"
            )
        return function(capture, *others)

    return jax.tree.map(
        checked, captures[0], *others, is_leaf=lambda node: isinstance(node, Capture)
    )


class Place(NamedTuple):
    """Where an array of the parameters of a capture lies among all."""

    name: str
    """What the capture calls it."""
    leaf: int
    """Its number among the leaves of params."""
    moves: Moves
    """What brings the leaf into the capture's shape; see `jaxnn.core.moves`."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PlacedCaptures:
    """Captures of parameters that do not lie in the tree of params as captures have them: under
    other names and in other shapes, as other libraries write them.

    `map_captures` gives the same with what its function says of each in their place, and
    `in_params` brings that into the tree of params.
    """

    captures: tuple
    tree: Any = dataclasses.field(metadata={"static": True})
    """The treedef of params."""
    places: tuple[tuple[Place, ...], ...] = static()
    """Of the parameters of each capture."""
    shapes: tuple[tuple[int, ...], ...] = static()
    """Of the leaves of params, without the axes of stacked layers."""
    depth: int = static(default=0)
    """How many of these axes there are, before those of each leaf."""

    def by_path(self) -> dict[str, Any]:
        """What there is for each capture, by the paths of its parameters: "kernel, bias"."""
        numbers = self.tree.unflatten(range(len(self.shapes)))
        paths = [
            jax.tree_util.keystr(path, simple=True, separator=".")
            for path, _ in jax.tree_util.tree_leaves_with_path(numbers)
        ]
        names = (", ".join(paths[place.leaf] for place in places) for places in self.places)
        return dict(zip(names, self.captures, strict=True))

    def in_params(self, leading: int | None) -> Any:
        """The tree of params, filled from dicts in place of the captures; see `in_params`."""
        leaves: list = [None] * len(self.shapes)
        for found, places in zip(self.captures, self.places, strict=True):
            for name, leaf, moves in places:
                value = found[name]
                if leading is not None:
                    value = move_back(value, moves, self.shapes[leaf], leading + self.depth)
                leaves[leaf] = value if leaves[leaf] is None else leaves[leaf] + value
        return self.tree.unflatten(leaves)

    def split(self, params: Any) -> "PlacedCaptures":
        """With the arrays of a tree of params in place of the captures, as those have them."""
        leaves = self.tree.flatten_up_to(params)

        def moved(leaf: Array, moves: Moves) -> Array:
            function = partial(move, moves=moves)
            for _ in range(self.depth):
                function = jax.vmap(function)
            return function(leaf)

        return dataclasses.replace(
            self,
            captures=tuple(
                {name: moved(leaves[leaf], moves) for name, leaf, moves in places}
                for places in self.places
            ),
        )


def in_params(tree: Any, leading: int | None) -> Any:
    """What a function said of each capture, in the tree of params.

    Args:
        tree: Of `map_captures`, whose function returned a dict for the parameters of a capture.
        leading: How many axes stand before those of a parameter; None where what was said of a
            parameter does not have its axes, and of its parts adds up.
    """
    return jax.tree.map(
        lambda node: node.in_params(leading) if isinstance(node, PlacedCaptures) else node,
        tree,
        is_leaf=lambda node: isinstance(node, PlacedCaptures),
    )


def split_like(captures: Any, params: Any) -> Any:
    """A tree of params, or one that has the structure of the captures already, with the arrays of
    each capture's parameters in its place."""

    def split(node: Any, own: Any) -> Any:
        is_params = isinstance(node, PlacedCaptures) and not isinstance(own, PlacedCaptures)
        return node.split(own) if is_params else own

    return jax.tree.map(
        split, captures, params, is_leaf=lambda node: isinstance(node, PlacedCaptures | Capture)
    )


@register_dataclass
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

    def map_deltas(self, function: Callable) -> "LinearCapture":
        return dataclasses.replace(self, deltas=function(self.deltas))

    def linear(self) -> "LinearCapture":
        inputs, deltas = flat_positions(self.inputs), flat_positions(self.deltas)
        return dataclasses.replace(self, inputs=inputs, deltas=deltas)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class AffineCapture(Capture):
    """Of y = scale · x + offset, feature by feature: ∂L/∂scale = Σ x δ and ∂L/∂offset = Σ δ.

    Where the parameters have another ``shape`` than [features], the features are its elements in
    row-major order.
    """

    inputs: Any  # [batch, *positions, features]
    deltas: Any  # [batch, *positions, features]
    mixes: str | None = static(default=None)  # pyright: ignore[reportAssignmentType]
    use_offset: bool = static(default=True)
    use_scale: bool = static(default=True)
    shape: tuple[int, ...] | None = static(default=None)

    def sums(self) -> tuple[Array, Array]:
        """Σ x δ and Σ δ, both [features], in at least float32."""
        rows = rows_of(self.deltas)
        rows = rows.astype(sum_dtype(rows.dtype))
        # A product of half-precision numbers would overflow or be rounded before it is summed.
        products = self.inputs.reshape(rows.shape).astype(rows.dtype) * rows
        return jnp.sum(products, axis=0), jnp.sum(rows, axis=0)

    def gradient(self) -> dict[str, Array]:
        """{"scale", "offset"}, [features] or of ``shape``, accumulated in at least float32."""
        scale, offset = (
            total.astype(self.deltas.dtype).reshape(self.shape or total.shape)
            for total in self.sums()
        )
        return ({"scale": scale} if self.use_scale else {}) | (
            {"offset": offset} if self.use_offset else {}
        )

    def join(self, *others: "AffineCapture") -> "AffineCapture":
        """The uses as further positions."""
        return _join_positions(self, *others)

    def map_deltas(self, function: Callable) -> "AffineCapture":
        return dataclasses.replace(self, deltas=function(self.deltas))


@register_dataclass
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

    def map_deltas(self, function: Callable) -> "EmbeddingCapture":
        return dataclasses.replace(self, deltas=function(self.deltas))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class StackedCapture(Capture):
    """A capture with one extra leading axis, of layers stacked by `repeat`."""

    capture: Any

    @property
    def mixes(self) -> str | None:
        return self.capture.mixes

    @property
    def summed_by(self) -> str | None:
        return self.capture.summed_by

    def gradient(self) -> Any:
        """The gradient of every layer of the stack, stacked."""
        return jax.vmap(lambda capture: capture.gradient())(self.capture)

    def join(self, *others: "StackedCapture") -> "StackedCapture":
        """Joined layer by layer."""
        join_each = jax.vmap(lambda first, *rest: first.join(*rest))
        return StackedCapture(join_each(self.capture, *(other.capture for other in others)))

    def map_deltas(self, function: Callable) -> "StackedCapture":
        return StackedCapture(self.capture.map_deltas(jax.vmap(function)))

    def without(self, absent: Array) -> "StackedCapture":
        return StackedCapture(jax.vmap(lambda capture: capture.without(absent))(self.capture))

    def scaled(self, factor: Any) -> "StackedCapture":
        return StackedCapture(self.capture.scaled(factor))

    def linear(self) -> "StackedCapture | None":
        inner = jax.vmap(lambda capture: capture.linear())(self.capture)
        return None if inner is None else StackedCapture(inner)

    def fold(self, parameters: Any) -> Any:
        return jax.vmap(self.capture.fold)(parameters)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ContractedCapture(Capture):
    """A gradient that its layer had to contract at once, since keeping the deltas costs too much.

    Only the gradient can be had of it; every other quantity must refuse it by the layer's name.
    """

    gradients: Any
    layer: str = static(default="")

    @property
    def summed_by(self) -> str:
        return self.layer

    def gradient(self) -> Any:
        """The gradient as the layer gave it."""
        return self.gradients

    def join(self, *others: "ContractedCapture") -> "ContractedCapture":
        """The sum of the uses."""
        total = jax.tree.map(add_all, self.gradients, *(o.gradients for o in others))
        return dataclasses.replace(self, gradients=total)

    def map_deltas(self, function: Callable) -> "ContractedCapture":
        raise ValueError(
            f"captures: expected every example to have deltas of its own, but {self.layer} gives "
            "its gradient summed over the batch"
        )

    def scaled(self, factor: Any) -> "ContractedCapture":
        gradients = jax.tree.map(lambda g: g * jnp.asarray(factor, g.dtype), self.gradients)
        return dataclasses.replace(self, gradients=gradients)


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
