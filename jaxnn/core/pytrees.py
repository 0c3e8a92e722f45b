"""Dataclasses as pytrees."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import TypeVar

import jax
from jax.tree_util import GetAttrKey

T = TypeVar("T")

static = partial(dataclasses.field, metadata={"static": True})
"""A field that belongs to the structure of a registered dataclass, and is no child of it."""


def register_dataclass(cls: type[T]) -> type[T]:
    """Makes a pytree of a dataclass whose fields are children, but for those that are static.

    It is used and it behaves like `jax.tree_util.register_dataclass`, by which two classes with
    like fields have structures that compare equal (up to JAX 0.12 at least): a function under
    `jax.jit` that was compiled for one may then be run for the other.

    Args:
        cls: A dataclass. A field is static by ``field(metadata={"static": True})``, and must then
            be hashable.

    Returns:
        The class.

    Raises:
        TypeError: ``cls`` is not a dataclass.
        ValueError: It is registered already.
    """
    every = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    fields = [field for field in every if field.init]
    names = [field.name for field in fields if not field.metadata.get("static")]
    of_structure = [field.name for field in fields if field.metadata.get("static")]

    def flatten(tree: object) -> tuple[tuple, tuple]:
        structure = tuple(getattr(tree, name) for name in of_structure)
        return tuple(getattr(tree, name) for name in names), structure

    def flatten_with_keys(tree: object) -> tuple[tuple, tuple]:
        children, structure = flatten(tree)
        return tuple(zip(map(GetAttrKey, names), children, strict=True)), structure

    def unflatten(structure: tuple, children: Iterable) -> T:
        return cls(
            **dict(zip(names, children, strict=True)),
            **dict(zip(of_structure, structure, strict=True)),
        )

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
