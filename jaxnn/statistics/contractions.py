"""What can be contracted from one capture beside its gradient.

Each function takes the capture of one dict of parameters and returns a dict with the same names.
The general way is the same for all captures: the gradient of a batch of one, mapped over the batch.
Where the factors of a product say the same for less, they are used (see `choosing`). Sums of
squares and products are taken, and returned, in at least float32.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import (
    AffineCapture,
    EmbeddingCapture,
    LinearCapture,
    StackedCapture,
    flat_positions,
)
from jaxnn.core.tied import TiedCapture
from jaxnn.core.validation import widened
from jaxnn.kernels.parts import sum_parts
from jaxnn.kernels.products import add_all, sum_dtype
from jaxnn.kernels.sums import add_up, map_examples
from jaxnn.statistics.choosing import (
    gradient_bytes,
    gram_for_norms,
    gram_for_pairs,
    positions_of,
)
from jaxnn.statistics.columns import ColumnsCapture, add_up_columns, over_columns


def per_example(capture: Any) -> dict[str, Array]:
    """[batch, *parameter], each example's gradient."""
    if isinstance(capture, StackedCapture):
        return jax.vmap(per_example, out_axes=1)(capture.capture)
    return jax.vmap(_gradient_of_one)(capture)


def squared_norms(capture: Any) -> dict[str, Array]:
    """[batch], the squared norm of each example's gradient, ‖G_b‖²."""
    if isinstance(capture, StackedCapture):
        return _sum_first(jax.vmap(squared_norms)(capture.capture))
    if not gram_for_norms(capture):

        def of_examples(part: Any):
            gradients = per_example(part.linear() or part)
            return jax.tree.map(lambda g: _sum_squares(g, range(1, g.ndim)), gradients)

        return map_examples(of_examples, gradient_bytes(capture), capture)
    if isinstance(factors := _factors(capture), StackedCapture):
        return squared_norms(factors)
    # Where the terms of the sum cancel, rounding may leave less than nothing.
    weight = {"weight": jnp.maximum(jax.vmap(_product)(factors, factors), 0)}
    return weight | jax.tree.map(lambda g: _sum_squares(g, 1), _bias(factors))


def dot_products(first: Any, second: Any) -> dict[str, Array]:
    """[batch of first, batch of second], ⟨G_b, G_c⟩ for all pairs of examples of two captures.

    Of captures with columns it is [columns, columns, batch, batch].
    """
    if isinstance(first, StackedCapture):
        return _sum_first(jax.vmap(dot_products)(first.capture, second.capture))
    if isinstance(first, ColumnsCapture):
        return over_columns(lambda a: over_columns(lambda b: dot_products(a, b))(second))(first)
    if not gram_for_pairs(first, second):
        return jax.tree.map(_all_products, per_example(first), per_example(second))
    a, b = _factors(first), _factors(second)
    if isinstance(a, StackedCapture):
        return dot_products(a, b)
    of_pairs = jax.vmap(jax.vmap(_product, (None, 0)), (0, None))
    return {"weight": of_pairs(a, b)} | jax.tree.map(_all_products, _bias(a), _bias(b))


def products_with_each(capture: Any, gradients: dict[str, Array]) -> Array:
    """[queries, batch], ⟨P_q, G_b⟩ for gradients P [queries, *parameter] of these parameters.

    With one position P_q is contracted with what entered and then with the delta; with several, a
    gradient of each example, a chunk of them at a time, costs less.
    """
    if isinstance(capture, StackedCapture):
        moved = jax.tree.map(lambda g: jnp.moveaxis(g, 1, 0), gradients)
        return jnp.sum(jax.vmap(products_with_each)(capture.capture, moved), 0)
    if isinstance(capture, LinearCapture) and positions_of(capture) == 1:
        linear = capture.linear()
        inputs, deltas = _wide(linear.inputs[:, 0]), _wide(linear.deltas[:, 0])
        met = jnp.einsum("bm,qmn->bqn", inputs, gradients["weight"])
        if capture.use_bias:
            met += gradients["bias"]
        return jnp.einsum("bqn,bn->qb", met, deltas)

    def of_examples(part: Any) -> Array:
        own = jax.tree.map(_wide, per_example(part))
        return add_all(*(_all_products(own[name], g) for name, g in gradients.items()))

    return map_examples(of_examples, gradient_bytes(capture), capture).T


def weighted_squares(capture: Any, values: dict[str, Array]) -> Array:
    """[batch], Σ Λ ∘ G_b² for Λ like the parameters, with one position without forming any G_b."""
    if isinstance(capture, StackedCapture):
        return jnp.sum(jax.vmap(weighted_squares)(capture.capture, values), 0)
    if isinstance(capture, LinearCapture) and positions_of(capture) == 1:
        linear = capture.linear()
        inputs, deltas = _wide(linear.inputs[:, 0]) ** 2, _wide(linear.deltas[:, 0]) ** 2
        met = inputs @ values["weight"] + (values["bias"] if capture.use_bias else 0)
        return jnp.sum(met * deltas, -1)

    def of_examples(part: Any) -> Array:
        own = per_example(part)
        squares = (values[name] * _wide(own[name]) ** 2 for name in values)
        return add_all(*(jnp.sum(s, range(1, s.ndim)) for s in squares))

    return map_examples(of_examples, gradient_bytes(capture), capture)


