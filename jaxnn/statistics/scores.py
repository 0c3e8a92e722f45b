"""Influence of every training example on every query, over data of any size.

Both sides come in blocks. Where nothing, or a product of factors, stands between the gradients,
their products are those of inputs and of deltas wherever that costs less (see `choosing`); where
eigenvalues or a solver do, the preconditioned gradients of a block of queries are formed, and held
against the captures of the training examples.
"""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.dtypes import canonicalize_dtype

from jaxnn.core.captures import (
    AffineCapture,
    EmbeddingCapture,
    LinearCapture,
    StackedCapture,
    contract,
    in_params,
    map_captures,
    split_like,
)
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.networks import plain
from jaxnn.core.tied import OffsetCapture
from jaxnn.core.validation import batch_size, brief, require_positive_integer
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics import contractions
from jaxnn.statistics.blocks import (
    Eigenbasis,
    Factors,
    from_matrix,
    multiplied,
    turned,
    with_bias_as_input,
)
from jaxnn.statistics.choosing import pair_bytes
from jaxnn.statistics.examples import per_example_gradients, per_example_squared_norms
from jaxnn.statistics.kronecker import Kronecker
from jaxnn.statistics.over_batches import blocks
from jaxnn.statistics.quantities import own_captures
from jaxnn.statistics.trees import batch_of, widened

MEMORY = 2**29
"""Bytes for the intermediate arrays of a block, unless told otherwise."""


