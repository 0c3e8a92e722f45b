"""Two directions of time as one layer."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.combinators import fork, serial
from jaxnn.core.layer import Layer, Static, parameter_free


def bidirectional(forward: Layer, backward: Layer) -> Layer:
    """Two layers over the same x, their outputs side by side (Schuster and Paliwal, 1997).

    ``bidirectional(lstm(64), lstm(64, reverse=True))``: the features of every output of the two,
    and of their states, are concatenated; lengths are passed on. Both must return the same
    ``output``.

    Raises:
        ValueError: the outputs differ in their form or in the shapes beside the features.
    """
    return serial(fork(forward, backward), _beside())._replace(name="bidirectional")


def _beside() -> Layer:
    """Two trees as one, their floating-point leaves concatenated by features."""

    def join(x: tuple):
        forms = [jax.tree.map(lambda a: (*a.shape[:-1], str(a.dtype)), tree) for tree in x]
        if forms[0] != forms[1]:
            raise ValueError(
                f"bidirectional: expected both outputs to have one form, got {forms[0]} and "
                f"{forms[1]}"
            )
        leaves, treedef = jax.tree.flatten(x[0])
        return jax.tree.map(_concatenate, *x), Static((treedef, tuple(a.shape[-1] for a in leaves)))

    def cut(form: Static, dy: Any):
        treedef, sizes = form.value
        pairs = [
            (None, None) if d is None else jnp.split(d, [size], -1)
            for d, size in zip(treedef.flatten_up_to(dy), sizes, strict=True)
        ]
        return tuple(treedef.unflatten(side) for side in zip(*pairs, strict=True))

    return parameter_free("beside", join, cut)


def _concatenate(first: Any, second: Any) -> Any:
    # Lengths, the only leaf that is no floating-point array, are those of the input on both sides.
    floating = jnp.issubdtype(first.dtype, jnp.floating)
    return jnp.concatenate([first, second], -1) if floating else first
