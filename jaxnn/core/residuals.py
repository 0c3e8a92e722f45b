"""What a forward pass hands to the backward pass of the same layer, and the check of dy.

The shapes of y travel with the residuals, known when the program is traced: the check of dy costs a
compiled program nothing.
"""

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.pytrees import register_dataclass


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A fact known when the program is traced (a shape, an axis), carried among the residuals."""

    value: Any


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Residuals:
    """What a layer kept, and the structure, shapes and dtypes of what it returned."""

    kept: Any
    output: Static


def guard_passes(cls: type) -> None:
    """Put the guards around the two passes of a class, where they are not yet."""
    for name, guard in (("forward", guard_forward), ("backward", guard_backward)):
        method = getattr(cls, name)
        if not getattr(method, "__isabstractmethod__", False) and method not in _GUARDED:
            setattr(cls, name, guard(method))
            _GUARDED.add(getattr(cls, name))


_GUARDED: weakref.WeakSet = weakref.WeakSet()


def forget_what_a_base_said(cls: type) -> None:
    """``mixes`` of a class that has a method of its own is unknown again, unless an abstract base
    or the class itself says it."""
    methods = (inspect.isfunction(f) and not name.startswith("__") for name, f in vars(cls).items())
    if "mixes" in vars(cls) or not any(methods):
        return
    for base in cls.__mro__[1:]:
        if not inspect.isabstract(base):
            cls.mixes = None  # pyright: ignore[reportAttributeAccessIssue]
        if "mixes" in vars(base) or not inspect.isabstract(base):
            return


def guard_forward(forward: Callable) -> Callable:
    """``forward``, with `Residuals` around what it keeps.

    Called by a subclass's own as ``super().forward``, it is as it was written; so is backward.
    """

    @functools.wraps(forward)
    def guarded(self: Any, params: Any, state: Any, x: Any, key: Any):
        y, state, kept = forward(self, params, state, x, key)
        if type(self).forward is not guarded:
            return y, state, kept
        leaves, treedef = jax.tree.flatten(y)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        return y, state, Residuals(kept, Static((treedef, shapes)))

    return guarded


def guard_backward(backward: Callable) -> Callable:
    """``backward``, given what was kept once dy is found to be like y."""

    @functools.wraps(backward)
    def guarded(self: Any, params: Any, residuals: Any, dy: Any):
        if type(self).backward is not guarded:
            return backward(self, params, residuals, dy)
        if not isinstance(residuals, Residuals):
            raise TypeError(
                f"{self.name}: expected residuals to be what its forward returned, "
                f"got {type(residuals).__name__}"
            )
        treedef, shapes = residuals.output.value
        require_cotangent(self.name, "dy", dy, treedef.unflatten(shapes))
        return backward(self, params, residuals.kept, dy)

    return guarded


def require_cotangent(where: str, name: str, dy: Any, y: Any) -> None:
    """Raise unless dy is a cotangent of y, a tree of shapes: None for what has no gradient.

    Raises:
        TypeError: dy has another structure or dtype.
        ValueError: an array of dy has another shape.
    """
    if isinstance(y, jax.ShapeDtypeStruct):
        if not jnp.issubdtype(y.dtype, jnp.floating):
            return
        if not hasattr(dy, "shape") or not hasattr(dy, "dtype"):
            raise TypeError(f"{where}: expected {name} to be an array, got {type(dy).__name__}")
        if tuple(dy.shape) != tuple(y.shape):
            raise ValueError(
                f"{where}: expected {name} to have the shape of y, {tuple(y.shape)}, "
                f"got {tuple(dy.shape)}"
            )
        if dy.dtype != y.dtype:
            raise TypeError(f"{where}: expected {name} to be {y.dtype} as y is, got {dy.dtype}")
        return
    members, treedef = jax.tree.flatten(y, is_leaf=lambda node: node is not y)
    try:
        cotangents = treedef.flatten_up_to(dy)
    except (ValueError, TypeError):
        expected = f"a tuple of {len(y)}" if isinstance(y, tuple) else type(y).__name__
        given = f"a tuple of {len(dy)}" if isinstance(dy, tuple) else type(dy).__name__
        raise TypeError(
            f"{where}: expected {name} to have the structure of y, {expected}, got {given}"
        ) from None
    for index, (cotangent, member) in enumerate(zip(cotangents, members, strict=True)):
        if cotangent is not None:
            require_cotangent(where, f"{name}[{index}]", cotangent, member)
