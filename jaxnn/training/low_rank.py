"""Gradients sent as matrices of low rank, with feedback of the error (PowerSGD: Vogels et al.,
2019).

Of n devices each has the part of a gradient that comes from its own examples, n times as large:
G_i, whose mean is the gradient G [m, k]. In place of the m k numbers of G_i a device sends those of

    M_i = G_i + E_i,  P = orthonormal(mean_i M_i Q),  Q ← mean_i M_iᵀ P,

r (m + k) of them for the rank r, and all devices take Ĝ = P Qᵀ. What that leaves out comes back in
the next step, E_i ← M_i − Ĝ, so that over T steps nothing but the last error is lost,

    Σ_t Ĝ_t = Σ_t G_t − mean_i E_i.

The Q of a step is the start of the next one's, one step of the power iteration for the largest
singular vectors. Q starts from normal numbers.

Without that feedback G_i need not be formed: with the rows a of the inputs and d of the deltas of a
dense layer, G_i Q = aᵀ (d Q) and G_iᵀ P = dᵀ (a P).
"""

import dataclasses
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from jaxnn.core.captures import ContractedCapture, LinearCapture, StackedCapture, contract_for
from jaxnn.core.contract import Capture
from jaxnn.core.gradients import pass_with, shares, weighted_mean
from jaxnn.core.networks import label, walk
from jaxnn.core.validation import require_positive_integer
from jaxnn.kernels.parts import DATA, data_parts, parts_of
from jaxnn.kernels.products import rows_of, sum_dtype
from jaxnn.sharding.mesh import require_data_axis
from jaxnn.training.steps import (
    Step,
    TrainState,
    mean_over_copies,
    require_copies,
    require_unscaled,
)


class Reduced(NamedTuple):
    """What the gradient of a layer costs to have on all devices."""

    layer: str
    """Its place in the network and its name."""
    sent: int
    """The bytes of what is averaged: P and Q of the matrices, the rest of the gradient itself."""
    gradient: int
    """The bytes of the gradient."""

    def sent_bytes(self, devices: int) -> float:
        """What a device sends in a ring of so many: an all-reduce of ``sent``."""
        return 2 * (devices - 1) / devices * self.sent


class LowRankState(NamedTuple):
    """What `low_rank` keeps from step to step."""

    inner: Any
    """The optimiser's own."""
    errors: Any
    """E_i [devices, …] of every matrix that is sent in parts; () without feedback."""
    factors: Any
    """Q […, k, r] of each."""


