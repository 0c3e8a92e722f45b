"""Linear maps and tables of vectors, their parameters given as arguments."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.functional.arrays import array, floats, given, run
from jaxnn.functional.making import function_of
from jaxnn.interop.functions import over_batches
from jaxnn.layers import bilinear as of_bilinear
from jaxnn.layers import dense as of_dense
from jaxnn.layers import embedding as of_embedding
from jaxnn.layers import positions


def _dense(make: Callable, x: Any, weight: Any, bias: Any = None):
    """``x`` has any number of axes before the last, none among them. `linear` is the same function.

    Args:
        x: [*batch, in].
        weight: [in, features]: that of `torch.nn.functional.linear` transposed.
        bias: [features], or None.
    """
    x = floats("dense", "x", x, "[*batch, in]")
    weight = floats("dense", "weight", weight, "[in, features]")
    layer = make(features=weight.shape[-1], use_bias=bias is not None)
    params = given(weight=weight, bias=_bias("dense", bias))
    return over_batches("dense", partial(run, layer, params), x=(x, 1))


def _bilinear(make: Callable, first: Any, second: Any, weight: Any, bias: Any = None):
    """Both may have any number of axes before the last, none among them.

    Args:
        first: a, [*batch, m].
        second: b, [*batch, n].
        weight: [m, n, features].
        bias: [features], or None.
    """
    first = floats("bilinear", "first", first, "[*batch, m]")
    second = floats("bilinear", "second", second, "[*batch, n]")
    weight = floats("bilinear", "weight", weight, "[m, n, features]")
    layer = make(features=weight.shape[-1], use_bias=bias is not None)
    params = given(weight=weight, bias=_bias("bilinear", bias))

    def of_both(first: Array, second: Array):
        return run(layer, params, (first, second))

    return over_batches("bilinear", of_both, first=(first, 1), second=(second, 1))


def _embedding(make: Callable, ids: Any, weight: Any):
    """``ids`` have any shape; y has one axis more.

    Args:
        ids: Integers, an array or one number.
        weight: [vocabulary, features].
    """
    layer, params, ids = _table(make, "embedding", ids, weight)
    layer.require_ids(ids[None])
    return run(layer, params, ids[None])[0]


def _embedding_bag(make: Callable, ids: Any, weight: Any, weights: Any = None):
    """``ids`` are [*bags, positions] with any number of axes before the last, none among them.

    Args:
        ids: Integers [*bags, positions].
        weight: [vocabulary, features].
        weights: w, one for each id, in mode "sum"; 1 unless given.
    """
    layer, params, ids = _table(make, "embedding_bag", ids, weight)
    layer.require_ids(ids[None], 2, layer.padding_id)
    if weights is None:
        return run(layer, params, ids[None])[0]
    weights = floats("embedding_bag", "weights", weights, "[*bags, positions]")
    return run(layer, params, (ids[None], weights[None]))[0]


def _table(make: Callable, where: str, ids: Any, weight: Any) -> tuple[Any, dict, Array]:
    weight = floats(where, "weight", weight, "[vocabulary, features]")
    ids = array(where, "ids", ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{where}: expected ids to be integers, got {ids.dtype}")
    vocabulary, features = weight.shape
    layer = make(vocabulary=vocabulary, features=features, dtype=weight.dtype.name)
    return layer, {"weight": weight}, ids


def _positional_embedding(make: Callable, x: Any, weight: Any = None):
    """``x`` is [*batch, time, features] with any number of axes before, none among them.

    Args:
        x: [*batch, time, features].
        weight: Learned vectors [length, features]; None for sinusoidal ones.
    """
    where = "positional_embedding"
    x = floats(where, "x", x, "[*batch, time, features]")
    if weight is None:
        return over_batches(where, partial(run, make(), ()), x=(x, 2))
    weight = floats(where, "weight", weight, "[length, features]")
    layer = make(kind="learned", length=weight.shape[0])
    return over_batches(where, partial(run, layer, {"weight": weight}), x=(x, 2))


def _bias(where: str, bias: Any) -> Array | None:
    return None if bias is None else floats(where, "bias", bias, "[features]")


_OF_AFFINE = ("features", "use_bias", "weight_init", "bias_init")

dense = linear = function_of(of_dense.dense, _dense, *_OF_AFFINE)
bilinear = function_of(of_bilinear.bilinear, _bilinear, *_OF_AFFINE)
_OF_TABLE = ("vocabulary", "features", "weight_init", "dtype")
embedding = function_of(of_embedding.embedding, _embedding, *_OF_TABLE)
embedding_bag = function_of(of_embedding.embedding_bag, _embedding_bag, *_OF_TABLE)
positional_embedding = function_of(
    positions.positional_embedding, _positional_embedding, "kind", "length", "weight_init"
)