def weighted_products(columns: Any, values: dict[str, Array]) -> Array:
    """[batch, columns, columns], Σ Λ ∘ J_bk ∘ J_bl for Λ like the parameters and the gradients J_bk
    of the columns of an example, with one position without forming any."""
    if isinstance(columns, StackedCapture):
        return jnp.sum(jax.vmap(weighted_products)(columns.capture, values), 0)
    one = columns.capture
    if isinstance(one, LinearCapture) and positions_of(columns) == 1:
        inputs, deltas = (
            _wide(a).reshape(*shape, a.shape[-1])
            for a, shape in ((one.inputs, one.inputs.shape[:1]), (one.deltas, one.deltas.shape[:2]))
        )
        met = inputs**2 @ values["weight"] + (values["bias"] if one.use_bias else 0)
        return jnp.einsum("bn,kbn,lbn->bkl", met, deltas, deltas)
    own = over_columns(per_example)(columns)

    def products(gradients: Array, weights: Array) -> Array:
        flat = _wide(gradients).reshape(*gradients.shape[:2], -1)
        return jnp.einsum("p,kbp,lbp->bkl", weights.reshape(-1), flat, flat)

    return add_all(*(products(own[name], values[name]) for name in values))


def sum_of_squares(capture: Any) -> dict[str, Array]:
    """[*parameter], Σ_b G_b² element by element; of a capture with columns, over those as well."""
    match capture:
        case StackedCapture():
            return jax.vmap(sum_of_squares)(capture.capture)
        case ColumnsCapture(one) if _is_product(one, leading=2):
            # The squares of deltas that meet the same inputs may be added up before the product.
            return _squared(one, add_up(lambda deltas: deltas, _wide(one.deltas) ** 2)).gradient()
        case _ if _is_product(capture, leading=1):
            return _squared(capture, _wide(capture.deltas) ** 2).gradient()
        case _ if not isinstance(capture, TiedCapture) and positions_of(capture) == 1:
            return capture.fold(sum_of_squares(capture.linear()))
        case ColumnsCapture():
            return add_up_columns(sum_of_squares, capture)
        case EmbeddingCapture() if gram_for_norms(capture):
            # An element of G_b is a sum over the positions with its id; its square is the sum over
            # them of their own delta times that sum.
            factors = _factors(capture)
            together = jax.vmap(_meetings)(factors, factors) @ _wide(factors.deltas)
            return dataclasses.replace(factors, deltas=_wide(factors.deltas) * together).gradient()

    def squares(example: Any):
        return jax.tree.map(lambda g: _wide(g) ** 2, _gradient_of_one(example))

    return sum_parts(lambda capture: add_up(squares, capture), capture)


def _is_product(capture: Any, leading: int) -> bool:
    """Whether each element of its gradient is, at one position of an example, the product of what
    entered the parameters and a delta, whose positions come after so many axes."""
    if not isinstance(capture, LinearCapture | AffineCapture | EmbeddingCapture):
        return False
    return math.prod(capture.deltas.shape[leading:-1]) == 1


def _squared(capture: Any, deltas: Array) -> Any:
    """The capture with the squares of what entered the parameters, and these deltas: at one
    position, the square of a product is the product of the squares."""
    squared = jax.tree.map(lambda a: _wide(a) ** 2 if _is_floating(a) else a, capture)
    return dataclasses.replace(squared, deltas=deltas)


def _gradient_of_one(example: Any) -> dict[str, Array]:
    """The gradient of a capture without its batch axis."""
    return jax.tree.map(lambda a: a[None], example).gradient()


def _factors(capture: Any) -> Any:
    """The capture with its positions on one axis, as something that `_product` can multiply."""
    if isinstance(capture, TiedCapture):
        return dataclasses.replace(capture, uses=tuple(map(_factors, capture.uses)))
    if not isinstance(capture, EmbeddingCapture):
        return capture.linear()
    ids = flat_positions(widened(capture.ids)[..., None])[..., 0]
    return dataclasses.replace(capture, ids=ids, deltas=flat_positions(capture.deltas))


def _product(a: Any, b: Any) -> Array:
    """Σ_tu (a_t · a_u) (d_t · d_u) of the captures of two examples."""
    if isinstance(a, TiedCapture):
        return add_all(*(_product(*pair) for pair in a.meetings(b)))
    return jnp.sum(_meetings(a, b) * _rows_products(a.deltas, b.deltas))


def _meetings(a: Any, b: Any) -> Array:
    """[positions of a, positions of b], the dot products of what entered the parameters."""
    match a, b:
        case LinearCapture(), LinearCapture():
            return _rows_products(a.inputs, b.inputs)
        case LinearCapture(), EmbeddingCapture():
            return _meetings(b, a).T
    known = (a.ids >= 0) & (a.ids < a.vocabulary)
    if isinstance(b, LinearCapture):
        entered = jnp.take(_wide(b.inputs), jnp.where(known, a.ids, 0), -1).T
        return jnp.where(known[:, None], entered, 0)
    return (known[:, None] & (a.ids[:, None] == b.ids)).astype(sum_dtype(a.deltas.dtype))


def _rows_products(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.T, preferred_element_type=sum_dtype(a.dtype))


def _bias(factors: Any) -> dict[str, Array]:
    """Each example's gradient of the bias, which is never large."""
    has_bias = isinstance(factors, LinearCapture) and factors.use_bias
    return {"bias": jnp.sum(_wide(factors.deltas), 1)} if has_bias else {}


def _all_products(a: Array, b: Array) -> Array:
    return _rows_products(*(g.reshape(g.shape[0], math.prod(g.shape[1:])) for g in (a, b)))


def _is_floating(a: Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def _wide(a: Array) -> Array:
    return a.astype(sum_dtype(a.dtype))


def _sum_squares(a: Array, axes: Any) -> Array:
    return jnp.sum(_wide(a) ** 2, axes)


def _sum_first(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.sum(a, 0), tree)
