"""In which order PyTorch has the features that a layer of a network is given.

Where images are flattened, PyTorch's features are in the order (channels, *positions) and these in
(*positions, channels): what comes behind has its parameters in another order. So every array of the
network is followed from layer to layer, as it would stand in PyTorch: with channels first behind
convolution and pooling, with features last behind dense, recurrent and attention layers; and where
that cannot be known, parameters that would depend on it are refused.
"""

import math
from typing import Any, NamedTuple

import jax

from jaxnn.core.adapters import Around, Pointwise
from jaxnn.core.combinators import add, concatenate, identity, multiply, repeat
from jaxnn.core.contract import Layer
from jaxnn.core.networks import rewrite
from jaxnn.layers.activations import OverAxis, prelu
from jaxnn.layers.attention import attention
from jaxnn.layers.bilinear import bilinear
from jaxnn.layers.convolution import conv_relu_max_pool
from jaxnn.layers.convolution.base import Convolution
from jaxnn.layers.dense import dense
from jaxnn.layers.dropout import dropout
from jaxnn.layers.embedding import embedding, embedding_bag
from jaxnn.layers.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from jaxnn.layers.padding import pad
from jaxnn.layers.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)
from jaxnn.layers.positions import positional_embedding
from jaxnn.layers.recurrent.layers import Recurrent
from jaxnn.layers.reshaping import flatten, pixel_shuffle, pixel_unshuffle, reshape, split
from jaxnn.layers.resizing import resize, upsample
from jaxnn.layers.scattering import scattering
from jaxnn.losses.projection import projection
from jaxnn.rewrites.precision import with_precision


class Layout(NamedTuple):
    """How an array stands in PyTorch."""

    kind: str
    """"last": features last, as here. "first": channels behind the batch. "flat": features that
    were flattened with channels first. "free": an input of three axes, of which that is not known
    yet. "unknown": what was turned for a layer that takes it otherwise, and may have been turned
    back; and what comes out of a layer that nothing is known of. "cut": features that were cut into
    positions, features last as here. "mixed": features in an unknown order."""
    sizes: tuple[int, ...] = ()
    """(*positions, channels) of "flat"."""


class Given(NamedTuple):
    """What a layer is given."""

    layout: Layout
    shape: tuple[int, ...]
    """Of the first array, or the only one."""


LAST, FIRST, FREE, UNKNOWN, CUT, MIXED = map(
    Layout, ("last", "first", "free", "unknown", "cut", "mixed")
)

COPIES = 4
"""Of a `repeat`, by which layouts have become what they stay."""

_POOLS = (max_pool, avg_pool, adaptive_max_pool, adaptive_avg_pool)
_POOLS += (global_max_pool, global_avg_pool)
SPATIAL = (Convolution, conv_relu_max_pool, batch_norm, group_norm, instance_norm, *_POOLS)
SPATIAL += (pad, resize, upsample, pixel_shuffle, pixel_unshuffle, scattering)
"""With channels first in PyTorch, where there are positions."""
_SEQUENTIAL = (Recurrent, attention, embedding, embedding_bag, positional_embedding)
_SEQUENTIAL += (dense, projection, bilinear)
"""With features last in PyTorch."""
_ELEMENTWISE = (Pointwise, OverAxis, prelu, dropout, identity, add, multiply)


def layouts_of(
    network: Layer, shapes: tuple[Any, Any], x: Any, *, channels_first: bool
) -> dict[str, Given]:
    """What every layer is given, by its path in `jaxnn.walk`.

    Args:
        network: Any.
        shapes: Of its params and state.
        x: Its input, arrays or shapes.
        channels_first: Whether channels are first where it is not known. Inputs of four axes and
            more have them first anyway.
    """
    log = _Log(channels_first)

    def watched(path: str, layer: Layer) -> Layer:
        match layer:
            case with_precision():
                return _InOnePrecision(layer)
            case repeat():
                return _OneByOne(layer, layer.n)
        return layer if layer.parts else _Watched(layer, log, path)

    followed = rewrite(network, watched)

    def predict(params: Any, state: Any, x: Any):
        for leaf in jax.tree.leaves(x):
            known = FIRST if channels_first or leaf.ndim > 3 else FREE
            log.put(leaf, known if leaf.ndim > 2 else LAST)
        return followed.predict(params, state, x)

    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    jax.eval_shape(predict, *shapes, x)
    return log.given


class _Log:
    """What is known of the arrays of a trace, and what layers were given."""

    def __init__(self, channels_first: bool):
        self.channels_first = channels_first
        self.arrays: dict[int, tuple[Any, Layout]] = {}  # they are kept: ids must stay their own
        self.given: dict[str, Given] = {}

    def put(self, array: Any, layout: Layout) -> None:
        if layout == UNKNOWN and self.channels_first:
            layout = FIRST
        self.arrays[id(array)] = array, layout

    def of(self, array: Any) -> Layout:
        if id(array) in self.arrays:
            return self.arrays[id(array)][1]
        return UNKNOWN if array.ndim > 2 else MIXED if array.ndim == 2 else LAST

    def note(self, path: str, given: Given) -> None:
        uses = {given.layout, self.given.get(path, given).layout}
        self.given[path] = given._replace(layout=_joined(uses, len(given.shape) > 2))


