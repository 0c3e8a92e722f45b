"""Updates on the way back: the optimiser's step for a layer as soon as its captures are there.

A training step holds three things of the size of the parameters beside the optimiser's state: the
old parameters, the gradient, the new ones. Where the backward pass is in the hand, the gradient of
a layer can be contracted, used and dropped before the next layer's exists (LOMO: Lv et al., 2023,
for SGD; here any optimiser that works leaf by leaf), inside the scan of a `repeat`, too, whose
stacked parameters are updated in place, copy by copy. A layer's backward pass has read its
parameters by then, and no other layer does: the step is that of plain backprop, to rounding.

Clipping by the norm of the whole gradient must know it before the first update: one more backward
pass adds up the squared norms of the layers, whose gradients are dropped, or not even formed where
the rows of the batch tell the norm for less: for y = x W, with the rows a_r of x and d_r of the
deltas of the batch, ‖Σ_r a_rᵀ d_r‖² = Σ_rs (a_r · a_s)(d_r · d_s).
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Around
from jaxnn.core.captures import (
    ContractedCapture,
    EmbeddingCapture,
    LinearCapture,
    contract_for,
    in_dtypes_of,
)
from jaxnn.core.combinators import (
    Compound,
    Many,
    Wrapper,
    fork,
    inside,
    on,
    parallel,
    repeat,
    serial,
)
from jaxnn.core.contract import Capture, Layer
from jaxnn.core.gradients import (
    of_present,
    of_those_present,
    require_weights,
    shares,
    weighted_mean,
)
from jaxnn.core.networks import below, label, summing
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.validation import require_positive
from jaxnn.kernels.opaque import always
from jaxnn.kernels.ordering import after
from jaxnn.kernels.products import add_all, rows_of, sum_dtype
from jaxnn.layers.reversible import reversible
from jaxnn.rewrites.precision import with_precision
from jaxnn.rewrites.recompute import recompute
from jaxnn.statistics.contractions import squared_norms
from jaxnn.training.leaf_by_leaf import Own, require_elementwise, require_leaf_by_leaf
from jaxnn.training.rows import rows_looked_up
from jaxnn.training.steps import Step, TrainState, require_unscaled, updated


class update_in_backward(Step):
    """(train_state, x, target, weights=None) -> (train_state, value of the loss before the step).

    The step of `make_step` with `jaxnn.backprop`, in which the gradient of the whole network never
    exists: at any time there is that of one layer (in a `repeat`, of one copy). With g a layer's
    gradient, its parameters take the optimiser's step for f g,

        f = min(1, clip_norm / ‖all gradients‖) · min(1, clip_layers / ‖g‖).

    Layers that join, or change, the captures of what is in them (`share`, norms of weights, rules
    of feedback) are updated once all of theirs is there. The optimiser's state lies layer by layer,
    as `init` gives it.

    Args:
        network: The network.
        loss: The loss, whose weighted mean over the batch is minimised.
        optimizer: An optax transformation that works leaf by leaf, as most do but for clipping by
            the global norm; in a `repeat` element by element. It may ask for ``value``, the loss.
        clip_layers: The largest norm of a layer's gradient: of one dict of parameters.
        clip_norm: The largest norm of the gradient of all layers, after one more backward pass.
        lazy_rows: Whether the step of an `embedding` or `embedding_bag` is of the rows alone that
            the batch looked up, in time and memory that do not grow with the table; see
            `jaxnn.training.rows`. The others stay as they are, and so does what the optimiser
            remembers of them: with momentum or decay, this is another step (that of PyTorch's
            SparseAdam, for adam), with sgd the same. The optimiser has to work element by element,
            and to take every step: one that adds gradients up over steps is refused.
            A table that is used otherwise too, as one tied to the output, takes the whole step.

    Raises:
        ValueError: ``clip_layers`` or ``clip_norm`` is not positive; a policy in float16 is in the
            network, whose deltas are scaled; at ``init``, and when called, the optimiser needs the
            whole gradient, which names the transformation, the layer and the way out.
    """

    _: dataclasses.KW_ONLY
    clip_layers: Annotated[float, require_positive] | None = None
    clip_norm: Annotated[float, require_positive] | None = None
    lazy_rows: bool = False

    @functools.cached_property
    def _units(self) -> Layer:
        return self._in_units(self.network)

    def validate(self) -> None:
        """Raise where a layer cannot be updated on the way back."""
        require_unscaled("update_in_backward", self.network)
        self._units  # noqa: B018

    def _in_units(self, layer: Layer, path: str = "", depth: int = 0) -> Layer:
        """The network, in which what is updated at once is a `_Unit`."""
        if type(layer).backward not in _HANDING_ON or not layer.parts:
            summed = summing(layer)
            return _Unit(summed, self.optimizer, self.clip_layers, self.lazy_rows, path, depth)
        depth += isinstance(layer, repeat)
        parts = tuple(
            self._in_units(part, below(path, name), depth)
            for name, part in zip(layer.part_names, layer.parts, strict=True)
        )
        match layer:
            case repeat(n=n):
                return _RepeatInPlace(parts[0], n)
            case recompute():
                return _RecomputeInPlace(parts[0])
            case reversible():
                return _ReversibleInPlace(*parts, momentum=layer.momentum)
        return layer.with_parts(parts)

    def init(self, params: Any) -> Any:
        """The optimiser's state, layer by layer."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), params)
        own: list[Own] = []
        _over_units(
            lambda unit, p: own.append(Own(label(unit.path, unit), p, unit.depth)),
            self._units,
            shapes,
        )
        require_leaf_by_leaf("update_in_backward", self.optimizer, own, shapes)
        return _over_units(_Unit.started, self._units, params)

    def start(self, params: Any, state: Any, x: Any) -> Any:
        """As `init`."""
        return self.init(params)

    def __call__(
        self, train_state: TrainState, x: Any, target: Any, weights: Array | None = None
    ) -> tuple[TrainState, Array]:
        """One step."""
        params, state, optimizer_state, key, count = train_state
        x, target = of_those_present(self.loss, weights, x, target)
        step_key = jax.random.fold_in(key, count)
        prediction, state, residuals = self._units.forward(params, state, x, step_key)
        shape = jax.eval_shape(self.loss.value, prediction, target)
        require_weights(weights, shape, "update_in_backward")
        values, delta = self.loss.weighted(prediction, target, shares(weights, shape))
        value = weighted_mean(of_present(weights, values), weights)
        factor = None
        if self.clip_norm is not None:
            _, squares = self._units.backward(params, residuals, delta)
            factor = _clipping(self.clip_norm, add_all(*map(jnp.sum, jax.tree.leaves(squares))))
            # Otherwise the gradients of both passes would be computed once, and all held.
            delta = after(factor, delta)
        given = _over_units(
            lambda unit, p, s: Moving(p, s, (factor, value)), self._units, params, optimizer_state
        )
        _, moved = self._units.backward(given, residuals, delta)
        params = _over_units(lambda unit, own: own.params, self._units, moved)
        optimizer_state = _over_units(lambda unit, own: own.state, self._units, moved)
        return TrainState(params, state, optimizer_state, key, count + 1), value


