"""Which algorithm computes a pass of a convolution: the one place where that is decided.

A further algorithm is an entry of `ALGORITHMS`, whose name `jaxnn.conv` then takes, and a line of
the `RULE`, by which it is chosen.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.kernels.convolution import direct, elementwise, patches, taps, winograd
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.limits import Limits, in_use

PASSES = ("forward", "input_gradient", "weight_gradient")
ALGORITHMS: dict[str, Any] = {
    "direct": direct,
    "patches": patches,
    "elementwise": elementwise,
    "winograd": winograd,
    "taps": taps,
}
"""Modules or hashable objects, each with ``forward(x, weight, geometry)``,
``input_gradient(dy, weight, geometry)`` and ``weight_gradient(x, dy, geometry)``. One that cannot
compute every convolution says so by ``applies(geometry, inputs)``, for the channels of x, and in
words by ``TAKES``."""


class Case(NamedTuple):
    """What the rule knows of a pass: its name and geometry, the channels of x and y, the dtype, and
    the numbers that the machine has a say in."""

    pass_name: str
    geometry: Geometry
    inputs: int
    outputs: int
    dtype: jnp.dtype
    limits: Limits

    @property
    def is_depthwise(self) -> bool:
        """Whether every group has one input channel."""
        return self.inputs == self.geometry.groups

    @property
    def has_small_patches(self) -> bool:
        """Whether there are few input channels, and a small kernel."""
        patch = self.geometry.taps * self.inputs
        limits = self.limits
        return self.inputs <= limits.max_narrow_channels and patch <= limits.max_narrow_patch

    @property
    def sums_few(self) -> bool:
        """Whether each number of y, or of dx, is a sum of few channels of a small kernel."""
        if self.pass_name == "weight_gradient":
            return False
        summed = self.inputs if self.pass_name == "forward" else self.outputs
        return self._has_few_multiples(summed, self.limits.max_narrow_channels)

    @property
    def makes_few_sums(self) -> bool:
        """Whether the gradient of a small kernel has few sums for each output."""
        return self._has_few_multiples(self.inputs, self.limits.max_sums_channels)

    @property
    def has_few_taps(self) -> bool:
        """Whether the sum over the taps may be written out."""
        return self.geometry.taps <= self.limits.max_taps_written_out

    @property
    def has_winograd_channels(self) -> bool:
        """Whether there are so many channels that the transforms pay for themselves.

        Of a weight gradient those of x count, of which patches would be copies.
        """
        fewest = min(self.inputs, self.outputs)
        channels = self.inputs if self.pass_name == "weight_gradient" else fewest
        return channels >= getattr(self.limits, f"winograd_{self.pass_name}")

    def _has_few_multiples(self, channels: int, most: int) -> bool:
        of_a_group = channels // self.geometry.groups
        few = self.geometry.taps * of_a_group <= self.limits.max_multiples
        return few and of_a_group <= most


class Line(NamedTuple):
    """An algorithm, for which cases it is taken, and why."""

    algorithm: str
    holds: Callable[[Case], bool]
    reason: str


FEW = "XLA's convolution is slower where few channels are added up, and patches are copies"
RULE = [
    Line(
        "patches",
        lambda case: case.geometry.taps == 1,
        "a 1×1 convolution is a dense layer at every position",
    ),
    Line("elementwise", lambda case: case.sums_few, FEW),
    Line(
        "taps",
        lambda case: case.pass_name == "forward" and case.inputs == 1,
        "the same in a loop, which does not grow with the kernel",
    ),
    Line(
        "patches",
        lambda case: case.pass_name == "input_gradient" and case.has_small_patches,
        "XLA's convolution is slower where there are few channels",
    ),
    Line(
        "winograd",
        lambda case: case.has_winograd_channels and jnp.finfo(case.dtype).bits >= 32,
        "16 multiplications instead of 36 pay for the transforms",
    ),
    Line(
        "patches",
        lambda case: (
            case.pass_name == "weight_gradient"
            and sum(case.geometry.kernel_size) <= case.limits.max_shifts
        ),
        "XLA's convolution is slower, in a loop body most of all; of large kernels it is not",
    ),
    Line("direct", lambda case: True, "the library's convolution needs no copies of x"),
]
"""Of the lines whose algorithm applies, the first that holds."""

RULE_OF_GROUPS = [
    Line("elementwise", lambda case: case.sums_few, FEW),
    Line(
        "elementwise",
        lambda case: case.pass_name == "weight_gradient" and case.makes_few_sums,
        "XLA's grouped convolution is slower, and products of so few channels are",
    ),
    Line(
        "taps",
        lambda case: case.is_depthwise,
        "the same in a loop, which does not grow with the kernel",
    ),
    Line(
        "patches",
        lambda case: case.geometry.groups > case.limits.max_groups_in_a_row and case.has_few_taps,
        "XLA's grouped convolution is slower; too many groups for one by one",
    ),
    Line(
        "taps",
        lambda case: case.geometry.groups > case.limits.max_groups_in_a_row,
        "patches of many taps take long to compile",
    ),
]
"""The same for several groups; where none holds they are computed one after the other."""


class Choice(NamedTuple):
    """An algorithm, and why it was chosen."""

    algorithm: str
    reason: str
    group_by_group: bool = False
    """Whether the groups are computed one after the other, each as a convolution of its own."""

    def __str__(self) -> str:
        """Such as "patches", or "direct/group"."""
        return self.algorithm + ("/group" if self.group_by_group else "")


def choose(
    pass_name: str,
    geometry: Geometry,
    inputs: int,
    outputs: int,
    dtype: jnp.dtype,
    limits: Limits | None = None,
) -> Choice:
    """The algorithm for a pass on CPU, by the `RULE`. GPU and TPU always take "direct".

    The numbers behind the rule are those of ``python -m experiments.benchmark convolution``; the
    limits in it are those in use unless given (see `jaxnn.kernels.convolution.limits`).
    """
    case = Case(pass_name, geometry, inputs, outputs, dtype, limits or in_use())
    groups = geometry.groups
    for line in RULE if groups == 1 else RULE_OF_GROUPS:
        if applies(ALGORITHMS[line.algorithm], geometry, inputs) and line.holds(case):
            return Choice(line.algorithm, line.reason)
    of_one = dataclasses.replace(geometry, groups=1)
    inner = choose(pass_name, of_one, inputs // groups, outputs // groups, dtype, limits)
    return inner._replace(group_by_group=True)


def algorithm_of(given: Any) -> Any:
    """The algorithm of that name; any other than a name as it is."""
    return ALGORITHMS[given] if isinstance(given, str) else given


def applies(algorithm: Any, geometry: Geometry, inputs: int) -> bool:
    """Whether the algorithm can compute this convolution: any, where it does not say."""
    own = getattr(algorithm, "applies", None)
    return own is None or own(geometry, inputs)


def run(pass_name: str, algorithm: Any, a: Array, b: Array, geometry: Geometry) -> Array:
    """A pass of a convolution.

    Args:
        pass_name: "forward" of (x, weight), "input_gradient" of (dy, weight) or "weight_gradient"
            of (x, dy).
        algorithm: One of `ALGORITHMS` by its name, any such object, or a `Choice`; None for what is
            chosen.
        a: The first array of the pass.
        b: The second.
        geometry: Sizes, strides and so on.
    """
    if isinstance(algorithm, Choice):
        return _run(pass_name, ALGORITHMS[algorithm.algorithm], algorithm, a, b, geometry)
    if algorithm is not None:
        return _run(pass_name, algorithm_of(algorithm), None, a, b, geometry)
    outputs = a.shape[-1] if pass_name == "input_gradient" else b.shape[-1]
    inputs = b.shape[-2] * geometry.groups if pass_name != "weight_gradient" else a.shape[-1]
    return run(pass_name, choose(pass_name, geometry, inputs, outputs, a.dtype), a, b, geometry)


# Compiled also where the caller is not: the algorithms are many small operations.
@partial(jax.jit, static_argnames=("pass_name", "algorithm", "choice", "geometry"), inline=True)
def _run(
    pass_name: str, algorithm: Any, choice: Choice | None, a: Array, b: Array, geometry: Geometry
) -> Array:
    function = getattr(algorithm, pass_name)
    if choice is None:
        return function(a, b, geometry)
    on_cpu = partial(_group_by_group, function) if choice.group_by_group else function
    return jax.lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: on_cpu(a, b, geometry),
        default=lambda a, b: getattr(direct, pass_name)(a, b, geometry),
    )


def _group_by_group(function: Callable, a: Array, b: Array, geometry: Geometry) -> Array:
    # A weight has its groups along the outputs, as x and dy have them along their channels.
    of_one = dataclasses.replace(geometry, groups=1)
    members = zip(*(jnp.split(array, geometry.groups, axis=-1) for array in (a, b)), strict=True)
    return jnp.concatenate([function(*member, of_one) for member in members], axis=-1)
