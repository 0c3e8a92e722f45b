"""Compressed residuals: what backward needs is kept in a few bits (ActNN: Chen et al., 2021; GACT:
Liu et al., 2022).

The values v of a group become codes q of b bits between the smallest, m, and the largest, M,

    s = (M − m) / (2ᵇ − 1),  q = ⌊(v − m) / s + u⌋ with u uniform in [0, 1),  v̂ = m + s q,

so that E v̂ = v, with a variance of at most s²/4. Groups lie inside of an example: no example's
rounding depends on another. What is 0 in a group whose smallest value is 0, as after a ReLU, stays
0, and a group of equal values is exact.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Pointwise
from jaxnn.core.contract import Layer
from jaxnn.core.networks import label
from jaxnn.core.pytrees import register_dataclass, static
from jaxnn.core.residuals import Static
from jaxnn.core.validation import require_key, require_positive_integer
from jaxnn.kernels.ordering import after
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.activations import Clipped, heaviside, leaky_relu, relu
from jaxnn.rewrites.leaves import Altered, OfLeaves

SMALL = 8
"""An array of so many times fewer elements than the largest that a layer keeps is kept as it is,
such as the means of a normalisation."""


class compress(OfLeaves):
    """The same layer, or network, which keeps what backward needs in ``bits`` bits an element.

    Its y is the layer's own. Of each layer inside,

    - booleans take one bit, and integers, parameters and small arrays are kept as they are;
    - an activation keeps its slope f'(x), rounded, in place of x or y, so that dx = ŝ · dy has the
      mean f'(x) · dy; where there are two slopes, as ReLU's, one bit says which, exactly;
    - other floating-point arrays are rounded, group by group, at random.

    So dx and the gradient have the mean of the true ones wherever backward is linear in each array
    that is kept: in dense layers, convolutions and activations. Of normalisation, softmax,
    attention and recurrent layers, whose backward passes have products of what is kept with itself,
    the mean is off by terms of the order of the variance of the rounding. What `recompute` and
    `reversible` compute again is left to them.

    Rounding needs a key in every forward pass. In inference mode, and of `jaxnn.plain`, nothing is
    rounded.

    Args:
        layer: A layer or a network.
        bits: 8, 4 or 2.
        group: How many neighbouring elements of an example share m and s, at most: these take two
            numbers.

    Raises:
        ValueError: another number of ``bits``; at ``init``, nothing in the layer is compressed; in
            training, there is no key.
    """

    bits: Literal[8, 4, 2] = 4
    group: Annotated[int, require_positive_integer] = 128

    def inside(self, layer: Layer) -> Layer:
        return layer if layer.forgets else super().inside(layer)

    def replaced(self, leaf: Layer) -> Layer:
        kind = CompressedSlope if isinstance(leaf, Pointwise) else Compressed
        return kind(leaf, self.bits, self.group)

    def init(self, key: Array | None, x: Any):
        params, state = self.made.init(key, x)
        residuals = jax.eval_shape(self.made.forward, params, state, x, jax.random.key(0))[2]
        nodes = jax.tree.leaves(residuals, is_leaf=_is_code)
        if not any(map(_is_code, nodes)):
            raise ValueError(
                "compress: expected a layer that keeps floating-point arrays or masks for "
                f"backward, {label('', self.layer)} keeps none that {self.bits} bits can serve"
            )
        return params, state


class Compressed(Altered):
    """A layer without parts, whose residuals are kept in a few bits."""

    bits: int
    group: int

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, residuals = self.layer.forward(params, state, x, key)
        known = {id(leaf) for leaf in jax.tree.leaves((params, state))}
        leaves, treedef = jax.tree.flatten(residuals)
        kept = list({id(leaf): leaf for leaf in leaves}.values())
        places = [next(i for i, a in enumerate(kept) if a is leaf) for leaf in leaves]
        found = dict(zip(map(id, leaves), self._axes(params, state, x, key, leaves), strict=True))
        axes = [None if id(a) in known else found[id(a)] for a in kept]
        pairs = list(zip(kept, axes, strict=True))
        largest = max((a.size for a, axis in pairs if _is_rounded(a, axis, 0)), default=0)
        codes = [
            a
            if id(a) in known
            else self._kept(a, axis, key, number)
            if axis is not None and _is_rounded(a, axis, largest)
            else _packed(a)
            for number, (a, axis) in enumerate(pairs)
        ]
        return self._once_kept(codes, y), new_state, (codes, Static((treedef, tuple(places))))

    def backward(self, params: Any, residuals: Any, dy: Any):
        codes, facts = residuals
        treedef, places = facts.value
        # Otherwise all layers' arrays might be restored before the first is needed.
        kept = [_restored(code) for code in after(dy, codes)]
        return self.layer.backward(params, treedef.unflatten([kept[i] for i in places]), dy)

    def _once_kept(self, codes: Any, y: Any) -> Any:
        """y, once there are codes: a compiler might go on, and round when all layers are done."""
        made = [node.codes for node in jax.tree.leaves(codes, is_leaf=_is_code) if _is_code(node)]
        return after(made, y)

    def _axes(self, params: Any, state: Any, x: Any, key: Array | None, kept: list) -> list:
        """The axis of the examples in each array that is kept, or None: a recurrent layer's stand
        behind time. It is the one that a batch twice as large has twice as long."""
        examples = jax.tree.leaves(x)[0].shape[0]
        twice = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((2 * a.shape[0], *a.shape[1:]), a.dtype), x
        )
        others = jax.tree.leaves(jax.eval_shape(self.layer.forward, params, state, twice, key)[2])
        if len(others) != len(kept):
            return [None] * len(kept)

        def axis_of(a: Array, other: Any) -> int | None:
            for axis in range(a.ndim):
                longer = (*a.shape[:axis], 2 * examples, *a.shape[axis + 1 :])
                if a.shape[axis] == examples and longer == other.shape:
                    return axis
            return None

        return list(map(axis_of, kept, others))

    def _kept(self, a: Array, axis: int, key: Array | None, number: int) -> "Rounded":
        # The layer draws from the key itself; one of several arrays from another than the next.
        own = jax.random.fold_in(require_key("compress", key), 2)
        # Otherwise all layers' noise might be drawn, and held, before there is anything to round.
        own = after(a, own)
        return rounded(a, self.bits, self.group, jax.random.fold_in(own, number), axis)


class CompressedSlope(Compressed):
    """An activation, which keeps its slope in a few bits; in one where there are two slopes."""

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, residuals = self.layer.forward(params, state, x, key)
        slope, _ = self.layer.backward(params, residuals, jnp.ones_like(y))
        if _other_slope(self.layer) is not None:
            slope = _packed(slope == 1)
        elif _is_rounded(slope, 0, 0):
            slope = self._kept(slope, 0, key, 0)
        return self._once_kept(slope, y), new_state, slope

    def backward(self, params: Any, residuals: Any, dy: Array):
        slope, other = _restored(after(dy, residuals)), _other_slope(self.layer)
        if other is None:
            return slope * dy, ()
        return jnp.where(slope, dy, other * dy if other else 0), ()


def _other_slope(layer: Layer) -> float | None:
    """The slope of an activation where it is not 1, if that is one number."""
    match layer:
        case leaky_relu(negative_slope=slope):
            return slope
        case relu() | Clipped() | heaviside():
            return 0.0
    return None


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounded:
    """An array in codes of a few bits, the axis of its examples in front."""

    codes: Any  # [examples, groups, bytes], uint8
    smallest: Any  # [examples, groups]
    step: Any  # [examples, groups]
    shape: tuple[int, ...] = static()  # the axis of the examples in front
    bits: int = static()
    dtype: str = static()
    axis: int = static()

    def values(self) -> Array:
        """v̂ = m + s q."""
        per_byte = 8 // self.bits
        shifts = jnp.arange(per_byte, dtype=jnp.uint8) * jnp.uint8(self.bits)
        codes = (self.codes[..., None] >> shifts) & jnp.uint8(2**self.bits - 1)
        codes = codes.reshape(*self.codes.shape[:-1], -1).astype(self.step.dtype)
        values = self.smallest[..., None] + self.step[..., None] * codes
        count = math.prod(self.shape[1:])
        groups = values.shape[1]
        own = values[..., : -(-count // groups)].reshape(self.shape[0], -1)
        array = own[:, :count].reshape(self.shape).astype(self.dtype)
        return jnp.moveaxis(array, 0, self.axis)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Booleans, one bit each."""

    codes: Any
    shape: tuple[int, ...] = static()

    def values(self) -> Array:
        """The booleans."""
        count = math.prod(self.shape)
        return jnp.unpackbits(self.codes, count=count).astype(bool).reshape(self.shape)


