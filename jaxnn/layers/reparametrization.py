"""Layers whose weight is a function of other parameters: weight and spectral normalisation.

With Ŵ(θ) for the weight that the layer is given, ∂l/∂θ = Jᵀ ∂l/∂Ŵ, where the Jacobian J of Ŵ does
not depend on the examples. So the gradient of every single example goes through the same J: what
the layer's own capture says of ∂l/∂Ŵ is pulled back once it is contracted.
"""

import abc
import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import Wrapper
from jaxnn.core.contract import Capture, Layer
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.validation import brief, require_count, require_key
from jaxnn.kernels.products import add_all, norm_along, sum_dtype

FIRST_ITERATIONS = 15
"""Power iterations before the first step."""


class Reparametrized(Wrapper):
    """Base of layers around another whose ``weight`` they compute.

    Params are those of the layer, with what Ŵ is computed from in place of ``weight``. In views of
    a network the layer itself is rewritten: Ŵ stays, so that what computes neighbours together
    leaves it alone, and a policy of precision computes Ŵ in the dtype of the parameters. Where
    the layer contracts its gradient at once (`summing`), that is pulled back.

    Raises:
        ValueError: at ``init``, the layer has no ``weight`` of two axes and more, or parameters of
            the names that are added.
    """

    layer: Layer

    mixes = False
    added: ClassVar[tuple[str, ...]] = ()
    """Names of parameters that the layer itself does not have."""

    @abc.abstractmethod
    def start(self, weight: Array, key: Array | None) -> tuple[dict[str, Array], Any]:
        """What is put in place of a weight, and state of one's own."""

    @abc.abstractmethod
    def weight(self, params: dict, own: Any) -> tuple[Array, Any]:
        """(Ŵ in at least float32, what `pull` needs to know), for params and state of one's own."""

    @staticmethod
    @abc.abstractmethod
    def pull(known: Any, gradient: Array) -> dict[str, Array]:
        """Jᵀ ∂l/∂Ŵ."""

    def renew(self, weight: Array, own: Any) -> Any:
        """State of one's own, in every step of training."""
        return own

    def init(self, key: Array | None, x: Any):
        params, inner = self.layer.init(key, x)
        weight = params.get("weight") if isinstance(params, dict) else None
        if weight is None or weight.ndim < 2:
            raise ValueError(
                f"{self.name}: expected a layer with a weight of at least 2 axes, "
                f"got {brief(self.layer)}"
            )
        made, own = self.start(weight, key)
        if taken := made.keys() & (params.keys() - {"weight"}):
            raise ValueError(
                f"{self.name}: expected a layer without parameters of the names "
                f"{sorted(taken)}, got {brief(self.layer)}"
            )
        return params | made, OwnState(inner, own)

    def inner_state(self, tree: Any) -> Any:
        return tree.inner if isinstance(tree, OwnState) else tree

    def predict(self, params: dict, state: Any, x: Any):
        given, _ = self._given(params, state.own)
        return self.layer.predict(given, state.inner, x)

    def forward(self, params: dict, state: Any, x: Any, key: Array | None):
        own = self.renew(params["weight"], state.own)
        given, known = self._given(params, own)
        y, inner, residuals = self.layer.forward(given, state.inner, x, key)
        return y, OwnState(inner, own), (residuals, own, known)

    def backward(self, params: dict, residuals: Any, dy: Any):
        kept, own, known = residuals
        dx, capture = self.layer.backward(self._given(params, own)[0], kept, dy)
        batch = jax.tree.leaves(dy)[0].shape[0]
        use = Use(
            capture,
            jax.tree.map(lambda a: jnp.broadcast_to(a, (batch, *a.shape)), known),
            jnp.ones(batch, bool),
        )
        return dx, ReparametrizedCapture((use,), type(self))

    def _given(self, params: dict, own: Any) -> tuple[dict, Any]:
        """The params of the layer, and what is known of Ŵ."""
        weight, known = self.weight(params, own)
        rest = {name: p for name, p in params.items() if name not in self.added}
        return rest | {"weight": weight.astype(params["weight"].dtype)}, known


