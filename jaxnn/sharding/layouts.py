"""Layouts: which axis of which parameter is split over which axis of a mesh.

    layout(network, params, mesh) -> a tree like params, of PartitionSpecs

All of them compute the same numbers; they differ in the memory that a device needs and in what the
devices have to tell each other.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxnn.core.contract import Layer
from jaxnn.core.networks import walk
from jaxnn.core.validation import unknown_name
from jaxnn.layers.dense import dense
from jaxnn.sharding.mesh import DATA, MODEL

Layout = Callable[[Layer, Any, Mesh], Any]


def replicated(network: Layer, params: Any, mesh: Mesh) -> Any:
    """Every device has all parameters: data parallel, one all-reduce of the gradients a step.

    With n devices and P bytes of parameters, a ring moves 2 (n − 1)/n · P a device and step.
    """
    return jax.tree.map(lambda _: P(), params)


def fully_sharded(network: Layer, params: Any, mesh: Mesh) -> Any:
    """Every array is split over the data axis, along its largest axis that can be split evenly.

    A device holds 1/n of the parameters and of the optimiser's state (Rajbhandari et al., 2020,
    ZeRO stage 3). Parameters are gathered where a layer needs them, (n − 1)/n · P each time. Arrays
    without such an axis stay whole.
    """

    def split(array: Any):
        parts = mesh.shape[DATA]
        size, axis = max(
            ((n, -i) for i, n in enumerate(array.shape) if n % parts == 0), default=(0, 0)
        )
        return P(*(None,) * -axis, DATA) if size else P()

    return jax.tree.map(split, params)


def tensor_parallel(network: Layer, params: Any, mesh: Mesh) -> Any:
    """Dense layers are split over the model axis, in turn by columns and by rows.

    The first of two dense layers, y = x W + b with W [in, out] split along out, gives every device
    its own features; the second, split along in, takes them as they are, and one all-reduce adds up
    the parts of its sums (Shoeybi et al., 2019, Megatron-LM). What cannot be split evenly, and all
    other layers, are whole on every device; a last dense layer without a second is, too.
    """
    parts = mesh.shape[MODEL]
    specs = []  # of one layer after the other, as its own part of params
    first = None  # a dense layer that waits for a second: its place, and its specs with one
    for _, layer, own in walk(network, params):
        specs.append(jax.tree.map(lambda _: P(), own))
        if not isinstance(layer, dense):
            continue
        *stack, inputs, outputs = own["weight"].shape  # `repeat` stacks the parameters of layers
        whole = (None,) * len(stack)
        if first is not None and inputs % parts == 0:
            specs[first[0]] |= first[1]
            specs[-1]["weight"] = P(*whole, MODEL, None)
            first = None
        elif outputs % parts == 0:
            columns = {"weight": P(*whole, None, MODEL), "bias": P(*whole, MODEL)}
            first = len(specs) - 1, {name: columns[name] for name in own if name in columns}
        else:
            first = None
    # The layers come in the order of the leaves, whatever the tree between them is made of.
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(specs))


LAYOUTS: dict[str, Layout] = {
    "fully_sharded": fully_sharded,
    "replicated": replicated,
    "tensor_parallel": tensor_parallel,
}


def find_layout(name: str) -> Layout:
    """The layout of this name; raises ValueError with the nearest one where there is none."""
    if name not in LAYOUTS:
        raise ValueError(unknown_name("layout", name, LAYOUTS))
    return LAYOUTS[name]