class low_rank(Step):
    """The step of `make_step` with `jaxnn.backprop`, whose gradient is sent in ``rank`` columns.

    An array of two axes and more is the matrix [all axes but the last, last], of each copy in a
    `repeat`; it is sent so where r (m + k) < m k. All other arrays are averaged themselves. Forward
    and backward are those of the whole batch: batch norm has its mean, dropout its noise. Without a
    mesh, on one device, the gradient is put through the same.

    Args:
        network: The network.
        loss: The loss, whose weighted mean over the batch is minimised.
        optimizer: An optax transformation, which is given Ĝ.
        rank: r.
        error_feedback: Whether what Ĝ leaves out comes back in the next step. It takes an array of
            the size of the gradient on every device. Without, dense layers' gradients are not
            formed.

    Raises:
        ValueError: ``rank`` is not positive; a policy in float16 is in the network, whose deltas
            are scaled; when called, under a mesh without the axis "data", or with the errors of
            another number of devices.
    """

    _: dataclasses.KW_ONLY
    rank: Annotated[int, require_positive_integer] = 4
    error_feedback: bool = True

    def validate(self) -> None:
        """Raise where deltas are scaled."""
        require_unscaled(self.name, self.network)

    def start(self, params: Any, state: Any, x: Any) -> LowRankState:
        """The optimiser's state, no errors, and factors of normal numbers."""
        errors, factors = [], []
        for number, (capture, matrices) in enumerate(self._matrices(params, state, x)):
            for place, one in enumerate(jax.tree.leaves(_gradient_of(capture))):
                if place not in matrices:
                    continue
                _, k = matrices[place]
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), number), place)
                shape = (*one.shape[: _depth(capture)], k, self.rank)
                dtype = sum_dtype(one.dtype)
                factors.append(jax.random.normal(key, shape, dtype))
                errors.append(jnp.zeros((1, *one.shape), dtype))
        inner = self.optimizer.init(params)
        return LowRankState(inner, tuple(errors) if self.error_feedback else (), tuple(factors))

    def for_devices(self, optimizer_state: LowRankState, devices: int) -> LowRankState:
        """With the mean of the errors on each device."""
        errors = mean_over_copies(optimizer_state.errors, devices)
        return optimizer_state._replace(errors=errors)

    def specs(self, optimizer_state: LowRankState) -> LowRankState:
        """Each device has its own errors; all else is whole."""
        whole = super().specs(optimizer_state)
        return whole._replace(errors=jax.tree.map(lambda _: P(DATA), whole.errors))

    def __call__(
        self, train_state: TrainState, x: Any, target: Any, weights: Array | None = None
    ) -> tuple[TrainState, Array]:
        """One step."""
        require_data_axis(self.name)
        params, state, (inner, errors, factors), key, count = train_state
        require_copies(self.name, errors, data_parts())
        run = pass_with(self.network, self.loss, shares)
        step_key = jax.random.fold_in(key, count)
        result = run(params, state, x, target, step_key, weights)
        value = weighted_mean(result.values, weights)
        captures, treedef = jax.tree.flatten(result.captures, is_leaf=_is_capture)
        reduced, errors, factors = self._reduced(captures, errors, factors)
        gradients = contract_for(params, treedef.unflatten(reduced))
        params, inner = self.updated(gradients, inner, params, value)
        kept = LowRankState(inner, errors, factors)
        return TrainState(params, result.state, kept, key, count + 1), value

    def plan(self, params: Any, state: Any, x: Any) -> tuple[Reduced, ...]:
        """What each layer with parameters sends; of the arguments the shapes are looked at."""
        rows = []
        captures = self._captures(params, state, x)
        for path, layer, own in walk(self.network, captures):
            for capture in jax.tree.leaves(own, is_leaf=_is_capture):
                leaves, matrices = jax.tree.leaves(_gradient_of(capture)), self._places(capture)
                sent = sum(
                    math.prod(one.shape[: _depth(capture)])
                    * self.rank
                    * sum(matrices[place])
                    * sum_dtype(one.dtype).itemsize
                    if place in matrices
                    else one.size * one.dtype.itemsize
                    for place, one in enumerate(leaves)
                )
                gradient = sum(one.size * one.dtype.itemsize for one in leaves)
                rows.append(Reduced(label(path, layer), sent, gradient))
        return tuple(rows)

    def _captures(self, params: Any, state: Any, x: Any) -> Any:
        """The shapes of the captures."""

        def run(params, state, x, key):
            y, _, residuals = self.network.forward(params, state, x, key)
            dy = jax.tree.map(
                lambda a: jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else None, y
            )
            return self.network.backward(params, residuals, dy)[1]

        return jax.eval_shape(run, params, state, x, jax.random.key(0))

    def _matrices(self, params: Any, state: Any, x: Any) -> list[tuple[Any, dict]]:
        captures = jax.tree.leaves(self._captures(params, state, x), is_leaf=_is_capture)
        return [(capture, self._places(capture)) for capture in captures]

    def _places(self, capture: Capture) -> dict[int, tuple[int, int]]:
        """m and k of those of a capture's arrays that are sent in parts, by their number."""
        found, depth = {}, _depth(capture)
        if capture.summed_by is not None:
            return found  # of all examples already
        for place, one in enumerate(jax.tree.leaves(_gradient_of(capture))):
            *rows, k = one.shape[depth:] or (1,)
            m = math.prod(rows)
            if rows and self.rank * (m + k) < m * k:
                found[place] = m, k
        return found

    def _reduced(self, captures: list, errors: tuple, factors: tuple) -> tuple:
        """(the captures' means over all devices, contracted; E_i and Q after them)."""
        of_parts = [c for c in captures if c.summed_by is None]
        if not of_parts:
            return captures, errors, factors
        examples = jax.tree.leaves(of_parts[0])[0].shape[_depth(of_parts[0])]
        parts, devices = parts_of(examples), data_parts()

        def mean(a: Array) -> Array:
            return a if devices == 1 else lax.pmean(a, DATA)

        def reduce(captures: list, errors: tuple, factors: tuple) -> tuple:
            left, starts, means = list(errors), list(factors), []
            new_errors, new_factors = [], []
            for capture in captures:
                matrices, depth = self._places(capture), _depth(capture)
                rows = _dense_rows(capture) if not self.error_feedback and matrices else None
                of_shapes = _gradient_of(capture)
                leaves, treedef = jax.tree.flatten(of_shapes)
                formed = _formed(capture, rows is not None)
                found = []
                for place, one in enumerate(leaves):
                    if place not in matrices:
                        own = jax.tree.leaves(formed)[place]
                        found.append(mean(own * jnp.asarray(parts, own.dtype)))
                        continue
                    m, k = matrices[place]
                    shape = (*one.shape[:depth], m, k)
                    if rows is not None:
                        local: Any = _Rows(*rows, parts)
                    else:
                        own = jax.tree.leaves(formed)[place]
                        own = parts * own.astype(sum_dtype(own.dtype))
                        if self.error_feedback:
                            own = own + left.pop(0)[0]
                        local = _Matrix(own.reshape(shape))
                    p, _ = jnp.linalg.qr(mean(local.times(starts.pop(0))))
                    q = mean(local.back_times(p))
                    low = jnp.einsum("...mr,...kr->...mk", p, q)
                    new_factors.append(q)
                    if self.error_feedback:
                        new_errors.append((local.values - low).reshape(1, *one.shape))
                    found.append(low.reshape(one.shape).astype(one.dtype))
                means.append(treedef.unflatten(found))
            return means, tuple(new_errors), tuple(new_factors)

        if devices > 1:
            axis = DATA if parts > 1 else None
            split = [P(*(None,) * _depth(c), axis) for c in of_parts]
            reduce = jax.shard_map(
                reduce,
                in_specs=(split, P(DATA), P()),
                out_specs=(P(), P(DATA), P()),
                axis_names={DATA},
                check_vma=False,
            )
        means, errors, factors = reduce(of_parts, errors, factors)
        means = iter(means)
        reduced = [
            c if c.summed_by is not None else ContractedCapture(next(means)) for c in captures
        ]
        return reduced, errors, factors


