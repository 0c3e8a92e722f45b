"""Captures of parameters that are used otherwise than one layer uses its own."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import (
    EmbeddingCapture,
    LinearCapture,
    flat_positions,
    static,
)
from jaxnn.core.contract import Capture
from jaxnn.core.moves import Moves, are_apart, move_back, same_elements
from jaxnn.core.pytrees import register_dataclass
from jaxnn.kernels.products import add_all, sum_rows


@register_dataclass
@dataclasses.dataclass(frozen=True)
class OffsetCapture(Capture):
    """Of y = x + offset: ∂L/∂offset = Σ δ. What is its own delta, because nothing is known of how
    the parameter is used, is of this kind too, with one position."""

    deltas: Any  # [batch, *positions, features]

    def gradient(self) -> dict[str, Array]:
        """{"offset": [features]}, accumulated in at least float32."""
        return {"offset": sum_rows(self.deltas).astype(self.deltas.dtype)}

    def join(self, *others: "OffsetCapture") -> "OffsetCapture":
        """The uses as further positions."""
        uses = (flat_positions(use.deltas) for use in (self, *others))
        return OffsetCapture(jnp.concatenate(list(uses), 1))

    def map_deltas(self, function: Callable) -> "OffsetCapture":
        return OffsetCapture(function(self.deltas))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class TiedCapture(Capture):
    """Of one parameter that is used in several ways in the same example, such as the embedding that
    is the output's weight too: G = Σ_i moved back(G_i).

    Where each use is a linear map or an embedding of the same matrix or of its transpose, products
    of gradients are sums over pairs of uses, `meetings`, for which no gradient need be formed.
    """

    uses: tuple[Capture, ...]
    names: tuple[str, ...] = static()
    """What each use calls the parameter."""
    moves: tuple[Moves, ...] = static()
    """What brings the parameter into the shape of each use's own."""
    shape: tuple[int, ...] = static()
    """Of the parameter."""

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*shape]}, the sum over the uses."""
        every = zip(self.uses, self.names, self.moves, strict=True)
        return {
            "weight": add_all(*(move_back(u.gradient()[n], m, self.shape) for u, n, m in every))
        }

    def join(self, *others: "TiedCapture") -> "TiedCapture":
        """With the further uses."""
        every = (self, *others)
        joined = {
            field: sum((getattr(capture, field) for capture in every), ())
            for field in ("uses", "names", "moves")
        }
        return dataclasses.replace(self, **joined)

    def map_deltas(self, function: Callable) -> "TiedCapture":
        return dataclasses.replace(self, uses=tuple(u.map_deltas(function) for u in self.uses))

    def without(self, absent: Array) -> "TiedCapture":
        return dataclasses.replace(self, uses=tuple(u.without(absent) for u in self.uses))

    @property
    def all_meet(self) -> bool:
        """Whether `meetings` are all that there is to products of gradients."""
        return all(
            self._relation(i, j) is not None
            for i in range(len(self.uses))
            for j in range(len(self.uses))
        )

    def meetings(self, other: "TiedCapture") -> Iterator[tuple[Capture, Capture]]:
        """Pairs of uses, one of each, whose products add up to ⟨G, other's G⟩; the second is turned
        so that both are of the same matrix."""
        for i, a in enumerate(self.uses):
            for j, b in enumerate(other.uses):
                match self._relation(i, j):
                    case "same":
                        yield a, b
                    case "transposed" if isinstance(b, LinearCapture):
                        yield a, LinearCapture(b.deltas, b.inputs, use_bias=False)
                    case "transposed":
                        yield LinearCapture(a.deltas, a.inputs, use_bias=False), b  # pyright: ignore

    def _relation(self, i: int, j: int) -> str | None:
        """How the matrices of two uses lie to each other: "same", "transposed" or "apart"; None
        where it is none of these, or a use is not of a matrix."""
        a, b = self.moves[i], self.moves[j]
        kinds = [isinstance(self.uses[n], LinearCapture | EmbeddingCapture) for n in (i, j)]
        if i != j and are_apart(self.shape, a, b):
            return "apart"
        if not all(kinds):
            return None
        if same_elements(self.shape, a, b):
            return "same"
        both_embed = all(isinstance(self.uses[n], EmbeddingCapture) for n in (i, j))
        if not both_embed and same_elements(self.shape, a, (*b, ("transpose", (1, 0)))):
            return "transposed"
        return None
