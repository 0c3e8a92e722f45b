"""Networks as trees of layers: walked, rewritten, and seen otherwise as a whole.

Rewriting goes by type (``isinstance``, ``match``), never by name. What is true of one layer's view
is made true of a network by `rewrite`, parts first.
"""

from collections.abc import Callable, Iterator
from typing import Any

from jaxnn.core.contract import Layer
from jaxnn.core.value import checked


def walk(layer: Layer, *trees: Any, path: str = "") -> Iterator[tuple]:
    """Every layer without parts, depth first: (path such as "2.stem.1", layer, its own trees).

    ``trees`` are trees that follow the layer's parts: params, state, captures, gradients.
    """
    checked("walk", "network", layer, Layer)
    if not layer.parts:
        yield (path, layer, *trees)
        return
    members = (layer.of_parts(tree) for tree in trees)
    for name, part, *own in zip(layer.part_names, layer.parts, *members, strict=True):
        yield from walk(part, *own, path=below(path, name))


def rewrite(layer: Layer, function: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """The same network with ``function(path, layer)`` in place of every layer, parts first."""
    checked("rewrite", "network", layer, Layer)
    parts = tuple(
        rewrite(part, function, below(path, name))
        for name, part in zip(layer.part_names, layer.parts, strict=True)
    )
    if any(new is not old for new, old in zip(parts, layer.parts, strict=True)):
        layer = layer.with_parts(parts)
        if layer in parts:
            return layer  # a compound that has become what it was made of
    return function(path, layer)


def in_inference_mode(network: Layer) -> Layer:
    """The same network, whose forward pass is its predict and whose backward pass belongs to that.

    Batch norm takes its running statistics, dropout is the identity: nothing is random and no
    example depends on another, so that quantities of single examples have a meaning. Params and
    state are those of the network itself.
    """
    return rewrite(network, lambda path, layer: layer.at_rest())


def summing(network: Layer) -> Layer:
    """The same network, of whose captures nothing but the gradient is wanted; see `Layer.summing`.

    Contract its captures by `contract_for`.
    """
    return rewrite(network, lambda path, layer: layer.summing())


def fuse(network: Layer) -> Layer:
    """The same network, computed faster: its params, state and captures keep their form.

    In every `serial`, a `conv`, `relu` and `max_pool` with windows of 2×2 side by side become one
    layer with the parameters of the convolution, followed by two that do nothing. ``predict`` stays
    the textbook definition. Where a near-tie decides which element of a window is the maximum,
    rounding may decide for another than it does in the network itself.
    """
    return rewrite(network, lambda path, layer: layer.fused())


def plain(network: Layer) -> Layer:
    """The network with its true gradient, where a rule or an estimator puts another in its place.

    Params and state are those of the network itself; its curvature is that of this one.
    """
    return rewrite(network, lambda path, layer: layer.plain())


def label(path: str, layer: Layer) -> str:
    """How reports name a layer: its place in the network and what it is."""
    return f"{path} {layer.name}".strip()


def below(path: str, name: str) -> str:
    """The path of a part."""
    return ".".join(filter(None, (path, name)))
