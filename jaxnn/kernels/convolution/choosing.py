"""Which algorithm computes a pass of a convolution: the one place where that is decided."""

import dataclasses
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.convolution import direct, elementwise, patches, winograd
from jaxnn.kernels.convolution.geometry import Geometry

ALGORITHMS: dict[str, ModuleType] = {
    "direct": direct,
    "patches": patches,
    "elementwise": elementwise,
    "winograd": winograd,
}
"""Each has ``forward(x, weight, geometry)``, ``input_gradient(dy, weight, geometry)`` and
``weight_gradient(x, dy, geometry)``."""


class Choice(NamedTuple):
    """An algorithm, and why it was chosen."""

    algorithm: str
    reason: str
    group_by_group: bool = False
    """Whether the groups are computed one after the other, each as a convolution of its own."""


def choose(
    pass_name: str, geometry: Geometry, inputs: int, outputs: int, dtype: jnp.dtype
) -> Choice:
    """The algorithm for a pass on CPU. GPU and TPU always take "direct".

    The numbers behind the rule are those of ``python -m experiments.benchmark convolution``.

    Args:
        pass_name: "forward", "input_gradient" or "weight_gradient".
        geometry: Sizes, strides and so on.
        inputs: The channels of x.
        outputs: The channels of y.
        dtype: Of the arrays.
    """
    groups = geometry.groups
    one_by_one = geometry.taps == 1
    if groups > 1 and inputs == groups:
        return Choice("elementwise", "XLA's depthwise convolution takes 20 to 100 times longer")
    if groups > MAX_GROUPS_IN_A_ROW:
        return Choice(
            "patches", "XLA's grouped convolution is slow; too many groups for one by one"
        )
    if groups > 1:
        of_one = dataclasses.replace(geometry, groups=1)
        inner = choose(pass_name, of_one, inputs // groups, outputs // groups, dtype)
        return inner._replace(group_by_group=True)
    if one_by_one:
        return Choice("patches", "a 1×1 convolution is a dense layer at every position")
    if pass_name == "forward" and inputs == 1:
        return Choice("patches", "sums over elements would be computed again by all that use them")
    narrow = inputs <= MAX_NARROW_CHANNELS and geometry.taps * inputs <= MAX_NARROW_PATCH
    if narrow and pass_name == "input_gradient":
        return Choice("patches", "XLA's convolution to few channels takes 1.3 to 4 times longer")
    if narrow and pass_name == "forward" and outputs <= MAX_NARROW_OUTPUTS:
        return Choice("patches", "XLA's convolution between few channels takes up to twice as long")
    if (
        winograd.applies(geometry)
        and min(inputs, outputs) >= MIN_WINOGRAD_CHANNELS
        and jnp.finfo(dtype).bits >= 32
    ):
        return Choice("winograd", "16 multiplications instead of 36 pay for the transforms")
    if pass_name == "weight_gradient":
        return Choice("patches", "XLA's convolution is up to 50 times slower inside a loop body")
    return Choice("direct", "the library's convolution needs no copies of x")


MAX_GROUPS_IN_A_ROW = 16
MIN_WINOGRAD_CHANNELS = 32
MAX_NARROW_CHANNELS = 6
MAX_NARROW_PATCH = 54
MAX_NARROW_OUTPUTS = 16


# Compiled also where the caller is not: the algorithms are many small operations.
@partial(jax.jit, static_argnames=("pass_name", "algorithm", "geometry"), inline=True)
def run(pass_name: str, algorithm: str | None, a: Array, b: Array, geometry: Geometry) -> Array:
    """A pass of a convolution, by the algorithm of that name or by the chosen one.

    Args:
        pass_name: "forward" of (x, weight), "input_gradient" of (dy, weight) or "weight_gradient"
            of (x, dy).
        algorithm: A name, or None.
        a: The first array of the pass.
        b: The second.
        geometry: Sizes, strides and so on.
    """
    if algorithm is not None:
        return getattr(ALGORITHMS[algorithm], pass_name)(a, b, geometry)
    outputs = a.shape[-1] if pass_name == "input_gradient" else b.shape[-1]
    inputs = b.shape[-2] * geometry.groups if pass_name != "weight_gradient" else a.shape[-1]
    choice = choose(pass_name, geometry, inputs, outputs, a.dtype)
    on_cpu = partial(_run_choice, pass_name, choice, geometry=geometry)
    elsewhere = partial(getattr(direct, pass_name), geometry=geometry)
    return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=elsewhere)


def _run_choice(pass_name: str, choice: Choice, a: Array, b: Array, geometry: Geometry) -> Array:
    function = getattr(ALGORITHMS[choice.algorithm], pass_name)
    if not choice.group_by_group:
        return function(a, b, geometry)
    # A weight has its groups along the outputs, as x and dy have them along their channels.
    of_one = dataclasses.replace(geometry, groups=1)
    members = zip(*(jnp.split(array, geometry.groups, axis=-1) for array in (a, b)), strict=True)
    return jnp.concatenate([function(*member, of_one) for member in members], axis=-1)
