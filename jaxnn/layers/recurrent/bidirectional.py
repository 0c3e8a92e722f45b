"""Two directions of time as one layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.combinators import Compound, fork, require_parts, serial
from jaxnn.core.contract import Layer
from jaxnn.core.residuals import Static


class bidirectional(Compound, init=False):
    """Two layers over the same x, their outputs side by side (Schuster and Paliwal, 1997).

    ``bidirectional(lstm(64), lstm(64, reverse=True))``: the features of every output of the two,
    and of their states, are concatenated; lengths are passed on. Both must return the same
    ``output``.

    Raises:
        ValueError: the outputs differ in their form or in the shapes beside the features.
    """

    directions: tuple[Layer, Layer]

    def __init__(self, forward: Layer, backward: Layer):
        require_parts("bidirectional", (), {"forward": forward, "backward": backward})
        object.__setattr__(self, "directions", (forward, backward))
        self.__post_init__()

    def arguments(self) -> list[tuple[str, Any]]:
        return [("", direction) for direction in self.directions]

    @functools.cached_property
    def made(self) -> Layer:
        return serial(fork(*self.directions), _Beside())

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        match parts[0]:
            case serial(layers=(fork(layers=(one, other)), _Beside())):
                return bidirectional(one, other)
        return parts[0]


class _Beside(ParameterFree):
    """Two trees as one, their floating-point leaves concatenated by features."""

    mixes = False

    def apply(self, x: tuple):
        forms = [jax.tree.map(lambda a: (*a.shape[:-1], str(a.dtype)), tree) for tree in x]
        if forms[0] != forms[1]:
            raise ValueError(
                f"bidirectional: expected both outputs to have one form, got {forms[0]} and "
                f"{forms[1]}"
            )
        leaves, treedef = jax.tree.flatten(x[0])
        return jax.tree.map(_concatenate, *x), Static((treedef, tuple(a.shape[-1] for a in leaves)))

    def pull_back(self, residuals: Static, dy: Any):
        treedef, sizes = residuals.value
        pairs = [
            (None, None) if d is None else jnp.split(d, [size], -1)
            for d, size in zip(treedef.flatten_up_to(dy), sizes, strict=True)
        ]
        return tuple(treedef.unflatten(side) for side in zip(*pairs, strict=True))


def _concatenate(first: Any, second: Any) -> Any:
    # Lengths, the only leaf that is no floating-point array, are those of the input on both sides.
    floating = jnp.issubdtype(first.dtype, jnp.floating)
    return jnp.concatenate([first, second], -1) if floating else first
