"""Captures of convolutions: inputs and deltas, contracted by an algorithm of convolution."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import Capture, LinearCapture, StackedCapture, static
from jaxnn.kernels.convolution.choosing import run
from jaxnn.kernels.convolution.geometry import Geometry, spread, transposed_kernel
from jaxnn.kernels.convolution.patches import rows, unfold
from jaxnn.kernels.products import sum_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvCapture(Capture):
    """Of a convolution: ∂L/∂W[t] = Σ_batch Σ_p xᵀ[p · strides + t · dilation] δ[p], ∂L/∂b = Σ Σ δ.

    After unfolding it is that of a linear layer on patches: ``unfolded()`` gives the
    `LinearCapture` from which every other quantity comes, and ``folded()`` brings what has the
    shape of its parameters into that of the convolution's.
    """

    inputs: Any  # [batch, *size, in]
    deltas: Any  # [batch, *output_size, out]
    geometry: Geometry = dataclasses.field(metadata={"static": True})
    use_bias: bool = static(default=True)
    algorithm: str | None = static(default=None)

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*kernel, in of a group, out], "bias": [out]}."""
        weight = self._weight_gradient(self.inputs, self.deltas)
        return _with_bias(weight, self.deltas, self.use_bias)

    def unfolded(self) -> Capture:
        """The same capture as a `LinearCapture` of the patches, its positions on one axis.

        inputs are [batch, positions, taps · in] with the taps in row-major order. Of a convolution
        with groups it is a `StackedCapture` of such, one for each group.
        """
        return _linear(unfold(self.inputs, self.geometry), self.deltas, self)

    def folded(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """Parameters of the `unfolded()` capture in the shapes of the convolution's own.

        Args:
            parameters: {"weight": [taps · in, out], "bias": [out]}, each with a leading axis of
                groups where there are groups.
        """
        return _fold(parameters, self.geometry)

    def join(self, *others: "ConvCapture") -> "JoinedConvCapture":
        """The uses side by side: their sizes may differ."""
        return JoinedConvCapture((self, *others))

    def _weight_gradient(self, inputs: Array, deltas: Array) -> Array:
        return run("weight_gradient", self.algorithm, inputs, deltas, self.geometry)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvTransposeCapture(ConvCapture):
    """Of a transposed convolution, whose ``geometry`` is that of the convolution it transposes.

    There x stands where a convolution has its deltas: ∂L/∂W[t] = Σ δᵀ[p · strides + …] x[p].
    """

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*kernel, out of a group, in], "bias": [out]}."""
        weight = self._weight_gradient(self.deltas, self.inputs)
        return _with_bias(weight, self.deltas, self.use_bias)

    def unfolded(self) -> Capture:
        """As for a convolution; the patches are those of x with zeros between its elements."""
        patches = unfold(spread(self.inputs, self.geometry), self.geometry.transposed)
        return _linear(patches, self.deltas, self)

    def folded(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """As for a convolution; the kernel is mirrored, and has its in and out exchanged."""
        folded = _fold(parameters, self.geometry)
        return folded | {"weight": transposed_kernel(folded["weight"], self.geometry.groups)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JoinedConvCapture(Capture):
    """Of one kernel used several times, on inputs whose sizes may differ."""

    uses: tuple[ConvCapture, ...]

    def gradient(self) -> dict[str, Array]:
        """The sum over the uses."""
        return jax.tree.map(lambda *g: sum(g), *(use.gradient() for use in self.uses))

    def unfolded(self) -> Capture:
        """The patches of all uses as positions of one capture."""
        first, *others = (use.unfolded() for use in self.uses)
        return first.join(*others)

    def folded(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """As for a convolution."""
        return self.uses[0].folded(parameters)

    def join(self, *others: Any) -> "JoinedConvCapture":
        """With the further uses."""
        more = (o.uses if isinstance(o, JoinedConvCapture) else (o,) for o in others)
        return JoinedConvCapture(sum(more, self.uses))


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


def _fold(parameters: dict[str, Array], geometry: Geometry) -> dict[str, Array]:
    weight = parameters["weight"]
    weight = weight.reshape(geometry.groups, *geometry.kernel_size, -1, weight.shape[-1])
    weight = jnp.moveaxis(weight, 0, -2)
    folded = {"weight": weight.reshape(*weight.shape[:-2], -1)}
    return folded | {name: p.ravel() for name, p in parameters.items() if name != "weight"}
