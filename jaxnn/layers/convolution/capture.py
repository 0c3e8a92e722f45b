"""Captures of convolutions: inputs and deltas, contracted by an algorithm of convolution."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import LinearCapture, StackedCapture
from jaxnn.core.contract import Capture
from jaxnn.core.pytrees import register_dataclass, static
from jaxnn.kernels.convolution import pooled
from jaxnn.kernels.convolution.choosing import run
from jaxnn.kernels.convolution.geometry import Geometry, spread, transposed_kernel
from jaxnn.kernels.convolution.patches import rows, unfold
from jaxnn.kernels.products import add_all, sum_rows


class _OneUse(Capture):
    """Base of the captures of one use of a kernel."""

    deltas: Any
    geometry: Geometry

    def join(self, *others: Capture) -> "JoinedConvCapture":
        """The uses side by side: their sizes may differ."""
        return JoinedConvCapture((self, *others))

    def map_deltas(self, function: Callable) -> Capture:
        return dataclasses.replace(self, deltas=function(self.deltas))  # pyright: ignore

    def fold(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """Parameters of the `linear()` capture in the shapes of the convolution's own.

        Args:
            parameters: {"weight": [taps · in, out], "bias": [out]}, each with a leading axis of
                groups where there are groups.
        """
        weight = parameters["weight"]
        groups, kernel_size = self.geometry.groups, self.geometry.kernel_size
        weight = jnp.moveaxis(weight.reshape(groups, *kernel_size, -1, weight.shape[-1]), 0, -2)
        folded = {"weight": weight.reshape(*weight.shape[:-2], -1)}
        return folded | {name: p.ravel() for name, p in parameters.items() if name != "weight"}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvCapture(_OneUse):
    """Of a convolution: ∂L/∂W[t] = Σ_batch Σ_p xᵀ[p · strides + t · dilation] δ[p], ∂L/∂b = Σ Σ δ.

    On patches it is that of a linear layer: ``linear()`` gives the `LinearCapture` from which every
    other quantity comes, and ``fold()`` brings what has the shape of its parameters into that of
    the convolution's.
    """

    inputs: Any  # [batch, *size, in]
    deltas: Any  # [batch, *output_size, out]
    geometry: Geometry = dataclasses.field(metadata={"static": True})
    use_bias: bool = static(default=True)
    algorithm: Any = dataclasses.field(default=None, metadata={"static": True})

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*kernel, in of a group, out], "bias": [out]}."""
        weight = self._weight_gradient(self.inputs, self.deltas)
        return _with_bias(weight, self.deltas, self.use_bias)

    def linear(self) -> Capture:
        """The same capture as a `LinearCapture` of the patches, its positions on one axis.

        inputs are [batch, positions, taps · in] with the taps in row-major order. Of a convolution
        with groups it is a `StackedCapture` of such, one for each group.
        """
        return _linear(unfold(self.inputs, self.geometry), self.deltas, self)

    def _weight_gradient(self, inputs: Array, deltas: Array) -> Array:
        dtype = self.deltas.dtype
        inputs, deltas = inputs.astype(dtype), deltas.astype(dtype)
        return run("weight_gradient", self.algorithm, inputs, deltas, self.geometry)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvTransposeCapture(ConvCapture):
    """Of a transposed convolution, whose ``geometry`` is that of the convolution it transposes.

    There x stands where a convolution has its deltas: ∂L/∂W[t] = Σ δᵀ[p · strides + …] x[p].
    """

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*kernel, out of a group, in], "bias": [out]}."""
        weight = self._weight_gradient(self.deltas, self.inputs)
        return _with_bias(weight, self.deltas, self.use_bias)

    def linear(self) -> Capture:
        """As for a convolution; the patches are those of x with zeros between its elements."""
        patches = unfold(spread(self.inputs, self.geometry), self.geometry.transposed)
        return _linear(patches, self.deltas, self)

    def fold(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """As for a convolution; the kernel is mirrored, and has its in and out exchanged."""
        folded = super().fold(parameters)
        return folded | {"weight": transposed_kernel(folded["weight"], self.geometry.groups)}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class JoinedConvCapture(Capture):
    """Of one kernel used several times, on inputs whose sizes may differ."""

    uses: tuple[Capture, ...]

    def gradient(self) -> dict[str, Array]:
        """The sum over the uses."""
        return jax.tree.map(add_all, *(use.gradient() for use in self.uses))

    def map_deltas(self, function: Callable) -> "JoinedConvCapture":
        return JoinedConvCapture(tuple(use.map_deltas(function) for use in self.uses))

    def linear(self) -> Capture:
        """The patches of all uses as positions of one capture."""
        first, *others = (use.linear() for use in self.uses)
        return first.join(*others)  # pyright: ignore[reportOptionalMemberAccess]

    def fold(self, parameters: dict[str, Array]) -> dict[str, Array]:
        return self.uses[0].fold(parameters)

    def join(self, *others: Any) -> "JoinedConvCapture":
        """With the further uses."""
        more = (o.uses if isinstance(o, JoinedConvCapture) else (o,) for o in others)
        return JoinedConvCapture(sum(more, self.uses))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PooledConvCapture(_OneUse):
    """Of a convolution whose output went through ReLU and pooling: ``deltas`` are those after it.

    The gradient places them by ``winner``, a chunk of the batch at a time; for every other quantity
    they are placed as a whole, which makes it the capture of a convolution, ``unpooled()``.
    """

    inputs: Any  # [batch, *size, in]
    winner: Any  # [batch, rows, columns, out], uint8
    deltas: Any  # [batch, rows, columns, out]
    geometry: Geometry = dataclasses.field(metadata={"static": True})
    use_bias: bool = static()
    algorithm: str = static()

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*kernel, in, out], "bias": [out]}."""
        arrays = (self.inputs.astype(self.deltas.dtype), self.winner, self.deltas)
        weight, bias = pooled.parameter_gradients(*arrays, self.geometry, self.algorithm)
        return {"weight": weight} | ({"bias": bias} if self.use_bias else {})

    def unpooled(self) -> ConvCapture:
        """The capture of the convolution alone."""
        deltas = pooled.whole_deltas(self.deltas, self.winner, self.geometry)
        return ConvCapture(self.inputs, deltas, self.geometry, use_bias=self.use_bias)

    def linear(self) -> Capture:
        return self.unpooled().linear()


def _with_bias(weight: Array, deltas: Array, use_bias: bool) -> dict[str, Array]:
    """The gradients as a dict of parameters; ∂L/∂b is the sum of the deltas over all but the last
    axis."""
    if not use_bias:
        return {"weight": weight}
    return {"weight": weight, "bias": sum_rows(deltas).astype(weight.dtype)}


def _linear(patches: Array, deltas: Array, capture: ConvCapture) -> Capture:
    groups = capture.geometry.groups
    inputs, outputs = rows(patches, groups), rows(deltas[..., None, :], groups)
    if groups == 1:
        return LinearCapture(inputs[0], outputs[0], capture.use_bias)
    return StackedCapture(LinearCapture(inputs, outputs, capture.use_bias))
