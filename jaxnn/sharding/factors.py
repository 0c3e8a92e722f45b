"""Captures sent in place of gradients: sufficient factors (Xie et al., 2014).

Where the examples of a batch are split over n devices, each has a part of every sum over the batch.
To have the gradient of a layer on all of them, either the parts are added up, an all-reduce of the
gradient's G bytes; or every device is given the captures of all examples, an all-gather of their C
bytes, and contracts them itself. In a ring a device sends

    2 (n − 1)/n · G   or   (n − 1)/n · C,

so that captures are sent where C < 2 G: for y = x W of m inputs, k outputs and R rows (examples and
positions of the whole batch) where R (m + k) < 2 (m k + k), the bias included.
"""

from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec as P

from jaxnn.core.captures import StackedCapture, contract_for, map_captures
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.gradients import pass_with, shares, weighted_mean
from jaxnn.core.networks import label, walk
from jaxnn.core.value import Value
from jaxnn.kernels.parts import DATA, parts_of, whole
from jaxnn.sharding.mesh import require_data_axis


class Sent(NamedTuple):
    """What a layer's gradient costs to have on all devices."""

    layer: str
    """Its place in the network and its name."""
    captures: int
    """C, in bytes."""
    gradient: int
    """G, in bytes."""

    @property
    def sends_captures(self) -> bool:
        """Whether captures are sent."""
        return self.captures < 2 * self.gradient

    def sent_bytes(self, devices: int) -> float:
        """What a device sends in a ring of so many."""
        return (devices - 1) / devices * min(self.captures, 2 * self.gradient)


class send_captures(Value):
    """The gradient of `jaxnn.backprop`, with signature and numbers of it, of a batch over devices.

    Each layer sends what is smaller, by the shapes of its captures and of its gradient. On one
    device, and for layers whose gradients are summed already, it is `backprop`. The captures of all
    layers are held until the end, those of the layers that send them for the whole batch.

    In `jaxnn.training.train` it is the ``gradient`` of a train state on a mesh whose parameters are
    whole on every device.

    Raises:
        ValueError: when called, under a mesh without the axis "data".
    """

    network: Layer
    loss: Loss

    def __call__(self, params, state, x, target, key=None, weights=None):
        """((value, state), gradients)."""
        require_data_axis("send_captures")
        run = pass_with(self.network, self.loss, shares)
        result = run(params, state, x, target, key, weights)

        def sent(capture: Capture) -> Capture:
            return _gathered(capture) if Sent("", *_sizes(capture)).sends_captures else capture

        captures = map_captures(sent, result.captures)
        value = weighted_mean(result.values, weights)
        return (value, result.state), contract_for(params, captures)

    def plan(self, params, state, x, target, key=None) -> tuple[Sent, ...]:
        """What each layer with parameters would send; of the arguments the shapes are looked at."""
        run = pass_with(self.network, self.loss, shares)
        result = jax.eval_shape(run, params, state, x, target, key)
        rows = []
        for path, layer, own in walk(self.network, result.captures):
            captures = jax.tree.leaves(own, is_leaf=lambda node: isinstance(node, Capture))
            rows += [Sent(label(path, layer), *_sizes(capture)) for capture in captures]
        return tuple(rows)


def _gathered(capture: Any, stacked: int = 0) -> Any:
    """The capture with the arrays of all examples on every device."""
    if isinstance(capture, StackedCapture):
        return StackedCapture(_gathered(capture.capture, stacked + 1))
    examples = jax.tree.leaves(capture)[0].shape[stacked]
    if parts_of(examples) == 1:
        return capture
    # Otherwise the compiler takes what this is made of for whole, too, and every device computes
    # the layers before for all examples.
    split = P(*(None,) * stacked, DATA)
    own = jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, split), capture)
    return whole(own)


def _sizes(capture: Capture) -> tuple[int, int]:
    """C and G of a capture; what is a gradient already can be sent as that alone."""
    gradient = _bytes(jax.eval_shape(lambda c: c.gradient(), capture))
    return (_bytes(capture) if capture.summed_by is None else 2 * gradient), gradient


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
