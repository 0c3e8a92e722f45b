"""Sampled contractions: unbiased gradients of weights from a share of the rows of a batch.

The gradient of a linear map is a sum over the rows of the batch (examples and positions),
G = Σ_r a_rᵀ d_r, of products whose norms are known without forming them, w_r = ‖a_r‖ ‖d_r‖. Of k of
the R rows the sum is estimated without bias, each row divided by how often it is expected:

- uniform: k rows drawn without replacement, Ĝ = R/k Σ a_rᵀ d_r;

      E ‖Ĝ − G‖² = R (R − k) / (k (R − 1)) · (Σ w_r² − ‖G‖² / R)

- norm: k draws with p_r = w_r / Σ w, Ĝ = Σ a_rᵀ d_r / (k p_r), the best of all p (Drineas, Kannan
  and Mahoney, 2006);

      E ‖Ĝ − G‖² = ((Σ w_r)² − ‖G‖²) / k

- winner: the c rows of the largest w for certain, k − c draws from the rest in proportion to w,
  with the c that makes Σ_rest w / √(k − c) smallest (winner-take-all column-row sampling: Liu et
  al., 2023);

      E ‖Ĝ − G‖² = ((Σ_rest w_r)² − ‖Σ_rest a_rᵀ d_r‖²) / (k − c).
"""

import dataclasses
import math
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Pointwise
from jaxnn.core.captures import ContractedCapture, LinearCapture, StackedCapture, map_captures
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.gradients import pass_with, shares
from jaxnn.core.validation import require_key, require_number
from jaxnn.core.value import Value
from jaxnn.kernels.products import contract_rows, rows_of, sum_dtype
from jaxnn.rewrites.leaves import Altered, OfLeaves


def _require_part(where: str, name: str, value: Any) -> float:
    return require_number(where, name, value, minimum=0, maximum=1, open_minimum=True)


def _require_share(where: str, name: str, value: Any) -> Any:
    """A number, or a schedule of them."""
    if not isinstance(value, tuple | list):
        return _require_part(where, name, value)
    pairs: Any = [piece if isinstance(piece, tuple | list) else () for piece in value]
    whole = all(len(piece) == 2 and type(piece[0]) is int for piece in pairs)
    first = [piece[0] for piece in pairs] if whole else []
    if first[:1] != [0] or first != sorted(set(first)):
        raise ValueError(
            f"{where}: expected {name} to be a number, or a schedule of pairs (first step, "
            f"{name}) that begins at step 0, with rising steps, got {value}"
        )
    return tuple((step, _require_part(where, name, own)) for step, own in pairs)


Rule = Literal["uniform", "norm", "winner"]


class sampled(OfLeaves):
    """The same network, whose weights' gradients are estimated from a ``share`` of the rows.

    y, dx, and the gradients of biases and of what is no linear map are exact. The gradient of a
    weight, of dense layers and convolutions, has the true one for its mean; `sampling_variance`
    says what it is off by. Rows are drawn anew in every forward pass with a key; in inference mode,
    and of `jaxnn.plain`, all are taken.

    A ``share`` that changes while training is a schedule, ``((0, 1.0), (1000, 0.25))``: from which
    step on it is which. Steps are forward passes in training, counted in the state of each layer;
    each share is compiled by itself, so that fewer rows cost less.

    Args:
        layer: A layer or a network.
        share: k / R in (0, 1], of each layer; k is rounded up. Or a schedule of it.
        by: "uniform", "norm" or "winner", as above; the latter two cost the norms of all rows.

    Raises:
        ValueError: ``share`` is out of its range, ``by`` is unknown; a schedule does not begin at
            step 0, or its steps do not rise; in training, there is no key. Quantities of
            single examples are refused: their gradients are summed already.
    """

    share: Annotated[Any, _require_share] = 0.5
    by: Rule = "norm"

    def replaced(self, leaf: Layer) -> Layer:
        if isinstance(leaf, Pointwise):
            return leaf
        if isinstance(self.share, tuple):
            return ScheduledSampled(leaf, 1.0, self.by, schedule=self.share)
        return Sampled(leaf, self.share, self.by)


