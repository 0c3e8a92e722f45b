"""What an attention layer is given: queries, the memory they look into, and what they may see."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.core.validation import require_array, require_floating, require_lengths, require_rank


class Inputs(NamedTuple):
    """The members of x by their meaning."""

    queries: Any
    """[batch, time, features]."""
    memory: Any
    """[batch, memory, features]; the queries themselves in self-attention."""
    mask: Any
    """Lengths or a mask as given, or None."""
    bias: Any
    """[batch, 1 or heads, 1 or time, 1 or memory], or None."""


class Form(NamedTuple):
    """How x was given, and so how dx is returned."""

    is_tuple: bool
    crosses: bool
    """Whether the queries look into another sequence than their own."""
    is_masked: bool
    is_biased: bool


def read_inputs(x: Any) -> tuple[Inputs, Form]:
    """Queries alone, or a tuple (queries[, memory][, mask][, bias]).

    Memory and bias are what is floating-point, of 3 and of 4 axes.

    Raises:
        TypeError, ValueError: x is nothing of this, a sequence is empty, or shapes do not fit.
    """
    members: list[Any] = list(x) if isinstance(x, tuple) else [x]
    if not members:
        raise TypeError("attention: expected x to be queries or a tuple of them, got no members")
    for member in members:
        require_array("attention", "every member of x", member)
    given = [f"{m.dtype}{list(m.shape)}" for m in members]
    is_biased = len(members) > 1 and _is_bias(members[-1])
    bias = members.pop() if is_biased else None
    crosses = len(members) > 1 and jnp.issubdtype(members[1].dtype, jnp.floating)
    mask = members[2:] if crosses else members[1:]
    if len(mask) > 1:
        raise TypeError(
            "attention: expected x to be queries or a tuple (queries[, memory][, mask][, bias]), "
            f"got {given}"
        )
    inputs = Inputs(members[0], members[crosses], next(iter(mask), None), bias)
    _require_sequence("queries", inputs.queries)
    _require_sequence("memory", inputs.memory)
    if inputs.queries.shape[0] != inputs.memory.shape[0]:
        raise ValueError(
            "attention: expected queries and memory of one batch size, got "
            f"{inputs.queries.shape[0]} and {inputs.memory.shape[0]}"
        )
    return inputs, Form(isinstance(x, tuple), crosses, bool(mask), is_biased)


def _is_bias(member: Any) -> bool:
    return jnp.issubdtype(member.dtype, jnp.floating) and len(member.shape) == 4


def gradient(form: Form, dtype: Any, dqueries: Array, dmemory: Array, dbias: Any) -> Any:
    """dx in the form and dtype in which x was given: the mask has no gradient."""
    parts = (dqueries, dmemory) if form.crosses else (dqueries + dmemory,)
    dx = tuple(part.astype(dtype) for part in parts)
    if not form.is_tuple:
        return dx[0]
    return (*dx, *(None,) * form.is_masked, *((dbias.astype(dtype),) if form.is_biased else ()))


def bias_of(inputs: Inputs, heads: int) -> Array | None:
    """The bias; None if there is none.

    Raises:
        TypeError, ValueError: its dtype is not that of the queries, or its shape does not fit.
    """
    bias = inputs.bias
    if bias is None:
        return None
    batch, time = inputs.queries.shape[:2]
    expected = (batch, heads, time, inputs.memory.shape[1])
    fits = all(n in (1, size) for n, size in zip(bias.shape[1:], expected[1:], strict=True))
    if bias.shape[0] != batch or not fits:
        raise ValueError(
            f"attention: expected bias to have shape {expected}, or 1 in place of all but the "
            f"batch, got {tuple(bias.shape)}"
        )
    if bias.dtype != inputs.queries.dtype:
        raise TypeError(
            f"attention: expected bias to be {inputs.queries.dtype} as queries are, "
            f"got {bias.dtype}"
        )
    return bias


def visible_keys(inputs: Inputs, heads: int) -> Array | None:
    """The mask as booleans [batch, 1 or heads, 1 or time, memory]; None if there is none.

    Raises:
        TypeError, ValueError: it is neither lengths nor a mask, or its shape does not fit.
    """
    mask = inputs.mask
    if mask is None:
        return None
    batch, time = inputs.queries.shape[:2]
    memory = inputs.memory.shape[1]
    if jnp.issubdtype(mask.dtype, jnp.integer):
        require_lengths("attention", mask, batch, memory)
        return (jnp.arange(memory) < mask[:, None])[:, None, None]
    if mask.dtype != bool:
        raise TypeError(
            f"attention: expected mask to be booleans or integer lengths, got {mask.dtype}"
        )
    shapes = {(batch, memory): (1, 2), (batch, time, memory): (1,)}
    shapes[batch, heads, time, memory] = ()
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            "attention: expected mask to be lengths [batch] or booleans of one of the shapes "
            f"{', '.join(map(str, shapes))}, got {tuple(mask.shape)}"
        )
    return jnp.expand_dims(mask, shapes[tuple(mask.shape)])


def _require_sequence(name: str, a: Any) -> None:
    require_floating("attention", name, a)
    require_rank("attention", name, a, 3)
    if len(a.shape) != 3 or a.shape[1] == 0:
        raise ValueError(
            f"attention: expected {name} to be [batch, time, features] with at least one "
            f"position, got shape {tuple(a.shape)}"
        )
