"""What each use of a parameter is as a capture: which axes are examples, positions and features.

A `Part` is one parameter (or a part of one) in one use. Its capture has a shape of parameters of
its own, that of a layer's: [in, out] of a product, [*kernel, in, out] of a convolution; ``moves``
bring the parameter into it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.core.captures import AffineCapture, EmbeddingCapture, LinearCapture, StackedCapture
from jaxnn.core.contract import Capture
from jaxnn.core.moves import Moves, repeats
from jaxnn.core.tied import OffsetCapture
from jaxnn.core.validation import widened
from jaxnn.interop.following import Followed, Use, layout_of, sliced_axis
from jaxnn.interop.jaxprs import aval
from jaxnn.interop.operations import Operation, OperationCapture
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.convolution.capture import ConvCapture


@dataclasses.dataclass(frozen=True)
class Part:
    """One parameter in one use."""

    leaf: int
    kind: str
    """"linear", "convolution", "scale", "offset", "embedding" or "operation"."""
    moves: Moves
    name: str
    """What its capture calls it."""
    use: int
    """The number of the use."""
    features: tuple[int, ...]
    """The axes of the use's output that are the features of an offset, or that an offset would have
    to add to for being the bias of this map."""
    capture: Callable[[Array | None, Array, bool], Capture]
    """(data, deltas, whether a bias shares the deltas) -> its capture; [batch, *scans, …]."""
    is_whole: bool
    """Whether it enters as it is: not scaled, not beside other values."""
    sees_once: bool
    """Whether no element of it is in several places of its capture's parameter."""
    groups: tuple
    """Over which axes there is one of it for each step of a scan or for each batch of a product."""
    joins: Any
    """Uses of the same elements with equal ones of these are one capture, with more positions."""


def parts_of(number: int, use: Use) -> list[Part]:
    """A part for each parameter in a use."""
    return [_part(number, use, followed) for followed in use.tag]


