"""Convolution, ReLU and 2×2 max-pooling in one pass over the data.

One after the other, these layers write and read three arrays of the size of the convolution's
output. Here a chunk of the batch is taken through all of them while it is in the cache. The
convolution gives its output as four phases, one for each place in a pooling window; their maximum
and where it came from are all that is kept: a `uint8` that says which phase won, or that none was
positive, which is the ReLU. Backward places dy by that index and hands the four phases of the
deltas to the algorithm of the convolution.

    y = max(0, max_k a_k),   ∂L/∂a_k = dy if k won else 0,   a_k the phase k of conv(x) + bias
"""

import dataclasses
import functools
import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.core.captures import Capture
from jaxnn.core.combinators import serial
from jaxnn.core.layer import Layer, Static
from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks
from jaxnn.kernels.convolution import direct, phase_patches, winograd
from jaxnn.kernels.convolution.choosing import choose
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.winograd import Grid, interleave, phases
from jaxnn.kernels.products import sum_rows
from jaxnn.layers.activations import relu
from jaxnn.layers.convolution.capture import ConvCapture
from jaxnn.layers.pooling import max_pool

ALGORITHMS: dict[str, ModuleType] = {"patches": phase_patches, "winograd": winograd}
"""Each gives the phases, and takes those of the deltas, of a chunk of the batch."""

NONE_WON = 4
CHUNK_BYTES = 2 * 2**20
"""How large the phases of one chunk, and what they are computed from, may be."""