class _Watched(Around):
    """A layer without parts, of which it is noted what it was given."""

    log: Any
    path: str

    def predict(self, params: Any, state: Any, x: Any):
        given = [(leaf, self.log.of(leaf)) for leaf in jax.tree.leaves(x)]
        y = self.layer.predict(params, state, x)
        self.log.note(self.path, Given(_taken(self.layer, given), tuple(given[0][0].shape)))
        passed = {id(leaf) for leaf, _ in given}
        for leaf in jax.tree.leaves(y):
            if id(leaf) not in passed:
                self.log.put(leaf, _after(self.layer, given, leaf))
        return y


class _OneByOne(Around):
    """A `repeat` without its scan, which would hide what is followed; the copies behind the first
    few are given what these are."""

    n: int

    def predict(self, params: Any, state: Any, x: Any):
        (part,) = self.layer.parts
        own_params, own_state = (jax.tree.map(lambda a: a[0], tree[0]) for tree in (params, state))
        for _ in range(min(self.n, COPIES)):
            x = part.predict(own_params, own_state, x)
        return x


class _InOnePrecision(Around):
    """A `with_precision` without its casts, which would hide what is followed."""

    def predict(self, params: Any, state: Any, x: Any):
        (part,), (inner,) = self.layer.parts, self.layer.of_parts(state)
        return part.predict(params, inner, x)


def _taken(layer: Layer, given: list[tuple[Any, Layout]]) -> Layout:
    """The layout that the parameters of a layer depend on."""
    (first, layout), *others = given
    if not isinstance(layer, _SEQUENTIAL):
        return _joined({layout for _, layout in given}, first.ndim > 2)
    # Masks and memories stand as they do there; what is no longer in one order does not.
    lost = [other for _, other in others if other == MIXED or other.kind == "flat"]
    return MIXED if lost else layout


def _joined(layouts: set[Layout], positions: bool) -> Layout:
    """The layout of arrays that are added, multiplied or laid side by side."""
    layouts = layouts - {FREE} or layouts
    if len(layouts) == 1:
        return next(iter(layouts))
    return UNKNOWN if positions and not layouts & {CUT, MIXED} else MIXED


def _after(layer: Layer, given: list[tuple[Any, Layout]], y: Any) -> Layout:
    """The layout of what a layer returned."""
    positions = y.ndim > 2
    first, layout = given[0]
    if isinstance(layer, _SEQUENTIAL):
        return _taken_as(LAST, first, layout) if positions else LAST
    if isinstance(layer, SPATIAL):
        if positions:
            return _taken_as(FIRST, first, layout)
        return LAST if first.ndim > 2 else layout
    if isinstance(layer, layer_norm | rms_norm):
        over_features = positions and layer.own_axes(y) == (y.ndim - 1,)
        return _taken_as(LAST, first, layout) if over_features else layout
    joined = _joined({layout for _, layout in given}, positions)
    if isinstance(layer, _ELEMENTWISE):
        return joined
    if isinstance(layer, flatten | reshape):
        return _reshaped(tuple(first.shape[1:]), layout, tuple(y.shape[1:]))
    side_by_side = isinstance(layer, concatenate | split)
    if (joined == LAST and (side_by_side or not positions)) or (side_by_side and joined == FIRST):
        return joined
    return UNKNOWN if positions else MIXED


def _taken_as(wanted: Layout, array: Any, layout: Layout) -> Layout:
    """Behind a layer that takes positions and features in one way: of an array that had them in the
    other it is not known whether it was turned back."""
    if layout == CUT:
        return LAST if wanted == LAST else MIXED
    return wanted if layout in (wanted, FREE) or array.ndim == 2 else UNKNOWN


def _reshaped(given: tuple[int, ...], layout: Layout, shape: tuple[int, ...]) -> Layout:
    """Of an example of one shape in another: positions may be put together, each with its own
    features, and features may be cut into positions."""
    if layout == MIXED or given == shape:
        return layout
    in_order = layout in (LAST, CUT)
    if len(shape) == 1:
        if in_order or _is_trivial(given):
            return LAST
        return Layout("flat", given) if layout == FIRST else MIXED
    if len(given) == 1:
        return (FREE if _is_trivial(shape) else CUT) if in_order else MIXED
    if given[-1] == shape[-1]:
        return layout if in_order else UNKNOWN
    return MIXED


def _is_trivial(shape: tuple[int, ...]) -> bool:
    """Whether (*positions, channels) and (channels, *positions) are one order."""
    return shape[-1] == 1 or math.prod(shape[:-1]) == 1
