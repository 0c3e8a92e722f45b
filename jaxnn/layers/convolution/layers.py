"""The layers `conv` and `conv_transpose`, and `conv_relu_max_pool` for a `conv` that is pooled.

Here x is brought into the form that the algorithms take, padded with zeros alone, and the three
passes are put together: a transposed convolution is the convolution with its forward pass and its
input gradient exchanged.
"""

from dataclasses import KW_ONLY
from functools import cached_property, partial
from typing import Annotated, Any

import numpy as np
from jax import Array

from jaxnn.core.combinators import identity, serial
from jaxnn.core.contract import Layer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import brief
from jaxnn.kernels.convolution import pooled
from jaxnn.kernels.convolution.choosing import run
from jaxnn.kernels.convolution.geometry import Geometry, transposed_kernel
from jaxnn.layers.activations import relu
from jaxnn.layers.convolution.base import Convolution, longer
from jaxnn.layers.convolution.capture import ConvCapture, ConvTransposeCapture, PooledConvCapture
from jaxnn.layers.padding import (
    Mode,
    filled,
    filled_backward,
    require_fillable,
    require_value_of,
)
from jaxnn.layers.pooling import max_pool
from jaxnn.layers.windows import (
    Pairs,
    extent,
    output_sizes,
    per_dimension,
    require_sizes,
    resolve_padding,
)


class conv(Convolution):
    """y[p] = Σ_t x[p · strides + t · dilation] W[t] + b, over the taps t of the kernel.

    A cross-correlation, as in every library of neural networks; the parameters are ``weight``
    [*kernel_size, in / groups, features] and ``bias`` [features], in the dtype of x. Backward:
    ∂L/∂x adds dy[p] W[t]ᵀ to the place that tap t met in window p, ∂L/∂W[t] = Σ x[…]ᵀ dy[p] over
    batch and positions, ∂L/∂b = Σ dy. The result is that of `jax.lax.conv_general_dilated`.

    Padding is "SAME" (zeros, ⌈size / strides⌉ outputs), "VALID" (none), "CIRCULAR" (x continued
    periodically, ⌈size / strides⌉ outputs), or how many zeros. In place of zeros ``padding_mode``
    puts ``padding_value`` or x itself: "constant", "edge", "reflect", "symmetric" or "circular", as
    in `jaxnn.pad`, of whose y this is then the convolution with padding "VALID". Other arguments,
    shapes and errors are those of `jaxnn.layers.convolution.base.Convolution`.

    Raises:
        ValueError: ``padding_mode`` is unknown or mirrors more than there is, or ``padding_value``
            or padding "CIRCULAR" is given with a mode that it does not go with.
    """

    _: KW_ONLY
    padding_mode: Mode = "constant"
    padding_value: float = 0.0

    def validate(self) -> None:
        super().validate()
        given = (self.padding_mode, self.padding_value)
        require_value_of(self.name, "padding_value", "padding_mode", given[1], given[0])
        if self.padding == "CIRCULAR" and given not in (("constant", 0), ("circular", 0)):
            raise ValueError(
                'conv: expected padding to be another than "CIRCULAR", which says what stands '
                f"around x, where padding_mode is {given[0]!r} with value {given[1]}"
            )

    @property
    def filling(self) -> tuple[str, float]:
        own = (self.padding_mode, self.padding_value)
        return super().filling if self.padding == "CIRCULAR" else own

    def plan(self, x: Any, weight: Any = None) -> tuple[Pairs, Geometry]:
        size, kernel, strides, dilation = self.per_dimension(x)
        zeros, periods = self.around(size, kernel, strides, dilation)
        require_fillable(self.name, "padding", size, periods, self.filling[0])
        size = longer(size, periods)
        output = output_sizes(self.name, size, kernel, strides, zeros, dilation, "kernel_size")
        geometry = Geometry(size, output, kernel, strides, zeros, dilation, self.groups)
        self.require_applicable(geometry, x.shape[-1])
        if weight is not None:
            self.require_fit(x, weight, weight.shape[-2] * self.groups)
        return periods, geometry

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        periods, geometry = self.plan(x, params["weight"])
        x = filled(x, periods, *self.filling)
        y = run("forward", self.algorithm, x, params["weight"], geometry)
        return self.with_bias(y, params), state, (x, Static((periods, geometry)))

    def backward(self, params: dict, residuals: Any, dy: Array):
        x, facts = residuals
        periods, geometry = facts.value
        dx = run("input_gradient", self.algorithm, dy, params["weight"], geometry)
        capture = ConvCapture(x, dy, geometry, self.use_bias, self.algorithm)
        return filled_backward(dx, periods, self.filling[0]), capture

    def fused_with(self, *following: Layer) -> tuple[Layer, ...]:
        """`conv_relu_max_pool` where a ReLU and max-pooling by 2×2 windows side by side follow."""
        # Exact types: a layer derived from one of these may have another gradient.
        if tuple(map(type, (self, *following[:2]))) != (conv, relu, max_pool):
            return ()
        if self.algorithm is not None or not _is_by_twos(following[1]):
            return ()
        return conv_relu_max_pool(self), identity(), identity()