def conv_relu_max_pool(conv: Layer) -> Layer:
    """``serial(conv, relu(), max_pool(2))`` with the params, state and captures of ``conv``.

    y[r, c] = max(0, the maximum of conv(x) over rows 2r, 2r + 1 and columns 2c, 2c + 1), from x
    [batch, height, width, in] to [batch, ⌊height / 2⌋, ⌊width / 2⌋, features] for a convolution
    that keeps the size. dy goes to the first of equal maxima, and nowhere where none is positive.

    Where no algorithm gives phases (strides, dilation, groups, few channels, sizes below 2, one or
    three dimensions, an ``algorithm`` given to ``conv``) the layers are computed one after the
    other.

    Raises:
        ValueError: ``conv`` is another layer.
        TypeError, ValueError: As the three layers, for an x that they refuse.
    """
    if conv.name != "conv":
        raise ValueError(f"conv_relu_max_pool: expected a conv layer, got {conv.name!r}")
    chosen_by_user = conv.arguments.values["algorithm"] is not None
    plain = serial(conv, relu(), max_pool(2))

    def predict(params: Any, state: Any, x: Array):
        return plain.predict((params, (), ()), (state, (), ()), x)

    def forward(params: Any, state: Any, x: Array, key: Array | None):
        # The convolution checks x, and tells its geometry.
        facts = jax.eval_shape(conv.forward, params, state, x, key)[2][1]
        periods, geometry = facts.value
        algorithm = None if chosen_by_user else _algorithm(periods, geometry, params["weight"])
        if algorithm is None:
            y, _, kept = plain.forward((params, (), ()), (state, (), ()), x, key)
            return y, state, (kept, Static(None))
        geometry = _of_whole_windows(geometry)
        y, winner = _forward(x, params, geometry, algorithm)
        return y, state, ((x, winner), Static((geometry, algorithm)))

    def backward(params: Any, residuals: Any, dy: Array):
        kept, facts = residuals
        if facts.value is None:
            dx, captures = plain.backward((params, (), ()), kept, dy)
            return dx, captures[0]
        x, winner = kept
        geometry, algorithm = facts.value
        dx = _input_gradient(dy, winner, params["weight"], geometry, algorithm)
        return dx, PooledConvCapture(x, winner, dy, geometry, "bias" in params, algorithm)

    return Layer(conv.init, predict, forward, backward, "conv_relu_max_pool")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PooledConvCapture(Capture):
    """Of a convolution whose output went through ReLU and pooling: ``deltas`` are those after it.

    The gradient places them by ``winner``, a chunk of the batch at a time; for every other quantity
    they are placed as a whole, which makes it the capture of a convolution, ``unpooled()``.
    """

    inputs: Any  # [batch, *size, in]
    winner: Any  # [batch, rows, columns, out], uint8
    deltas: Any  # [batch, rows, columns, out]
    geometry: Geometry = dataclasses.field(metadata={"static": True})
    use_bias: bool = dataclasses.field(metadata={"static": True})
    algorithm: str = dataclasses.field(metadata={"static": True})

    def gradient(self) -> dict[str, Array]:
        """{"weight": [*kernel, in, out], "bias": [out]}."""
        arrays = (self.inputs, self.winner, self.deltas)
        weight, bias = _parameter_gradients(*arrays, self.geometry, self.algorithm)
        return {"weight": weight} | ({"bias": bias} if self.use_bias else {})

    def unpooled(self) -> ConvCapture:
        """The capture of the convolution alone."""
        deltas = _whole_deltas(self.deltas, self.winner, self.geometry)
        return ConvCapture(self.inputs, deltas, self.geometry, use_bias=self.use_bias)

    def unfolded(self) -> Capture:
        """As of a convolution."""
        return self.unpooled().unfolded()

    def folded(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """As of a convolution."""
        return self.unpooled().folded(parameters)

    def join(self, *others: "PooledConvCapture") -> Capture:
        """As of a convolution."""
        return self.unpooled().join(*(other.unpooled() for other in others))


def _algorithm(periods: Any, geometry: Geometry, weight: Any) -> str | None:
    """The algorithm that gives the phases of this convolution fastest, or None."""
    inputs, outputs = weight.shape[-2:]
    if (
        any(map(any, periods))
        or geometry.strides != (1, 1)
        or geometry.dilation != (1, 1)
        or geometry.groups > 1
        or min(geometry.output_size) < 2
    ):
        return None
    chosen = choose("forward", geometry, inputs, outputs, weight.dtype).algorithm
    if chosen == "patches" and inputs > 1:
        return None  # 16 taps in place of 9 would cost more than is saved
    return chosen if chosen in ALGORITHMS else None


def _of_whole_windows(geometry: Geometry) -> Geometry:
    """The same convolution without the last row or column of an odd number of them."""
    output_size = tuple(n - n % 2 for n in geometry.output_size)
    padding = tuple(
        (low, n + reach - 1 - size - low)
        for n, reach, size, (low, _) in zip(
            output_size, geometry.extent, geometry.size, geometry.padding, strict=True
        )
    )
    return dataclasses.replace(geometry, output_size=output_size, padding=padding)


def _pool(grid: Grid, bias: Array | None) -> tuple[Array, Array]:
    """The maximum of the phases and 0, and the index of the phase that it is."""
    elements = [a if bias is None else a + bias for row in grid for a in row]
    top = functools.reduce(jnp.maximum, elements, jnp.zeros((), elements[0].dtype))
    y, winner = jnp.zeros_like(top), jnp.full(top.shape, NONE_WON, jnp.uint8)
    for index, element in reversed(list(enumerate(elements))):
        won = ((element == top) & (element > 0)) | jnp.isnan(element)
        y, winner = jnp.where(won, element, y), jnp.where(won, jnp.uint8(index), winner)
    return y, winner


def _whole_deltas(dy: Array, winner: Array, geometry: Geometry) -> Array:
    """The deltas of the convolution's output."""
    placed = phase_patches.placed_deltas(dy, winner)
    return interleave(phase_patches.as_grid(placed), geometry.output_size)


def _forward(x: Array, params: dict, geometry: Geometry, algorithm: str) -> tuple[Array, Array]:
    def on_cpu(x: Array, params: dict):
        way = ALGORITHMS[algorithm]
        kernels = way.transformed_kernel(params["weight"])

        def pooled(x: Array):
            return _pool(way.output_phases(x, kernels, geometry), params.get("bias"))

        return map_chunks(pooled, _chunks(geometry, x, params["weight"].shape[-1]), x)

    def elsewhere(x: Array, params: dict):
        y = direct.forward(x, params["weight"], geometry)
        return _pool(phases(y), params.get("bias"))

    return lax.platform_dependent(x, params, cpu=on_cpu, default=elsewhere)


def _parameter_gradients(
    x: Array, winner: Array, dy: Array, geometry: Geometry, algorithm: str
) -> tuple[Array, Array]:
    """Of the weight and of the bias."""

    def sum_won(winner: Array, dy: Array) -> Array:
        return sum_rows(jnp.where(winner < NONE_WON, dy, 0))

    def on_cpu(x: Array, winner: Array, dy: Array):
        way = ALGORITHMS[algorithm]

        def sums(x: Array, winner: Array, dy: Array):
            placed = way.placed_deltas(dy, winner)
            return way.weight_products(x, placed, geometry), sum_won(winner, dy)

        chunks = _chunks(geometry, x, dy.shape[-1])
        products, bias = sum_chunks(sums, chunks, x, winner, dy)
        return way.weight_of_products(products, geometry).astype(dy.dtype), bias.astype(dy.dtype)

    def elsewhere(x: Array, winner: Array, dy: Array):
        deltas = _whole_deltas(dy, winner, geometry)
        bias = sum_won(winner, dy).astype(dy.dtype)
        return direct.weight_gradient(x, deltas, geometry), bias

    return lax.platform_dependent(x, winner, dy, cpu=on_cpu, default=elsewhere)


def _input_gradient(
    dy: Array, winner: Array, weight: Any, geometry: Geometry, algorithm: str
) -> Array:
    def on_cpu(dy: Array, winner: Array, weight: Array):
        way = ALGORITHMS[algorithm]
        kernels = way.transformed_kernel(weight)

        def parts_of(dy: Array, winner: Array):
            return way.input_parts(way.placed_deltas(dy, winner), kernels, geometry)

        parts = map_chunks(parts_of, _chunks(geometry, dy, weight.shape[-2]), dy, winner)
        return way.input_of_parts(parts, geometry)

    def elsewhere(dy: Array, winner: Array, weight: Array):
        deltas = _whole_deltas(dy, winner, geometry)
        return direct.input_gradient(deltas, weight, geometry)

    return lax.platform_dependent(dy, winner, weight, cpu=on_cpu, default=elsewhere)


def _chunks(geometry: Geometry, a: Array, channels: int) -> int:
    """How many chunks, where a's channels and these are taken through an algorithm."""
    windows = math.prod(geometry.output_size) // 4
    example = 4 * windows * (a.shape[-1] + channels) * a.dtype.itemsize
    return chunk_count(a.shape[0], example, CHUNK_BYTES)
