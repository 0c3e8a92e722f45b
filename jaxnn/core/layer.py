"""A layer is four pure functions; a loss is two. Everything else in jaxnn is made of these."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxnn.core.validation import require_floating


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a factory was given, by name. Equal to nothing else, as the functions of a layer are."""

    values: Mapping[str, Any]


class Layer(NamedTuple):
    """A differentiable function with parameters, and its backward pass written by hand.

    Arrays have the batch first. ``x`` and ``y`` are arrays or tuples of them; ``dx`` has ``None``
    for what has no gradient (integers, masks). ``params`` is a dict of arrays for a layer that has
    some, and ``()`` for one that has none; ``state`` is what training changes outside the gradient
    (running statistics), usually ``()``.

    A layer that is made of others lists them in ``parts``; its params, state, residuals and
    captures are then tuples with one entry for each part, so that any network can be walked.
    """

    init: Callable
    """(key, x) -> (params, state), where x holds arrays or `jax.ShapeDtypeStruct`."""
    predict: Callable
    """(params, state, x) -> y: inference, the textbook definition."""
    forward: Callable
    """(params, state, x, key) -> (y, state, residuals): training; keeps what backward needs."""
    backward: Callable
    """(params, residuals, dy) -> (dx, captures): derived by hand, linear in dy."""
    name: str = ""
    """For summaries and errors."""
    parts: tuple["Layer", ...] = ()
    """The layers inside a combinator."""
    rebuild: Callable | None = None
    """(*parts) -> the same combinator around other parts; see `rewrite`."""
    inference: "Layer | None" = None
    """The layer with the same params and state whose forward is this one's predict, where they
    differ; see `in_inference_mode`."""
    arguments: Arguments = Arguments({})
    """What the layer was made with, as far as functions that rewrite networks ask; see `fuse`."""


class Loss(NamedTuple):
    """A loss for each example of a batch, and its gradient written by hand.

    The gradient functions of `jaxnn.core.gradients` reduce it: the weighted mean over the batch.
    """

    value: Callable
    """(prediction, target) -> [batch], each example's own loss."""
    gradient: Callable
    """(prediction, target) -> the gradient of each example's own loss by its prediction."""
    name: str = ""
    hessian_root: Callable | None = None
    """(prediction, target, v) -> S v, with the shape of the prediction, for a root S of the Hessian
    of each example's own loss by its prediction: S Sᵀ = ∂²l/∂y². For curvature, where it is known.
    """
    weighted_gradient: Callable | None = None
    """(prediction, target, factors) -> (values, gradient of Σ factors[b] l_b by the prediction).

    For a loss that computes both at once, and whose prediction holds what has no gradient for each
    example; see `jaxnn.losses.projection`. ``gradient`` is then not used for a network's backward pass.
    """


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A fact known when the program is traced (a shape, an axis), carried among the residuals."""

    value: Any


def parameter_free(name: str, forward: Callable, backward: Callable) -> Layer:
    """A layer without parameters, state or randomness.

    Args:
        name: For summaries and errors.
        forward: x -> (y, residuals).
        backward: (residuals, dy) -> dx.
    """

    def init(key: Array | None, x: Any):
        jax.eval_shape(forward, x)  # a shape that forward refuses is refused here
        return (), ()

    def predict(params: Any, state: Any, x: Any):
        return forward(x)[0]

    def train(params: Any, state: Any, x: Any, key: Array | None):
        y, residuals = forward(x)
        return y, state, residuals

    def pull_back(params: Any, residuals: Any, dy: Any):
        return backward(residuals, dy), ()

    return Layer(init, predict, train, pull_back, name)


def pointwise(
    name: str,
    function: Callable,
    *,
    slope_from_output: Callable | None = None,
    slope_from_input: Callable | None = None,
) -> Layer:
    """An activation y = f(x), element by element, with dx = f'(x) · dy.

    Args:
        name: For summaries and errors.
        function: f, whose autodiff derivative at a kink is the same as the slope given here.
        slope_from_output: f'(x) written in terms of y: no input has to be kept.
        slope_from_input: f'(x) written in terms of x, where y does not determine it.
    """
    slope = slope_from_output or slope_from_input
    if slope is None or (slope_from_output and slope_from_input):
        raise ValueError(f"{name}: expected one of slope_from_output and slope_from_input")

    def forward(x: Array):
        require_floating(name, "x", x)
        y = function(x)
        return y, (y if slope_from_output else x)

    def backward(kept: Array, dy: Array):
        return slope(kept) * dy

    return parameter_free(name, forward, backward)


def walk(layer: Layer, *trees: Any, path: str = "") -> Iterator[tuple]:
    """Every layer without parts, depth first: (path such as "2.0.1", layer, its part of each tree).

    ``trees`` are trees that follow the layer's parts: params, state, captures, gradients.
    """
    if not layer.parts:
        yield (path, layer, *trees)
    for index, part in enumerate(layer.parts):
        below = f"{path}.{index}" if path else str(index)
        yield from walk(part, *(tree[index] for tree in trees), path=below)


def rewrite(layer: Layer, function: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """The same network with every layer without parts replaced by ``function(path, layer)``."""
    if not layer.parts:
        return function(path, layer)
    parts = [
        rewrite(part, function, f"{path}.{index}" if path else str(index))
        for index, part in enumerate(layer.parts)
    ]
    return with_parts(layer, parts, path)


def with_parts(layer: Layer, parts: Iterable[Layer], path: str = "") -> Layer:
    """The same combinator around other parts; ``path`` is its place, for the error if it cannot."""
    if layer.rebuild is None:
        raise ValueError(f"rewrite: expected {label(path, layer)} to have rebuild beside its parts")
    return layer.rebuild(*parts)._replace(name=layer.name)


def in_inference_mode(network: Layer) -> Layer:
    """The same network, whose forward pass is its predict and whose backward pass belongs to that.

    Batch norm takes its running statistics, dropout is the identity: nothing is random and no
    example depends on another, so that quantities of single examples have a meaning. Params and
    state are those of the network itself.
    """
    return rewrite(network, lambda path, layer: layer.inference or layer)


def label(path: str, layer: Layer) -> str:
    """How reports name a layer: its place in the network and what it is."""
    return f"{path} {layer.name}".strip()
