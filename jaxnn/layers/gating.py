"""Gated linear units: one half of x multiplied by a function of the other."""

import functools
from typing import Annotated

from jaxnn.core.combinators import Compound, multiply, on, serial
from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_feature_axis
from jaxnn.layers.activations import gelu, sigmoid, silu
from jaxnn.layers.reshaping import split


class glu(Compound):
    """y = a · f(b), for the first half a and the second half b of x along ``axis``.

    Put together from `split`, ``on(1, f)`` and `multiply`: da = f(b) · dy, db = f'(b) · (a · dy),
    and dx is both side by side. With the sigmoid, the gated linear unit of Dauphin et al., 2017,
    with other functions those of Shazeer, 2020; what comes before it makes both halves in one go:
    ``serial(dense(2 * n), glu())``.

    Args:
        axis: Not that of the batch; y has half of its size.
        activation: f, any layer of which y has the shape of x.

    Raises:
        TypeError: x is not floating-point.
        ValueError: x has no such axis, or its size is odd.
    """

    axis: Annotated[int, require_feature_axis] = -1
    activation: Layer = sigmoid()

    @functools.cached_property
    def made(self) -> Layer:
        return serial(split(2, self.axis), on(1, self.activation), multiply())


class swiglu(Compound):
    """y = a · b σ(b): `glu` with `silu` as its activation, and the same arguments and errors."""

    axis: Annotated[int, require_feature_axis] = -1

    @functools.cached_property
    def made(self) -> Layer:
        return glu(self.axis, silu()).made


class geglu(Compound):
    """y = a · b Φ(b): `glu` with `gelu` as its activation, and the same arguments and errors."""

    axis: Annotated[int, require_feature_axis] = -1
    approximate: bool = True

    @functools.cached_property
    def made(self) -> Layer:
        return glu(self.axis, gelu(self.approximate)).made
