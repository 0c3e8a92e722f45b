"""Attention of queries, keys and values, and the positions that turn them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.core.validation import require_lengths, require_number
from jaxnn.functional.arrays import array, floats, run
from jaxnn.functional.making import function_of
from jaxnn.layers.attention import rotary as turning
from jaxnn.layers.attention.bias import Bias
from jaxnn.layers.attention.dot_products import Meeting, dot_products


def _attention(
    make: Callable,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    bias: Any = None,
    *,
    lengths: Any = None,
    key: Any = None,
    scale: float | None = None,
):
    """o = softmax(q kᵀ / √depth + bias) v: every query's weighted mean of the values of the keys.

    The heads, if there are several, stand before time: [*batch, heads, time, depth], as in
    `torch.nn.functional.scaled_dot_product_attention` (`jax.nn.dot_product_attention` has them
    behind it). Fewer heads of k and v are shared by as many heads of q each.

    Where k is longer than q and ``causal`` is set, the queries are the last of the positions of k.
    A query that may see no key gets 0.

    Args:
        q: [*batch, heads, time, depth], [batch, time, depth] or [time, depth].
        k: [*batch, heads, memory, depth], with the batch of q.
        v: [*batch, heads, memory, depth of its own], with the batch and the heads of k.
        mask: Booleans that can be broadcast to [*batch, heads, time, memory], True where a query
            may see a key.
        bias: What is added to the scores, that can be broadcast to [*batch, heads, time, memory].
        lengths: Integers [*batch], how many of the keys of each example are real.
        key: The random key of ``dropout``.
        scale: What q kᵀ is multiplied by; 1 / √depth unless given.
    """
    of_axes = "[*batch, time, depth]"
    q, k, v = (floats(WHERE, name, a, of_axes) for name, a in (("q", q), ("k", k), ("v", v)))
    form = _form(q, k, v)
    if bias is not None:
        bias = _like_scores(form, "bias", floats(WHERE, "bias", bias, "[*axes]"))
        if bias.dtype != q.dtype:
            raise TypeError(f"{WHERE}: expected bias to be {q.dtype} as q is, got {bias.dtype}")
    visible = _visible(form, mask, lengths)
    turned = q if scale is None else q * _factor(scale, q.shape[-1])
    examples = math.prod(form.batch)
    x = Meeting(
        turned.reshape(examples, *form.by_group, *q.shape[-2:]),
        k.reshape(examples, form.groups, *k.shape[-2:]),
        v.reshape(examples, form.groups, *v.shape[-2:]),
        visible,
        Bias(bias),
    )
    return run(make(), (), x, key).reshape(*q.shape[:-1], v.shape[-1])


WHERE = "attention"


class _Form(NamedTuple):
    """What the axes of the scores, [*batch, heads, time, memory], are."""

    batch: tuple[int, ...]
    heads: tuple[int, ...]
    """Empty where there is no such axis."""
    groups: int
    """The heads of k and v."""
    time: int
    memory: int

    @property
    def by_group(self) -> tuple[int, int]:
        """The groups, and the heads of each."""
        return self.groups, math.prod(self.heads) // self.groups


def _form(q: Array, k: Array, v: Array) -> _Form:
    """Raises where shapes or dtypes do not fit."""
    for name, a in (("q", q), ("k", k), ("v", v)):
        if 0 in a.shape[-2:]:
            raise ValueError(
                f"{WHERE}: expected {name} to have at least one position and one feature, "
                f"got shape {a.shape}"
            )
        if a.dtype != q.dtype:
            raise TypeError(f"{WHERE}: expected {name} to be {q.dtype} as q is, got {a.dtype}")
    axes = 1 if q.ndim > 3 else 0  # in front of time
    batch, heads = q.shape[: q.ndim - 2 - axes], q.shape[q.ndim - 2 - axes : -2]
    groups = math.prod(k.shape[k.ndim - 2 - axes : -2]) if axes else 1
    is_shared = axes and groups and heads[0] % groups == 0
    if k.ndim != q.ndim or k.shape[: len(batch)] != batch or (axes and not is_shared):
        raise ValueError(
            f"{WHERE}: expected k to have the axes of q before the last two, or fewer heads that "
            f"divide those of q, got q {q.shape} and k {k.shape}"
        )
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"{WHERE}: expected k to have the depth of q, {q.shape[-1]}, got {k.shape[-1]}"
        )
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            f"{WHERE}: expected v to have the axes of k before the last, {k.shape[:-1]}, "
            f"got {v.shape[:-1]}"
        )
    return _Form(batch, heads, groups, q.shape[-2], k.shape[-2])


def _visible(form: _Form, mask: Any, lengths: Any) -> Array | None:
    """[batch, group, head, time, memory], 1 in place of any but memory; None where all are seen."""
    visible = None
    if mask is not None:
        mask = array(WHERE, "mask", mask)
        if mask.dtype != bool:
            raise TypeError(
                f"{WHERE}: expected mask to be booleans, got {mask.dtype}; what is added to the "
                "scores is the bias"
            )
        visible = _like_scores(form, "mask", mask)
        visible = jnp.broadcast_to(visible, (*visible.shape[:-1], form.memory))
    if lengths is not None:
        lengths = array(WHERE, "lengths", lengths)
        if lengths.shape != form.batch:
            raise ValueError(
                f"{WHERE}: expected lengths to have the shape of the batch, {form.batch}, "
                f"got {lengths.shape}"
            )
        flat = lengths.reshape(-1)
        require_lengths(WHERE, flat, flat.size, form.memory)
        real = (jnp.arange(form.memory) < flat[:, None])[:, None, None, None]
        visible = real if visible is None else visible & real
    return visible


def _like_scores(form: _Form, name: str, a: Array) -> Array:
    """An array for every pair as [batch, group, head, time, memory], 1 in place of any."""
    full = (*form.batch, *form.heads, form.time, form.memory)
    padded = (1,) * (len(full) - a.ndim) + a.shape
    if len(padded) != len(full) or any(n not in (1, m) for n, m in zip(padded, full, strict=True)):
        raise ValueError(
            f"{WHERE}: expected {name} to have a shape that can be broadcast to {full}, "
            f"got {a.shape}"
        )
    batch, heads = padded[: len(form.batch)], padded[len(form.batch) : -2]
    if math.prod(batch) > 1:
        batch = form.batch
        a = jnp.broadcast_to(a.reshape(padded), (*batch, *padded[len(batch) :]))
    by_group = form.by_group if math.prod(heads) > 1 else (1, 1)
    return a.reshape(math.prod(batch), *by_group, *padded[-2:])


def _factor(scale: Any, depth: int) -> float:
    """What q is multiplied by first, since the layer divides by √depth."""
    return require_number(WHERE, "scale", scale) * math.sqrt(depth)


def _rotary(make: Callable, x: Any, start: Any = 0):
    """``x`` has any number of axes before the last two, none among them.

    Args:
        x: Queries or keys [*batch, time, depth].
        start: The position of the first of them, an integer.
    """
    x = floats("rotary", "x", x, "[*batch, time, depth]")
    start = array("rotary", "start", start)
    if start.ndim or not jnp.issubdtype(start.dtype, jnp.integer):
        raise TypeError(
            f"rotary: expected start to be one integer, got {start.dtype} of shape {start.shape}"
        )
    return run(make(), (), (x[None], start), None)[0]


attention = function_of(dot_products, _attention, name="attention", text=_attention)
rotary = function_of(turning.rotary, _rotary)