class Sampled(Altered):
    """A layer without parts, whose linear captures are contracted over a sample of their rows."""

    share: float
    by: str
    sums: bool = False
    """Whether nothing but the gradient is wanted, which may then be wider than the parameters."""

    def summing(self) -> Layer:
        return dataclasses.replace(super().summing(), sums=True)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, residuals = self.layer.forward(params, state, x, key)
        own = None
        if _has(params):  # the layer draws from the key itself
            own = jax.random.fold_in(require_key("sampled", key), 3)
        return y, new_state, (residuals, own)

    def backward(self, params: Any, residuals: Any, dy: Any):
        kept, key = residuals
        dx, captures = self.layer.backward(params, kept, dy)
        return dx, map_captures(lambda capture: self._contracted(capture, key), captures)

    def _contracted(self, capture: Capture, key: Any) -> Capture:
        linear = capture.linear()
        if type(linear) is not LinearCapture:
            return capture
        inputs, deltas = rows_of(linear.inputs), rows_of(linear.deltas)
        weight = self._weight(inputs, deltas, key)
        # All but the weight comes from sums that cost no product of matrices.
        wide = deltas.astype(weight.dtype)
        exact = LinearCapture(inputs[:, :0], wide, linear.use_bias).gradient()
        own = exact | {"weight": weight}
        if not self.sums:
            own = jax.tree.map(lambda g: g.astype(deltas.dtype), own)
        return ContractedCapture(capture.fold(own), self.name)

    def _weight(self, inputs: Array, deltas: Array, key: Any) -> Array:
        """Ĝ, of a share of the rows."""
        return sampled_product(self.share, self.by, inputs, deltas, key)


class Counted(NamedTuple):
    """The state of a layer under a schedule."""

    inner: Any
    """That of the layer itself."""
    step: Array
    """How many forward passes there were in training, int32."""