def axes_but(where: str, weight: Array, axis: int) -> tuple[int, ...]:
    """All axes of a weight but one."""
    if not -weight.ndim <= axis < weight.ndim:
        raise ValueError(
            f"{where}: expected axis to name one of the weight, got {axis} for shape {weight.shape}"
        )
    return tuple(other for other in range(weight.ndim) if other != axis % weight.ndim)


class OwnState(NamedTuple):
    """The state of a layer around another."""

    inner: Any
    """That of the layer itself."""
    own: Any
    """What the weight is computed from beside the parameters, () for nothing."""


class weight_norm(Reparametrized):
    """The layer with Ŵ = g v / ‖v‖, length and direction of a weight apart (Salimans and Kingma,
    2016).

    v is ``weight``, of the shape of the layer's own, and g is ``scale``: one number for every index
    along ``axis``, over whose other axes the norm is taken. They start from the layer's weight and
    its norm. With u = v / ‖v‖ and G = ∂L/∂Ŵ, ∂L/∂g = G · u and ∂L/∂v = (g / ‖v‖) (G − u (G · u)),
    which is orthogonal to v. Where v = 0, u and both gradients are 0.

    Args:
        layer: A layer with a ``weight``, such as `dense` or `conv`.
        axis: That of the outputs, the last, unless given.

    Raises:
        ValueError: at ``init``, the layer has no ``weight`` of at least 2 axes, its weight has no
            such axis, or it has a ``scale`` already.
    """

    layer: Layer
    axis: int = -1

    mixes = False
    added = ("scale",)

    def start(self, weight: Array, key: Array | None):
        over = axes_but(self.name, weight, self.axis)
        norm = norm_along(weight.astype(sum_dtype(weight.dtype)), over)
        return {"weight": weight, "scale": norm.ravel().astype(weight.dtype)}, ()

    def weight(self, params: dict, own: Any):
        v, scale = (
            params[name].astype(sum_dtype(params[name].dtype)) for name in ("weight", "scale")
        )
        norm = norm_along(v, axes_but(self.name, v, self.axis))
        inverse = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
        unit, scale = v * inverse, scale.reshape(norm.shape)
        return scale * unit, (unit, scale * inverse)

    @staticmethod
    def pull(known: Any, gradient: Array):
        unit, factor = known
        over = tuple(axis for axis, size in enumerate(factor.shape) if size == 1)
        # An axis of size 1 is summed over, too: it has one element.
        along = jnp.sum(gradient * unit, over, keepdims=True)
        return {"weight": factor * (gradient - unit * along), "scale": along.ravel()}


class spectral_norm(Reparametrized):
    """The layer with Ŵ = W / σ, for the largest singular value σ of W (Miyato et al., 2018).

    W is ``weight``, of the shape of the layer's own, as a matrix [other axes, outputs]. Every step
    of training takes ``iterations`` power iterations, u ← Wᵀ v / ‖Wᵀ v‖ and v ← W u / ‖W u‖; then
    σ = vᵀ W u. The vectors are the layer's state (in at least float32), start from 15 iterations,
    and are taken for constants: with G = ∂L/∂Ŵ, ∂L/∂W = (G − (G · Ŵ) v uᵀ) / σ. Inference, and the
    view `in_inference_mode`, use the vectors as they are. Where σ = 0, Ŵ and the gradient are 0.

    Args:
        layer: A layer with a ``weight``, such as `dense` or `conv`.
        iterations: In every step of training.

    Raises:
        ValueError: at ``init``, the layer has no ``weight`` of at least 2 axes, or there is no key.
    """

    layer: Layer
    iterations: Annotated[int, require_count] = 1

    mixes = False

    def at_rest(self) -> Layer:
        return dataclasses.replace(self, iterations=0)

    def start(self, weight: Array, key: Array | None):
        matrix = _matrix(weight)
        key = jax.random.fold_in(require_key("spectral_norm", key), 1)
        v = _unit(jax.random.normal(key, matrix.shape[:1], matrix.dtype))
        own = {"left": v, "right": _unit(v @ matrix)}
        return {"weight": weight}, _iterated(matrix, own, FIRST_ITERATIONS)

    def renew(self, weight: Array, own: Any) -> Any:
        return jax.lax.stop_gradient(_iterated(_matrix(weight), own, self.iterations))

    def weight(self, params: dict, own: Any):
        matrix = _matrix(params["weight"])
        v, u = jax.lax.stop_gradient((own["left"], own["right"]))
        sigma = v @ matrix @ u
        inverse = jnp.where(sigma == 0, 0, 1 / jnp.where(sigma == 0, 1, sigma))
        weight = (matrix * inverse).reshape(params["weight"].shape)
        return weight, (weight, v, u, inverse)

    @staticmethod
    def pull(known: Any, gradient: Array):
        weight, v, u, inverse = known
        direction = jnp.outer(v, u).reshape(weight.shape)
        return {"weight": (gradient - jnp.sum(gradient * weight) * direction) * inverse}