def influence_scores(
    network: Layer, loss: Loss, *, memory: int = MEMORY, per_position: bool = False
) -> Callable[..., np.ndarray]:
    """(params, state, queries, training, key=None, *, operator=None) -> [queries, training].

    −∂l_qᵀ C⁻¹ ∂l_b, how fast the loss of query q changes as the weight of training example b grows:
    negative where b helps q (see `influence`). ``queries`` and ``training`` are (x, target) each;
    ``operator`` is C⁻¹, such as

        kronecker(network, loss)(…).inverse(damping)            K-FAC
        ekfac(network, loss)(…, operator=…).inverse(damping)    EK-FAC (Grosse et al., 2023)
        GgnInverse(…)                                           by conjugate gradients

    or anything else with a ``matvec`` that `jax.jit` takes as an argument; None is the identity.
    Under the heuristic damping of K-FAC the preconditioned gradient of a query is a capture again,
    so that no gradient is formed where inputs and deltas say the same for less.

    Args:
        network: The network; one with batch norm or dropout, `in_inference_mode`.
        loss: The loss, of training examples and queries alike.
        memory: About how many bytes the intermediate arrays may take; the scores, and what is
            given, are not among them.
        per_position: Give [queries, training, positions], the parts of the sum that each position
            of a training example, such as a token, contributes to its gradient. Every layer with
            parameters must have these positions.

    Raises:
        ValueError: an option is out of range; ``operator`` is of another network; the network has
            no parameters, or a layer that mixes the examples of a batch or, for ``per_position``,
            has other positions than another, or none.
        TypeError: ``operator`` has no ``matvec``.
    """
    require_positive_integer("influence_scores", "memory", memory)
    network = plain(network)
    run = own_captures("influence_scores", network, loss)

    @jax.jit
    def prepare(params, state, x, target, key, operator):
        return _prepared(run(params, state, x, target, key), operator)

    def own(params, state, x, target, key):
        captures = run(params, state, x, target, key)
        return _positions_apart(captures) if per_position else captures

    @jax.jit
    def score(params, state, x, target, key, prepared):
        products = map_captures(_products, own(params, state, x, target, key), prepared)
        return -reduce(jnp.add, jax.tree.leaves(products))

    def compute(params, state, queries, training, key=None, *, operator=None):
        arguments = (params, state)
        asked, learnt = (
            require_data(name, data)
            for name, data in (("queries", queries), ("training", training))
        )
        _require_operator(
            "influence_scores", operator, jax.eval_shape(run, *arguments, *_one(training), key)
        )
        shapes = jax.eval_shape(own, *arguments, *_one(training), key)
        positions = batch_of(shapes) if per_position else 1
        of_query, of_training = _bytes(shapes, operator)
        query_block = _fitting(memory // 2, of_query, asked)
        training_block = _fitting(memory // 2, of_training(query_block), learnt)
        scores = np.zeros((asked, learnt * positions), _dtype(shapes))
        for rows, part in numbered(queries, query_block):
            prepared = prepare(*arguments, *part, key, operator)
            for columns, other in numbered(training, training_block):
                found = np.asarray(score(*arguments, *other, key, prepared))
                width = (columns.stop - columns.start) * positions
                start = columns.start * positions
                scores[rows, start : start + width] = found[: rows.stop - rows.start, :width]
        return scores.reshape(asked, learnt, positions) if per_position else scores

    return compute


def self_influence(
    network: Layer, loss: Loss, *, memory: int = MEMORY
) -> Callable[..., np.ndarray]:
    """(params, state, training, key=None, *, operator=None) -> [training], ∂l_bᵀ C⁻¹ ∂l_b.

    Minus the diagonal of `influence_scores` of the training examples: large where an example has to
    lower its own loss, because the others do not, as of one with a wrong label (Koh and Liang,
    2017). In the eigenbasis of C it is Σ Λ⁻¹ ∘ (U_Aᵀ G_b U_B)², of turned inputs and deltas.

    Raises:
        ValueError, TypeError: as `influence_scores`.
    """
    require_positive_integer("self_influence", "memory", memory)
    run = own_captures("self_influence", plain(network), loss)

    @jax.jit
    def score(params, state, x, target, key, operator):
        return _own_products(run(params, state, x, target, key), operator)

    def compute(params, state, training, key=None, *, operator=None):
        count = require_data("training", training)
        shapes = jax.eval_shape(run, params, state, *_one(training), key)
        _require_operator("self_influence", operator, shapes)
        size = block_size(run, params, state, training, key, memory)
        if isinstance(operator, Kronecker):
            operator = jax.jit(Kronecker.eigh)(operator)
        scores = np.zeros(count, _dtype(shapes))
        for rows, part in numbered(training, size):
            found = np.asarray(score(params, state, *part, key, operator))
            scores[rows] = found[: rows.stop - rows.start]
        return scores

    return compute


class _Explicit(NamedTuple):
    """Preconditioned gradients of queries, [queries, *parameter]."""

    gradients: Any


class _Matrix(NamedTuple):
    """A preconditioned capture of queries, of weight and bias as one matrix."""

    capture: Any


def _prepared(captures: Any, operator: Any) -> Any:
    """What the captures of training examples are held against, in the tree of captures."""
    if operator is None:
        return captures
    if isinstance(operator, Kronecker):
        return map_captures(_prepared_block, captures, operator.blocks)
    gradients = in_params(map_captures(contractions.per_example, captures), leading=1)
    solved = jax.lax.map(operator.matvec, gradients)
    split = jax.vmap(lambda one: split_like(captures, one))(solved)
    return map_captures(lambda _, own: _Explicit(own), captures, split)


def _prepared_block(capture: Any, block: Any) -> Any:
    if isinstance(block, Factors):
        return _Matrix(multiplied(capture, block.inputs, block.deltas))
    if isinstance(block, Eigenbasis):
        # Turned as inputs and deltas; what comes back is no product of any.
        there = contractions.per_example(turned(widened(capture), block))["weight"]
        back = jax.vmap(lambda own: from_matrix(capture, block, block.turned_back(own)))
        return _Explicit(back(block.values * there))
    gradients = contractions.per_example(capture)
    return _Explicit(jax.vmap(block.apply)(gradients))


def _products(capture: Any, prepared: Any) -> Array:
    """[queries, batch]."""
    if isinstance(prepared, _Explicit):
        return contractions.products_with_each(capture, prepared.gradients)
    if isinstance(prepared, _Matrix):
        capture, prepared = with_bias_as_input(capture), prepared.capture
    return reduce(jnp.add, contractions.dot_products(prepared, capture).values())


def _own_products(captures: Any, operator: Any) -> Array:
    """[batch], of each example with itself."""
    if operator is None:
        return per_example_squared_norms.of(captures)
    if isinstance(operator, Kronecker):
        products = map_captures(_own_of_block, captures, operator.blocks)
        return reduce(jnp.add, jax.tree.leaves(products))

    def of_one(own: Any) -> Array:
        solved = operator.matvec(own)
        return reduce(jnp.add, map(jnp.vdot, *map(jax.tree.leaves, (own, solved))))

    return jax.lax.map(of_one, per_example_gradients.of(captures))


def _own_of_block(capture: Any, block: Any) -> Array:
    if not isinstance(block, Eigenbasis):
        return contractions.weighted_squares(capture, block.values)
    return contractions.weighted_squares(turned(widened(capture), block), {"weight": block.values})


def _positions_apart(captures: Any) -> Any:
    """The captures of a batch of batch · positions examples with one position each."""
    seen: dict[tuple, str] = {}

    def apart(capture: Any) -> Any:
        if isinstance(capture, StackedCapture):
            return StackedCapture(jax.vmap(apart)(capture.capture))
        kinds = LinearCapture | AffineCapture | EmbeddingCapture | OffsetCapture
        if not isinstance(capture, kinds) or getattr(capture, "shape", None):
            raise ValueError(
                "influence_scores: expected layers that act position by position with "
                f"per_position=True, got a {type(capture).__name__} of another kind"
            )
        seen.setdefault(tuple(capture.deltas.shape[1:-1]), type(capture).__name__)
        if len(seen) > 1 or () in seen:
            raise ValueError(
                "influence_scores: expected all layers with parameters to have the same positions "
                f"with per_position=True, got {[list(shape) for shape in seen]}"
            )
        rows = math.prod(capture.deltas.shape[:-1])

        def split(a: Any) -> Any:
            features = a.shape[len(capture.deltas.shape) - 1 :]
            return a.reshape(rows, *features) if features else a.reshape(rows)

        return jax.tree.map(split, capture)

    return map_captures(apart, captures)


def _require_operator(where: str, operator: Any, shapes: Any) -> None:
    """Of captures of these shapes."""
    if not jax.tree.leaves(shapes):
        raise ValueError(f"{where}: expected a network with parameters, got one without")
    if isinstance(operator, Kronecker):
        operator.require_of(where, shapes)
    if operator is not None and not callable(getattr(operator, "matvec", None)):
        raise TypeError(
            f"{where}: expected operator to be None or to have a method matvec, "
            f"got {brief(operator)}"
        )


def require_data(name: str, data: Any) -> int:
    """How many examples there are in (x, target)."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"influence: expected {name} to be a tuple (x, target), got {brief(data)}")
    count = batch_size("influence", data)
    if count == 0:
        raise ValueError(f"influence: expected {name} to hold at least one example, got none")
    return count


def _one(data: Any) -> Any:
    """The shapes of one example."""
    shape = jax.ShapeDtypeStruct
    return jax.tree.map(lambda a: shape((1, *a.shape[1:]), canonicalize_dtype(a.dtype)), data)


def numbered(data: Any, size: int) -> Iterator[tuple[slice, tuple]]:
    """The numbers of the examples of each block, and the block filled up."""
    count = batch_size("influence", data)
    parts = blocks(data[0], data[1], size)
    for start, (x, target, _) in zip(range(0, count, size), parts, strict=True):
        yield slice(start, min(start + size, count)), (x, target)


def _bytes(shapes: Any, operator: Any) -> tuple[int, Callable[[int], int]]:
    """What a query takes, and a training example beside so many queries; of captures of one."""
    captures = jax.tree.leaves(shapes, is_leaf=lambda node: isinstance(node, Capture))
    gradients = jax.eval_shape(contract, shapes)
    formed = sum(math.prod(g.shape) * g.dtype.itemsize for g in jax.tree.leaves(gradients))
    of_query = sum(pair_bytes(capture, 1) for capture in captures)

    def of_training(queries: int) -> int:
        return sum(pair_bytes(capture, queries) for capture in captures)

    return of_query + (0 if operator is None else 3 * formed), of_training


def block_size(
    run: Callable, params: Any, state: Any, data: tuple, key: Array | None, memory: int
) -> int:
    """How many examples fit whose captures, which ``run`` gives, are contracted."""
    shapes = jax.eval_shape(run, params, state, *_one(data), key)
    return _fitting(memory, _bytes(shapes, None)[1](1), batch_size("influence", data))


def _fitting(memory: int, each: int, count: int) -> int:
    """How many examples of so many bytes fit, at least one."""
    return max(1, min(count, memory // max(each, 1)))


def _dtype(shapes: Any) -> Any:
    return jnp.result_type(
        *(sum_dtype(g.dtype) for g in jax.tree.leaves(jax.eval_shape(contract, shapes)))
    )