_HANDING_ON = {serial.backward, fork.backward, parallel.backward, on.backward, repeat.backward}
_HANDING_ON |= {recompute.backward, reversible.backward}
_HANDING_ON |= {Compound.backward, with_precision.backward}
"""Of these, each part's captures are the part's own, and its parameters are used nowhere else."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Moving(Capture):
    """A layer's parameters and its optimiser's state: before the update among the params that a
    backward pass is given, after it among the captures that it returns."""

    params: Any
    state: Any
    known: Any
    """What all layers are told: the factor of their gradients, or None, and the loss."""

    def at(self, index: Array) -> "Moving":
        """Of one copy in a `repeat`."""
        take = partial(jax.lax.dynamic_index_in_dim, index=index, keepdims=False)
        params, state = jax.tree.map(take, (self.params, self.state))
        return Moving(params, state, self.known)

    def put(self, index: Array, own: "Moving") -> "Moving":
        """With one copy exchanged."""
        params, state = jax.tree.map(
            lambda a, new: jax.lax.dynamic_update_index_in_dim(a, new.astype(a.dtype), index, 0),
            (self.params, self.state),
            (own.params, own.state),
        )
        return Moving(params, state, self.known)


def _is_moving(node: Any) -> bool:
    return isinstance(node, Moving)


class _Unit(Around):
    """What is updated at once. Its backward pass, given `Moving` in place of params, returns it
    after the update in place of captures; given params, the squared norm of their gradient."""

    optimizer: Any
    clip: float | None
    lazy_rows: bool
    path: str
    depth: int
    """How many `repeat` are around it, each of which stacks its parameters."""

    keeps: ClassVar[bool] = True  # a policy of precision casts inside of it

    def started(self, params: Any) -> Any:
        """The optimiser's state before the first step."""
        init = self.optimizer.init
        for _ in range(self.depth):
            init = jax.vmap(init)
        return init(params)

    def backward(self, params: Any, residuals: Any, dy: Any):
        if not _is_moving(params):
            dx, captures = self.layer.backward(params, residuals, dy)
            if not jax.tree.leaves(params):
                return dx, captures
            return dx, ContractedCapture(self._squared_norm(params, captures))
        own, state, (factor, value) = params.params, params.state, params.known
        dx, captures = self.layer.backward(own, residuals, dy)
        rows = self._rows(own, captures)
        if rows is None:
            own, state = self._stepped(own, state, contract_for(own, captures), factor, value)
        else:
            gradients = in_dtypes_of(own, {"weight": rows.sums})
            before = rows.take(own), rows.take(state)
            new = self._stepped(before[0], before[1], gradients, factor, value)
            own, state = rows.put((own, state), new)
        return dx, Moving(own, state, params.known)

    def _stepped(self, params: Any, state: Any, gradients: Any, factor: Any, value: Any) -> Any:
        """(params, state) after the optimiser's step."""
        if factor is not None:
            gradients = _times(gradients, factor)
        if self.clip is not None:
            gradients = _times(gradients, _clipping(self.clip, _sum_of_squares(gradients)))
        return updated(self.optimizer, gradients, state, params, value)

    def _rows(self, params: Any, captures: Any) -> Any:
        """The rows of the table that take a step, where this is a table and they alone do."""
        if not (self.lazy_rows and type(captures) is EmbeddingCapture):
            return None
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
        own = Own(label(self.path, self.layer), shapes, 0)
        require_elementwise("update_in_backward", self.optimizer, own, "lazy_rows=False")
        return rows_looked_up(captures)

    def _squared_norm(self, params: Any, captures: Any) -> Array:
        """‖g‖² of the gradient g of the whole batch, in at least float32."""
        if type(captures) is LinearCapture:
            rows = (rows_of(a)[None] for a in (captures.inputs, captures.deltas))
            together = LinearCapture(*rows, use_bias=captures.use_bias)
            return add_all(*map(jnp.sum, squared_norms(together).values()))
        rows = self._rows(params, captures)
        return _sum_of_squares(contract_for(params, captures) if rows is None else rows.sums)