def _is_by_twos(pool: Any) -> bool:
    return (
        pool.window in (2, (2, 2))
        and pool.strides in (None, 2, (2, 2))
        and pool.padding == "VALID"
        and pool.dilation in (1, (1, 1))
        and not pool.ceil_mode
    )


class conv_transpose(Convolution):
    """y[p · strides + t · dilation] += x[p] W[t]ᵀ, then + b: the transpose of a convolution.

    It takes x [batch, *size, in] to y [batch, *output_size, features] as the input gradient of the
    convolution with the same ``weight`` [*kernel_size, features / groups, in] takes dy to dx; its
    own backward pass is therefore that convolution. ``bias`` is [features]. Strides, dilation and
    ``algorithm`` are those of the convolution that is transposed, distances in y.

    The same as `jax.lax.conv_transpose` with ``transpose_kernel=True``, which mirrors the kernel,
    and as PyTorch's transposed convolution with the kernel's axes in another order. Padding is that
    of the convolution that is transposed, as in PyTorch: it makes y smaller. It is "SAME" (y has
    size · strides), "VALID" (y has size · strides, and as much more as a kernel reaches beyond a
    stride), "CIRCULAR" (y has size · strides and is periodic), or how much is cut off y: (low,
    high) gives (size − 1) · strides + (kernel_size − 1) · dilation + 1 − low − high, and
    ``output_padding`` as many more at the end, as in PyTorch: of the sizes that the convolution
    takes to the same, another than the smallest. Other arguments, shapes and errors are those of
    `jaxnn.layers.convolution.base.Convolution`.

    Raises:
        ValueError: ``padding`` cuts off all of y; ``output_padding`` is neither below the strides
            nor below the dilation, or given with padding "SAME" or "CIRCULAR", which say the size.
    """

    _: KW_ONLY
    output_padding: Annotated[int | tuple[int, ...], partial(require_sizes, minimum=0)] = 0

    def validate(self) -> None:
        super().validate()
        more = self.output_padding
        if self.padding in ("SAME", "CIRCULAR") and any(np.ravel(more)):
            raise ValueError(
                'conv_transpose: expected padding to be "VALID" or numbers where output_padding is '
                f"given, since {self.padding!r} says the size of y, got output_padding={more}"
            )

    def plan(self, x: Any, weight: Any = None) -> tuple[Pairs, Geometry]:
        size, kernel, strides, dilation = self.per_dimension(x)
        output = self._output_size(size, kernel, strides, dilation)
        zeros, periods = self.around(output, kernel, strides, dilation)
        if self.padding == "CIRCULAR":
            periods, zeros = _periods_that_reach(periods, strides, extent(kernel, dilation))
        more = self._output_padding(strides, dilation)
        zeros = tuple((low, high - n) for (low, high), n in zip(zeros, more, strict=True))
        size = longer(size, periods)
        geometry = Geometry(output, size, kernel, strides, zeros, dilation, self.groups)
        self.require_applicable(geometry, self.features)
        if weight is not None:
            self.require_fit(x, weight, weight.shape[-1])
        return periods, geometry

    def init(self, key: Array | None, x: Any):
        # Initialisers take the last axes for in and out, which this kernel exchanges.
        params, state = super().init(key, x)
        return params | {"weight": transposed_kernel(params["weight"], self.groups)}, state

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        periods, geometry = self.plan(x, params["weight"])
        x = filled(x, periods, *self.filling)
        y = run("input_gradient", self.algorithm, x, params["weight"], geometry)
        return self.with_bias(y, params), state, (x, Static((periods, geometry)))

    def backward(self, params: dict, residuals: Any, dy: Array):
        x, facts = residuals
        periods, geometry = facts.value
        dx = run("forward", self.algorithm, dy, params["weight"], geometry)
        capture = ConvTransposeCapture(x, dy, geometry, self.use_bias, self.algorithm)
        return filled_backward(dx, periods, self.filling[0]), capture

    def _output_size(
        self, size: tuple, kernel: tuple, strides: tuple, dilation: tuple
    ) -> tuple[int, ...]:
        reach = extent(kernel, dilation)
        full = tuple((n - 1) * s + r for n, s, r in zip(size, strides, reach, strict=True))
        same = tuple(n * s for n, s in zip(size, strides, strict=True))
        more = self._output_padding(strides, dilation)
        if self.padding == "VALID":
            return tuple(map(sum, zip(map(max, full, same), more, strict=True)))
        if isinstance(self.padding, str):
            return same
        pairs = resolve_padding(self.padding, same, kernel, strides, dilation)
        facts = zip(full, pairs, more, strict=True)
        output = tuple(n - sum(pair) + end for n, pair, end in facts)
        if min(output) < 1:
            raise ValueError(
                f"{self.name}: expected padding to leave something of an output of size {full}, "
                f"got {self.padding!r}"
            )
        return output

    def _dimensions(self, **more: Any) -> int | None:
        return super()._dimensions(output_padding=self.output_padding, **more)

    def _output_padding(self, strides: tuple, dilation: tuple) -> tuple[int, ...]:
        more = per_dimension(self.output_padding, len(strides))
        if any(n and n >= max(facts) for n, *facts in zip(more, strides, dilation, strict=True)):
            raise ValueError(
                f"conv_transpose: expected output_padding to be below the strides {strides} or the "
                f"dilation {dilation}, got {self.output_padding}"
            )
        return more


