"""What is done to whole trees of captures: weights for examples, and what must not be asked."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import Capture, ContractedCapture


def scaled(captures: Any, factors: Array) -> Any:
    """The captures of Σ factors[b] l_b: the deltas of each example times its factor [batch].

    Contracting them is linear in the factors, which is how a weighted sum of per-example gradients
    is had without forming any, and its transpose how their products with one vector are.
    """

    def scale(path: tuple, leaf: Array):
        if (leading := leading_axes(path)) is None:
            return leaf
        axes = (*range(leading), *range(leading + 1, leaf.ndim))
        return leaf * jnp.expand_dims(factors, axes).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(scale, captures)


def batch_of(captures: Any) -> int:
    """How many examples the captures are of.

    Raises:
        ValueError: there are none, of a network without parameters.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(captures):
        if (leading := leading_axes(path)) is not None:
            return leaf.shape[leading]
    raise ValueError("captures: expected those of a network with parameters, got none")


def leading_axes(path: tuple) -> int | None:
    """How many axes stand before the batch of the deltas at this path; None for other arrays."""
    names = [getattr(entry, "name", None) for entry in path]
    return names.count("capture") if names[-1] == "deltas" else None


def require_examples_apart(where: str, captures: Any) -> Any:
    """The captures; raises where an example's own gradient cannot be had of them.

    Raises:
        ValueError: a layer mixes the examples of a batch, or has contracted its gradient already.
    """
    for place, part in _all_parts(captures):
        if mixed_by := getattr(part, "mixed_by", None):
            name, reason = mixed_by, "mixes the examples of a batch in training"
            remedy = "; take in_inference_mode(network) in place of network"
        elif isinstance(part, ContractedCapture):
            name, reason, remedy = part.layer, "gives its gradient summed over the batch", ""
        else:
            continue
        raise ValueError(
            f"{where}: expected every example to have a gradient of its own, but "
            f"{f'{place} {name}'.strip()} {reason}{remedy}"
        )
    return captures


def mixing_layers(captures: Any) -> Iterator[str]:
    """The layers, by place and name, that mix the examples of a batch, as their captures say."""
    for place, part in _all_parts(captures):
        if mixed_by := getattr(part, "mixed_by", None):
            yield f"{place} {mixed_by}".strip()


def _all_parts(captures: Any) -> Iterator[tuple[str, Capture]]:
    """Every capture of the tree and those inside of it, with the place of the outer one."""
    for path, capture in jax.tree_util.tree_leaves_with_path(captures, is_leaf=_is_capture):
        place = jax.tree_util.keystr(path, simple=True, separator=".")
        for part in _parts(capture):
            yield place, part


def _parts(capture: Any) -> Iterator[Capture]:
    """The capture and those inside of it."""
    yield capture
    fields = [getattr(capture, field.name) for field in dataclasses.fields(capture)]
    for inner in jax.tree.leaves(fields, is_leaf=_is_capture):
        if _is_capture(inner):
            yield from _parts(inner)


def _is_capture(node: Any) -> bool:
    return isinstance(node, Capture)