def rounded(a: Array, bits: int, group: int, key: Array, axis: int = 0) -> Rounded:
    """The array in codes of ``bits`` bits, in groups of at most ``group`` of an example, whose axis
    is given. In at least float32: half precision has not enough digits to add noise to a code."""
    dtype, a = str(a.dtype), jnp.moveaxis(a, axis, 0).astype(sum_dtype(a.dtype))
    examples, count = a.shape[0], math.prod(a.shape[1:])
    groups = -(-count // group)
    size = -(-count // groups)
    per_byte = 8 // bits
    flat = a.reshape(examples, count)
    # What fills the last group, and the last byte, changes no smallest and no largest value.
    flat = jnp.pad(flat, ((0, 0), (0, groups * size - count)), mode="edge")
    values = flat.reshape(examples, groups, size)
    smallest, largest = jnp.min(values, -1), jnp.max(values, -1)
    levels = 2**bits - 1
    # Half of each first: their difference may be too large for the dtype.
    step = (largest / levels) - (smallest / levels)
    places = (values - smallest[..., None]) / jnp.where(step > 0, step, 1)[..., None]
    noise = jax.random.uniform(key, places.shape, places.dtype)
    codes = jnp.clip(jnp.floor(places + noise), 0, levels).astype(jnp.uint8)
    codes = jnp.pad(codes, ((0, 0), (0, 0), (0, -size % per_byte)))
    codes = codes.reshape(examples, groups, -1, per_byte)
    shifts = jnp.arange(per_byte, dtype=jnp.uint8) * jnp.uint8(bits)
    packed = jnp.sum(codes << shifts, -1, dtype=jnp.uint8)
    return Rounded(packed, smallest, step, a.shape, bits, dtype, axis)


def _packed(a: Any) -> Any:
    if a.dtype != bool:
        return a
    return Packed(jnp.packbits(a), a.shape)


def _restored(code: Any) -> Any:
    return code.values() if _is_code(code) else code


def _is_code(node: Any) -> bool:
    return isinstance(node, Rounded | Packed)


def _is_rounded(a: Any, axis: int | None, largest: int) -> bool:
    """Whether it is an array of floating-point numbers of each example, and not a small one."""
    if axis is None or not jnp.issubdtype(a.dtype, jnp.floating) or a.ndim < 2:
        return False
    return a.size > 0 and a.size // a.shape[axis] >= SMALL and a.size * SMALL >= largest