def _matrix(weight: Array) -> Array:
    return weight.reshape(-1, weight.shape[-1]).astype(sum_dtype(weight.dtype))


def _unit(vector: Array) -> Array:
    norm = norm_along(vector, (0,))
    return vector / jnp.where(norm > 0, norm, 1)


def _iterated(matrix: Array, own: dict, iterations: int) -> dict:
    v, u = own["left"], own["right"]
    for _ in range(iterations):
        u = _unit(v @ matrix)
        v = _unit(matrix @ u)
    return {"left": v, "right": u}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Use:
    """One use of the parameters behind a weight."""

    capture: Any
    """That of the layer, of Ŵ."""
    known: Any
    """What is known of Ŵ, the same for every example, as a capture has the batch first."""
    there: Any
    """[batch], whether the example is there: of one that is not, nothing is known."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ReparametrizedCapture(Capture):
    """Of parameters behind the weight of a layer: its gradients by Ŵ, pulled back to them.

    The map is no linear one of inputs to outputs, so that there is no `linear` capture behind it;
    the gradients of single examples and all that is made of them are exact.
    """

    uses: tuple[Use, ...]
    kind: Any = dataclasses.field(metadata={"static": True})

    @property
    def mixes(self) -> str | None:
        return self.uses[0].capture.mixes

    @property
    def summed_by(self) -> str | None:
        return self.uses[0].capture.summed_by

    def gradient(self) -> dict[str, Array]:
        """The sum over the uses."""
        return jax.tree.map(add_all, *map(self._pulled, self.uses))

    def join(self, *others: "ReparametrizedCapture") -> "ReparametrizedCapture":
        """Side by side: every use has a weight of its own where state has moved between them."""
        return dataclasses.replace(self, uses=sum((other.uses for other in others), self.uses))

    def map_deltas(self, function: Any) -> "ReparametrizedCapture":
        return self._each(lambda capture: capture.map_deltas(function))

    def scaled(self, factor: Any) -> "ReparametrizedCapture":
        return self._each(lambda capture: capture.scaled(factor))

    def _each(self, change: Any) -> "ReparametrizedCapture":
        uses = (dataclasses.replace(use, capture=change(use.capture)) for use in self.uses)
        return dataclasses.replace(self, uses=tuple(uses))

    def _pulled(self, use: Use) -> dict[str, Array]:
        gradients = use.capture.gradient()
        weight = gradients["weight"]
        example = jnp.argmax(use.there) if use.there.size else 0
        known = jax.tree.map(
            lambda a: a[example] if a.shape[0] else jnp.zeros(a.shape[1:], a.dtype), use.known
        )
        pulled = self.kind.pull(known, weight.astype(sum_dtype(weight.dtype)))
        return gradients | {name: g.astype(weight.dtype) for name, g in pulled.items()}