class _Matrix(NamedTuple):
    """M [..., m, k]."""

    values: Array

    def times(self, q: Array) -> Array:
        """M q."""
        return jnp.einsum("...mk,...kr->...mr", self.values, q)

    def back_times(self, p: Array) -> Array:
        """Mᵀ p."""
        return jnp.einsum("...mk,...mr->...kr", self.values, p)


class _Rows(NamedTuple):
    """M = factor · aᵀ d, of a [..., rows, m] and d [..., rows, k], which is not formed."""

    inputs: Array
    deltas: Array
    factor: int

    def times(self, q: Array) -> Array:
        """M q = factor · aᵀ (d q)."""
        return self.factor * _Matrix(self.inputs).back_times(_Matrix(self.deltas).times(q))

    def back_times(self, p: Array) -> Array:
        """Mᵀ p = factor · dᵀ (a p)."""
        return self.factor * _Matrix(self.deltas).back_times(_Matrix(self.inputs).times(p))


def _is_capture(node: Any) -> bool:
    return isinstance(node, Capture)


def _depth(capture: Any) -> int:
    """How many axes stand before that of the examples."""
    return 1 + _depth(capture.capture) if isinstance(capture, StackedCapture) else 0


def _gradient_of(capture: Capture) -> Any:
    """The shapes of its gradient."""
    return jax.eval_shape(lambda c: c.gradient(), capture)


def _dense_rows(capture: Any) -> tuple[Array, Array] | None:
    """a and d of a dense layer, or of a stack of them, in at least float32."""
    depth, inner = _depth(capture), capture
    for _ in range(depth):
        inner = inner.capture
    if type(inner) is not LinearCapture:
        return None
    flat = rows_of
    for _ in range(depth):
        flat = jax.vmap(flat)
    a, d = (flat(array) for array in (inner.inputs, inner.deltas))
    return a.astype(sum_dtype(a.dtype)), d.astype(sum_dtype(d.dtype))


def _formed(capture: Any, only_bias: bool) -> Any:
    """The gradient; of a dense layer whose weight is not asked for, without that."""
    if not only_bias:
        return capture.gradient()
    if isinstance(capture, StackedCapture):
        return jax.vmap(lambda inner: _formed(inner, True))(capture.capture)
    # A weight of no inputs, in the place of the one that is not formed.
    return dataclasses.replace(capture, inputs=capture.inputs[..., :0]).gradient()