def _part(number: int, use: Use, followed: Followed) -> Part:
    axes, joins = _Axes(use, followed), None
    match use.kind:
        case "dot_general":
            kind, name, moves, features, build = _product(use, followed, axes)
        case "conv_general_dilated" if (geometry := _geometry(use, followed)) is not None:
            joins = geometry.groups
            kind, name, moves, features, build = _convolution(use, followed, axes, geometry)
        case "gather" if (axis := _gathered_axis(use, followed)) is not None:
            kind, name, moves, features, build = _gathered_rows(use, followed, axes, axis)
        case "dynamic_slice" if (axis := sliced_axis(use.equation)) is not None:
            kind, name, moves, features, build = _sliced_rows(use, followed, axes, axis)
        case "mul" | "div" | "add":
            kind, name, moves, features, build = _elementwise(use, followed, axes)
        case _:
            joins = object()
            kind, name, moves, features, build = _any_operation(use, followed, axes)

    # What an elementwise operation repeats along are positions.
    again = repeats(layout_of(followed))[: axes.depth if kind in ("scale", "offset") else None]

    def capture(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        if followed.factor != 1:
            deltas = deltas * jnp.asarray(followed.factor, deltas.dtype)
        own = build(data, deltas, with_bias)
        return StackedCapture(own) if axes.is_stacked else own

    return Part(
        leaf=followed.leaf,
        kind=kind,
        moves=moves,
        name=name,
        use=number,
        features=features,
        capture=capture,
        is_whole=followed.factor == 1 and followed.window is None,
        sees_once=not any(again),
        groups=(followed.stacked, axes.groups),
        joins=joins,
    )


class _Axes:
    """Where the axes of data and deltas, [batch, *scans, …], belong."""

    def __init__(self, use: Use, followed: Followed):
        numbers = [scan.number for scan in use.scans]
        self.scans = len(numbers)
        self.stacks = [1 + numbers.index(n) for n in followed.stacked]
        self.positions = [1 + i for i, n in enumerate(numbers) if n not in followed.stacked]
        self.depth = len(followed.stacked)
        lengths = layout_of(followed).shape[: self.depth]
        self.groups: int | None = math.prod(lengths) if lengths else None

    @property
    def is_stacked(self) -> bool:
        return self.groups is not None

    def grouped(self, sizes: list[int]) -> None:
        """Further axes that parameters have one of for each group, after those of scans."""
        if sizes:
            self.groups = math.prod(sizes) * (self.groups or 1)

    def own(self, axes: list[int]) -> list[int]:
        """Axes of an operand or of the output, behind the batch and the scans."""
        return [1 + self.scans + axis for axis in axes]

    def arrange(
        self, a: Array, groups: list[int], positions: list[int], features: list[int]
    ) -> Array:
        """[groups, batch, positions, features], each but the batch where there are such."""
        order = [*self.stacks, *self.own(groups), 0]
        order += [*self.positions, *self.own(positions), *self.own(features)]
        a = a.transpose(order)
        sizes = list(a.shape)
        n_groups, n_positions = len(self.stacks) + len(groups), len(self.positions) + len(positions)
        shape = [self.groups] if self.is_stacked else []
        shape.append(sizes[n_groups])
        rest = sizes[n_groups + 1 :]
        count = math.prod(rest[:n_positions])
        if count != 1:
            shape.append(count)
        return a.reshape([*shape, math.prod(rest[n_positions:])])  # pyright: ignore

    def shape(self, *own: int) -> tuple[int, ...]:
        """Of parameters: with the axis of groups before their own, where there is one."""
        return (self.groups, *own) if self.groups is not None else own


def _windowed(a: Array, leading: int, bounds: dict[int, tuple[int, int]]) -> Array:
    """The part of each axis, counted after the leading ones, that (start, size) says."""
    for axis, (start, size) in bounds.items():
        a = lax.slice_in_dim(a, start, start + size, axis=leading + axis)
    return a


def _product(use: Use, followed: Followed, axes: _Axes):
    """W̃ [groups, K, N] of a dot_general; inputs have the contracted axes as features."""
    contracting, batching = use.equation.params["dimension_numbers"]
    own, other = use.side, 1 - use.side
    shape = aval(use.equation.invars[own]).shape
    rank_of_data = len(aval(use.equation.invars[other]).shape)
    pc, pb, dc, db = (
        [int(a) for a in dims]
        for dims in (contracting[own], batching[own], contracting[other], batching[other])
    )
    pf = [a for a in range(len(shape)) if a not in pc and a not in pb]
    df = [a for a in range(rank_of_data) if a not in dc and a not in db]
    free = [pf, df] if own == 0 else [df, pf]
    out_b = list(range(len(pb)))
    first = list(range(len(pb), len(pb) + len(free[0])))
    second = list(range(len(pb) + len(free[0]), len(pb) + len(pf) + len(df)))
    out_pf, out_df = (first, second) if own == 0 else (second, first)

    window = followed.window or tuple((0, n) for n in shape)
    sizes = [size for _, size in window]
    axes.grouped([sizes[a] for a in pb])
    moves = followed.moved(("transpose", (*pb, *pc, *pf))).moves
    k, n = math.prod(sizes[a] for a in pc), math.prod(sizes[a] for a in pf)
    moves += (("reshape", axes.shape(k, n)),)
    leading = 1 + axes.scans

    def build(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        assert data is not None
        if followed.window is not None:
            data = _windowed(
                data, leading, {d: window[a] for a, d in zip((*pc, *pb), (*dc, *db), strict=True)}
            )
            deltas = _windowed(
                deltas,
                leading,
                {d: window[a] for a, d in zip((*pb, *pf), (*out_b, *out_pf), strict=True)},
            )
        is_floating = jnp.issubdtype(data.dtype, jnp.floating)
        if not is_floating or sum_dtype(data.dtype) != sum_dtype(deltas.dtype):
            data = data.astype(deltas.dtype)
        inputs = axes.arrange(data, db, df, dc)
        outputs = axes.arrange(deltas, out_b, out_df, out_pf)
        return LinearCapture(inputs, outputs, use_bias=with_bias)

    return "linear", "weight", moves, tuple(out_pf), build


def _geometry(use: Use, followed: Followed) -> Geometry | None:
    """That of a convolution which `ConvCapture` knows."""
    p = use.equation.params
    images, kernel = (aval(v).shape for v in use.equation.invars)
    numbers = p["dimension_numbers"]
    size = tuple(images[a] for a in numbers.lhs_spec[2:])
    is_known = (
        p["batch_group_count"] == 1
        and set(p["lhs_dilation"]) <= {1}
        and 1 <= len(size) <= 3
        and images[numbers.lhs_spec[0]] == 1
        and min(min(pair) for pair in p["padding"]) >= 0
        and followed.window is None
        and len(followed.stacked) == len(use.scans)
        and p["preferred_element_type"] in (None, aval(use.equation.invars[1]).dtype)
    )
    if not is_known:
        return None
    return Geometry(
        size=size,
        output_size=tuple(use.output.shape[a] for a in numbers.out_spec[2:]),
        kernel_size=tuple(kernel[a] for a in numbers.rhs_spec[2:]),
        strides=tuple(p["window_strides"]),
        padding=tuple((int(low), int(high)) for low, high in p["padding"]),
        dilation=tuple(p["rhs_dilation"]),
        groups=p["feature_group_count"],
    )


def _convolution(use: Use, followed: Followed, axes: _Axes, geometry: Geometry):
    numbers = use.equation.params["dimension_numbers"]
    outputs, inputs, *kernel = numbers.rhs_spec
    moves = followed.moved(("transpose", (*kernel, inputs, outputs))).moves
    if axes.is_stacked:
        moved = followed.moved(("transpose", (*kernel, inputs, outputs)))
        moves += (("reshape", axes.shape(*layout_of(moved).shape[axes.depth :])),)

    def channels_last(a: Array, spec: tuple[int, ...]) -> Array:
        """[groups, batch, *size, channels], of one image for each example."""
        batch, channels, *spatial = spec
        leading = [*axes.stacks, 0]
        a = a.transpose(*leading, *axes.own([batch, *spatial, channels]))
        shape = [*([axes.groups] if axes.is_stacked else []), a.shape[len(leading) - 1]]
        return a.reshape([*shape, *a.shape[len(leading) + 1 :]])  # pyright: ignore

    def build(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        assert data is not None
        return ConvCapture(
            channels_last(data, numbers.lhs_spec),
            channels_last(deltas, numbers.out_spec),
            geometry,
            use_bias=with_bias,
        )

    return "convolution", "weight", moves, (numbers.out_spec[1],), build


def _gathered_axis(use: Use, followed: Followed) -> int | None:
    """The axis of whose slices a gather takes whole ones."""
    p = use.equation.params
    numbers = p["dimension_numbers"]
    shape = aval(use.equation.invars[0]).shape
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims or followed.window:
        return None
    (axis,) = numbers.start_index_map
    whole = tuple(1 if a == axis else n for a, n in enumerate(shape))
    if numbers.collapsed_slice_dims != (axis,) or tuple(p["slice_sizes"]) != whole:
        return None
    return axis


def _gathered_rows(use: Use, followed: Followed, axes: _Axes, axis: int):
    numbers, mode = (use.equation.params[name] for name in ("dimension_numbers", "mode"))
    rows = aval(use.equation.invars[0]).shape[axis]

    def ids_of(data: Array) -> Array:
        ids = widened(data[..., 0])  # an id is a vector of one index
        is_dropped = mode == lax.GatherScatterMode.FILL_OR_DROP
        return ids if is_dropped else jnp.clip(ids, 0, rows - 1)

    of_rest = list(numbers.offset_dims)
    of_ids = [a for a in range(len(use.output.shape)) if a not in of_rest]
    return _rows_of_table(use, followed, axes, axis, ids_of, of_ids)


def _sliced_rows(use: Use, followed: Followed, axes: _Axes, axis: int):
    rows, size = (v.shape[axis] for v in (aval(use.equation.invars[0]), use.output))

    def ids_of(data: Array) -> Array:
        return jnp.clip(widened(data), 0, rows - size)[..., None] + jnp.arange(size)

    return _rows_of_table(use, followed, axes, axis, ids_of, [axis])


def _rows_of_table(
    use: Use,
    followed: Followed,
    axes: _Axes,
    axis: int,
    ids_of: Callable[[Array], Array],
    of_ids: list[int],
):
    """Rows along an axis, taken by ids, which are the axes ``of_ids`` of the output."""
    shape = aval(use.equation.invars[0]).shape
    rest = [a for a in range(len(shape)) if a != axis]
    rows, features = shape[axis], math.prod(shape[a] for a in rest)
    moves = followed.moved(("transpose", (axis, *rest))).moves
    moves += (("reshape", axes.shape(rows, features)),)
    of_rest = [a for a in range(len(use.output.shape)) if a not in of_ids]

    def build(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        assert data is not None
        ids, rank = ids_of(data)[..., None], len(of_ids)
        ids = axes.arrange(ids, [], list(range(rank)), [rank])[..., 0]
        return EmbeddingCapture(ids, axes.arrange(deltas, [], of_ids, of_rest), rows)

    return "embedding", "weight", moves, (), build


def _elementwise(use: Use, followed: Followed, axes: _Axes):
    """scale · data and data + offset, whose parameter may repeat along positions."""
    output = use.output.shape
    value = aval(use.equation.invars[use.side]).shape
    if len(value) != len(output):
        followed = followed.moved(("reshape", (1,) * len(output)))
    local = layout_of(followed)
    again = repeats(local)[axes.depth :]
    sizes = local.shape[axes.depth :]
    features = [a for a, (n, r) in enumerate(zip(sizes, again, strict=True)) if n != 1 and not r]
    others = [a for a in range(len(output)) if a not in features]
    first = tuple((0, n, 1) if a in features else (0, 1, 1) for a, n in enumerate(sizes))
    count = math.prod(sizes[a] for a in features)
    moves = (*followed.moved(("slice", first)).moves, ("reshape", axes.shape(count)))
    pairs = enumerate(followed.window or ())
    window = {a: bounds for a, bounds in pairs if value[a] == output[a]}

    def arranged(a: Array) -> Array:
        return axes.arrange(_windowed(a, 1 + axes.scans, window), [], others, features)

    def offset(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        return OffsetCapture(arranged(deltas))

    def scale(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        assert data is not None
        data = data.reshape(*data.shape[: 1 + axes.scans], *_rank(data, 1 + axes.scans, output))
        data = jnp.broadcast_to(1 / data if use.kind == "div" else data, deltas.shape)
        return AffineCapture(arranged(data), arranged(deltas), use_offset=False)

    kind = "offset" if use.kind == "add" else "scale"
    return kind, kind, moves, tuple(features), offset if kind == "offset" else scale


def _rank(a: Array, leading: int, like: tuple[int, ...]) -> tuple[int, ...]:
    own = a.shape[leading:]
    return own if len(own) == len(like) else (1,) * len(like)


def _any_operation(use: Use, followed: Followed, axes: _Axes):
    """The gradient by the transpose of the operation itself."""
    operand = aval(use.equation.invars[use.side])
    window = followed.window or tuple((0, n) for n in operand.shape)
    sizes = tuple(size for _, size in window)
    moves = followed.moves
    if axes.is_stacked:
        moves += (("reshape", axes.shape(*sizes)),)
    operation = Operation(
        use.equation.primitive,
        tuple(sorted(use.equation.params.items())),
        use.side,
        operand.shape,
        window,
        len(axes.positions),
    )

    def steps_apart(a: Array) -> Array:
        own = range(1 + axes.scans, a.ndim)
        a = a.transpose(*axes.stacks, 0, *axes.positions, *own)
        return a.reshape(*axes.shape(*a.shape[axes.depth :]))

    def build(data: Array | None, deltas: Array, with_bias: bool) -> Capture:
        assert data is not None
        return OperationCapture(steps_apart(data), steps_apart(deltas), operation)

    return "operation", "weight", moves, (), build