def _periods_that_reach(lows: Pairs, strides: tuple, reach: tuple) -> tuple[Pairs, Pairs]:
    """For a periodic transposed convolution, by how much x goes on and what is cut off around y.

    x goes on before and after as far as its elements' windows reach y, and y, longer by those, is
    cut to its size.
    """
    periods, cuts = [], []
    for (low, _), stride, r in zip(lows, strides, reach, strict=True):
        before, after = -(-(r - 1 - low) // stride), (stride - 1 + low) // stride
        periods.append((before, after))
        cuts.append((low + before * stride, (after - 1) * stride + r - low))
    return tuple(periods), tuple(cuts)


class conv_relu_max_pool(Layer):
    """``serial(conv, relu(), max_pool(2))`` in one pass over the data, with the params, state and
    captures of ``conv``.

    y[r, c] = max(0, the maximum of conv(x) over rows 2r, 2r + 1 and columns 2c, 2c + 1), from x
    [batch, height, width, in] to [batch, ⌊height / 2⌋, ⌊width / 2⌋, features] for a convolution
    that keeps the size. dy goes to the first of equal maxima, and nowhere where none is positive.
    How it is computed stands in `jaxnn.kernels.convolution.pooled`; where no algorithm gives phases
    (strides, dilation, groups, few channels but not one, large kernels, sizes below 2, one or three
    dimensions, an ``algorithm`` given to ``conv``) the layers are computed one after the other.

    Raises:
        TypeError: ``conv`` is another layer.
        TypeError, ValueError: As the three layers, for an x that they refuse.
    """

    conv: conv

    mixes = False

    def validate(self) -> None:
        if type(self.conv) is not conv:  # a subclass may compute something else
            raise TypeError(
                f"conv_relu_max_pool: expected conv to be a conv, got {brief(self.conv)}"
            )

    @cached_property
    def _one_by_one(self) -> Layer:
        return serial(self.conv, relu(), max_pool(2))

    def init(self, key: Array | None, x: Any):
        return self.conv.init(key, x)

    def predict(self, params: Any, state: Any, x: Array):
        return self._one_by_one.predict((params, (), ()), (state, (), ()), x)

    def forward(self, params: Any, state: Any, x: Array, key: Array | None):
        periods, geometry = self.conv.plan(x, params["weight"])
        algorithm = None
        if self.conv.algorithm is None and not any(map(any, periods)):
            algorithm = pooled.choose_phases(geometry, params["weight"])
        if algorithm is None:
            every = (params, (), ()), (state, (), ())
            y, _, kept = self._one_by_one.forward(*every, x, key)
            return y, state, (kept, Static(None))
        geometry = pooled.of_whole_windows(geometry)
        bias = params["bias"] if self.conv.use_bias else None
        y, winner = pooled.forward(x, params["weight"], bias, geometry, algorithm)
        return y, state, ((x, winner), Static((geometry, algorithm)))

    def backward(self, params: Any, residuals: Any, dy: Array):
        kept, facts = residuals
        if facts.value is None:
            dx, captures = self._one_by_one.backward((params, (), ()), kept, dy)
            return dx, captures[0]
        x, winner = kept
        geometry, algorithm = facts.value
        dx = pooled.input_gradient(dy, winner, params["weight"], geometry, algorithm)
        capture = PooledConvCapture(x, winner, dy, geometry, self.conv.use_bias, algorithm)
        return dx, capture