class ScheduledSampled(Sampled):
    """`Sampled` by a share that depends on the step."""

    schedule: tuple[tuple[int, float], ...] = dataclasses.field(default=(), kw_only=True)

    keeps = True

    def init(self, key: Array | None, x: Any):
        params, state = self.layer.init(key, x)
        return params, Counted(state, jnp.zeros((), jnp.int32)) if _has(params) else state

    def predict(self, params: Any, state: Any, x: Any):
        return self.layer.predict(params, state.inner if _has(params) else state, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        if not _has(params):
            return super().forward(params, state, x, key)
        y, inner, (residuals, own) = super().forward(params, state.inner, x, key)
        return y, Counted(inner, state.step + 1), (residuals, (own, state.step))

    def _weight(self, inputs: Array, deltas: Array, key: Any) -> Array:
        key, step = key
        begun = jnp.asarray([first for first, _ in self.schedule])
        products = [partial(sampled_product, share, self.by) for _, share in self.schedule]
        return jax.lax.switch(jnp.sum(begun <= step) - 1, products, inputs, deltas, key)


def _has(params: Any) -> bool:
    return bool(jax.tree.leaves(params))


def sampled_product(share: float, by: str, inputs: Array, deltas: Array, key: Array) -> Array:
    """Σ_r a_rᵀ d_r, [m, n], estimated from a share of the rows of inputs and deltas."""
    rows, factors = sample(inputs, deltas, share, by, key)
    taken = inputs[rows].astype(sum_dtype(inputs.dtype)) * factors[:, None]
    return contract_rows(taken, deltas[rows].astype(taken.dtype))


def sample(inputs: Array, deltas: Array, share: float, by: str, key: Array) -> tuple[Array, Array]:
    """([k], numbers of rows; [k], what each is multiplied by), of inputs and deltas [rows, …]."""
    count = inputs.shape[0]
    k = math.ceil(share * count)
    dtype = sum_dtype(deltas.dtype)
    if k == count:
        return jnp.arange(count), jnp.ones(count, dtype)
    if by == "uniform":
        return jax.random.permutation(key, count)[:k], jnp.full(k, count / k, dtype)
    norms = _norms(inputs, deltas)
    order, certain, p = _shares(norms, k, by)
    drawn = jax.random.choice(key, count, (k,), p=p)
    is_certain = jnp.arange(k) < certain
    rows = jnp.where(is_certain, order[:k], drawn)
    return rows, jnp.where(is_certain, 1, 1 / ((k - certain) * p[rows])).astype(dtype)


def _norms(inputs: Array, deltas: Array) -> Array:
    """[rows], ‖a_r‖ ‖d_r‖."""
    a, d = (rows.astype(sum_dtype(rows.dtype)) for rows in (inputs, deltas))
    return jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(d, axis=1)


def _shares(norms: Array, k: int, by: str) -> tuple[Array, Array, Array]:
    """(rows by falling norm, how many of them are taken for certain, p of the draws)."""
    if by == "norm":
        order, certain = jnp.arange(norms.size), jnp.zeros((), int)
    else:
        order = jnp.argsort(-norms)
        taken = jnp.cumsum(norms[order])[: k - 1]
        left = jnp.maximum(jnp.sum(norms) - jnp.concatenate([jnp.zeros_like(taken[:1]), taken]), 0)
        certain = jnp.argmin(left**2 / (k - jnp.arange(k)))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(norms.size))
    is_left = place >= certain
    # Where nothing is left whose product is not zero, it is all the same which of it is drawn.
    has_rest = jnp.sum(jnp.where(is_left, norms, 0)) > 0
    rest = jnp.where(is_left, jnp.where(has_rest, norms, 1), 0)
    return order, certain, rest / jnp.sum(rest)


class sampling_variance(Value):
    """(params, state, x, target, key=None, weights=None) -> E ‖Ĝ − G‖² of each weight.

    A tree like the captures, of {"weight": number} for the linear maps in the network (a number for
    each copy in a `repeat`) and {} for all else, of the gradient of the weighted mean of the
    losses; the formulas are above. Nothing is drawn: it is predicted from the captures of one
    backward pass.
    """

    network: Layer
    loss: Loss
    share: Annotated[float, _require_part] = 0.5
    by: Rule = "norm"

    def __call__(self, params, state, x, target, key=None, weights=None):
        run = pass_with(self.network, self.loss, shares)
        result = run(params, state, x, target, key, weights)

        def predicted(capture: Capture) -> dict[str, Array]:
            if isinstance(capture, StackedCapture):
                return jax.vmap(predicted)(capture.capture)
            linear = capture.linear()
            if type(linear) is not LinearCapture:
                return {}
            return {"weight": variance(linear, self.share, self.by)}

        return map_captures(predicted, result.captures)


def variance(capture: LinearCapture, share: float, by: str) -> Array:
    """E ‖Ĝ − G‖² of one capture."""
    inputs, deltas = rows_of(capture.inputs), rows_of(capture.deltas)
    count = inputs.shape[0]
    k = math.ceil(share * count)
    norms = _norms(inputs, deltas)

    def squared(factors: Array) -> Array:
        return jnp.sum(contract_rows(inputs * factors[:, None].astype(inputs.dtype), deltas) ** 2)

    if k == count:
        return jnp.zeros((), norms.dtype)
    if by == "uniform":
        spread = jnp.sum(norms**2) - squared(jnp.ones_like(norms)) / count
        return count * (count - k) / (k * (count - 1)) * spread
    order, certain, _ = _shares(norms, k, by)
    rest = jnp.zeros_like(norms).at[order].set((jnp.arange(count) >= certain).astype(norms.dtype))
    return (jnp.sum(norms * rest) ** 2 - squared(rest)) / (k - certain)