class _RepeatInPlace(repeat):
    """`repeat`, whose backward pass carries the stacked parameters along and exchanges those of the
    copy that it leaves: what a scan returns in slices would be a second stack of them."""

    mixes = False

    def backward(self, params: Any, residuals: Any, dy: Any):
        if not any(map(_is_moving, jax.tree.leaves(params, is_leaf=_is_moving))):
            return super().backward(params, residuals, dy)

        def body(carried, slices):
            (carried, stacked), (index, kept) = carried, slices
            own = jax.tree.map(lambda node: node.at(index), stacked, is_leaf=_is_moving)
            # The update is a branch of its own, so that each slice is read before it is exchanged:
            # a compiler that reads it again behind the exchange would copy the whole stack.
            carried, moved = jax.lax.cond(
                always(jnp.asarray(index, float)),
                self.one_back,
                lambda own, kept, carried: (carried, own),
                *(own, kept, carried),
            )
            stacked = jax.tree.map(
                lambda node, new: node.put(index, new), stacked, moved, is_leaf=_is_moving
            )
            return (carried, stacked), None

        with inside(self, 0):
            carried, kept = self.back_from(residuals[0], dy)
            slices = (jnp.arange(self.n), kept)
            ((_, dx), stacked), _ = jax.lax.scan(body, (carried, params[0]), slices, reverse=True)
        return dx, (stacked,)


class _RecomputeInPlace(recompute):
    """`recompute` over the params that backward is given, which nobody has changed yet: those of
    forward, kept, would have to be a copy of what is exchanged."""

    mixes = False
    forgets = True

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, state, ((_, *kept),) = super().forward(params, state, x, key)
        return y, state, (kept,)

    def backward(self, params: Any, residuals: Any, dy: Any):
        return super().backward(params, ((_before(params[0]), *residuals[0]),), dy)


class _ReversibleInPlace(reversible):
    """`reversible`, likewise."""

    mixes = False
    forgets = True

    def advance(self, params: Any, state: Any, x: Any, key: Array | None):
        y, state, (_, *kept) = super().advance(params, state, x, key)
        return y, state, kept

    def reverse(self, params: Any, kept: Any, y: Any, dy: Any):
        return super().reverse(params, (_before(params), *kept), y, dy)


def _before(params: Any) -> Any:
    """The params themselves, not yet changed."""

    def own(node: Any) -> Any:
        return node.params if _is_moving(node) else node

    return jax.tree.map(own, params, is_leaf=_is_moving)


def _over_units(function: Callable, layer: Layer, *trees: Any) -> Any:
    """``function(unit, *its own trees)`` in place of the trees of every unit with parameters."""
    if isinstance(layer, _Unit):
        return function(layer, *trees) if jax.tree.leaves(trees[0]) else trees[0]
    members = (layer.of_parts(tree) for tree in trees)
    found = [_over_units(function, *own) for own in zip(layer.parts, *members, strict=True)]
    if isinstance(layer, Wrapper):
        return found[0]
    return layer.gather(found) if isinstance(layer, Many) else tuple(found)


def _sum_of_squares(gradients: Any) -> Array:
    wide = (g.astype(sum_dtype(g.dtype)) for g in jax.tree.leaves(gradients))
    return add_all(*(jnp.sum(g * g) for g in wide))


def _clipping(largest: float, squared_norm: Array) -> Array:
    """What multiplies a gradient so that its norm is at most the largest."""
    norm = jnp.sqrt(squared_norm)
    return jnp.where(norm < largest, 1, largest / norm)


def _times(gradients: Any, factor: Array) -> Any:
    return jax.tree.map(
        lambda g: (g * factor.astype(sum_dtype(g.dtype))).astype(g.dtype), gradients
    )
