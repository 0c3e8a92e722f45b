"""Meshes of devices: an axis over which batches are split, one over which parameters are."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from jaxnn.core.validation import require_positive_integer
from jaxnn.kernels.parts import DATA

MODEL = "model"
"""The axis over which single layers are split."""
STAGE = "stage"
"""The axis on which the stages of a pipeline stand."""


def make_mesh(
    data: int | None = None,
    model: int = 1,
    *,
    stages: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of data · model devices, with the axes "data" and "model"; with ``stages``, of data ·
    stages · model, with the axes "data", "stage" and "model".

    Programs are written as for one device; the compiler splits them as the shardings of their
    arguments say (axes of type ``AxisType.Auto``). Neighbouring devices share a layer.

    Args:
        data: Into how many parts a batch is split; as many as the devices allow unless given.
        model: Into how many parts a layer is split.
        stages: Over how many devices the stages of a pipeline stand.
        devices: Those to use; all of all processes unless given.

    Raises:
        TypeError: ``data``, ``model`` or ``stages`` is no integer.
        ValueError: They are not positive, or their product is not the number of devices.
    """
    available = list(jax.devices() if devices is None else devices)
    require_positive_integer("make_mesh", "model", model)
    if stages is not None:
        require_positive_integer("make_mesh", "stages", stages)
    if data is None:
        data = max(len(available) // (model * (stages or 1)), 1)
    require_positive_integer("make_mesh", "data", data)
    sizes = {DATA: data, STAGE: stages, MODEL: model}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    count = math.prod(sizes.values())
    if count != len(available):
        platform = f" of platform {available[0].platform}" if available else ""
        named = "data · model" if stages is None else "data · stages · model"
        raise ValueError(
            f"make_mesh: expected {named} to be the number of devices, {len(available)}"
            f"{platform}, got {' · '.join(map(str, sizes.values()))} = {count}"
        )
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), types, devices=available)


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of a tree are placed on; None where they are on single devices.

    Raises:
        ValueError: They are on several meshes.
    """
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    meshes = {s.mesh for s in shardings if isinstance(s, NamedSharding)}
    if len(meshes) > 1:
        raise ValueError(f"sharding: expected arrays on one mesh, got {len(meshes)} meshes")
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh)), None)


def on_mesh(mesh: Mesh | None, function: Callable) -> Callable:
    """The same function, compiled and run under the mesh if there is one."""
    if mesh is None:
        return function

    def run(*arguments: Any, **options: Any):
        with jax.set_mesh(mesh):
            return function(*arguments, **options)

    return run


def require_data_axis(where: str, mesh: Any = None) -> None:
    """Raise ValueError unless a mesh, or the one around if there is one, has the axis over which
    batches are split."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if not mesh.empty and DATA not in mesh.axis_names:
        raise ValueError(
            f"{where}: expected a mesh with the axis {DATA!r}, over which batches are split, as "
            f"make_mesh has it, got axes {mesh.axis_names}"
        )


def require_divisible(where: str, name: str, size: int, mesh: Mesh | None) -> None:
    """Raise ValueError unless ``size`` examples can be split evenly over the data axis."""
    parts = 1 if mesh is None else mesh.shape.get(DATA, 1)
    if size % parts:
        below, above = size // parts * parts, math.ceil(size / parts) * parts
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{where}: expected {name} to be a multiple of the {parts} devices over which a batch "
            f"is split, such as {near}, got {size}"
        )
