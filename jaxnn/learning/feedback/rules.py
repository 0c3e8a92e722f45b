"""Rules that put other weights into a layer's backward pass.

Weights here are the parameters of two axes and more; a bias does not propagate, and scale and
offset are left as they are.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import Around
from jaxnn.core.captures import PlacedCaptures
from jaxnn.core.combinators import Wrapper
from jaxnn.core.contract import Capture, Layer
from jaxnn.core.networks import rewrite
from jaxnn.core.validation import require_key, require_share
from jaxnn.kernels.products import sum_dtype


class FeedbackState(NamedTuple):
    """The state of a layer with feedback weights."""

    inner: Any
    """That of the layer itself."""
    memory: Any
    """What its rule keeps, such as the feedback weights."""


class Feedback(Wrapper):
    """The same network, whose layers with weights propagate over those of a rule: this base's
    subclass.

    Params are those of the network itself, and the same key draws the same. In ``start`` and
    ``renew``, weights are the tree of a layer's parameters, with None for those that are none, and
    ``draw`` is a function (key) -> weights, drawn anew by the layer's own initialisers: a rule has
    no scale of its own to choose.

    Raises:
        ValueError: at ``init``, no layer in it has weights to propagate over, or one gives its
            gradient already contracted: it may compute its forward pass again on the way back, for
            which the feedback weights would be the wrong ones.
    """

    layer: Layer
    true_gradient: bool = dataclasses.field(default=False, kw_only=True)
    """Whether deltas travel over the weights after all; see `plain`."""

    mixes = False

    def start(self, weights: Any, draw: Callable, key: Array) -> Any:
        """What is kept of a layer before the first step: fixed feedback weights."""
        return draw(key)

    def renew(
        self, memory: Any, weights: Any, draw: Callable, key: Array | None
    ) -> tuple[Any, Any]:
        """(what is kept, feedback weights), in every forward pass; the key is None where that has
        none."""
        return memory, memory

    def plain(self) -> Layer:
        return dataclasses.replace(self, true_gradient=True)

    @functools.cached_property
    def _fed(self) -> Layer:
        def fed(path: str, part: Layer):
            return part if part.parts else Fed(part, dataclasses.replace(self, layer=part))

        return rewrite(self.layer, fed)

    def init(self, key: Array | None, x: Any):
        params, state = self._fed.init(key, x)
        if not any(_is_fed(s) for s in jax.tree.leaves(state, is_leaf=_is_fed)):
            raise ValueError(
                f"{self.name}: expected a layer with weights that deltas are propagated over, "
                f"{self.layer.name} has none"
            )
        return params, state

    def predict(self, params: Any, state: Any, x: Any):
        return self._fed.predict(params, state, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        return self._fed.forward(params, state, x, key)

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self._fed.backward(params, residuals, dy)


class feedback_alignment(Feedback):
    """Deltas travel back over fixed random weights, dx = dy Bᵀ (Lillicrap et al., 2016).

    B is drawn once, as the layer's own weights are. The weights come to align with it, so that the
    updates come to within 90° of the gradient. For dense layers, convolutions and recurrent layers
    (there also through time). Raises as `Feedback`.
    """


class sign_concordant(Feedback):
    """B = M ∘ sign(W): feedback weights share only the signs of the weights (Liao et al., 2016).

    Args:
        layer: A layer or a network.
        magnitude: "uniform": M is one number for each array, the root mean square of its initial
            weights. "fixed": M = |B₀|, drawn once as the layer's own weights are. "batch": the
            same, drawn anew in every training step, which then needs a key; in inference mode,
            where nothing is drawn, the gradient is the true one.

    Raises:
        ValueError: ``magnitude`` is unknown; as `Feedback`.
    """

    magnitude: Literal["uniform", "fixed", "batch"] = "uniform"

    def at_rest(self) -> Layer:
        return self.plain() if self.magnitude == "batch" else self

    def start(self, weights: Any, draw: Callable, key: Array) -> Any:
        match self.magnitude:
            case "uniform":
                return jax.tree.map(_root_mean_square, weights)
            case "fixed":
                return _drawn_magnitude(draw, key)
        return ()

    def renew(self, memory: Any, weights: Any, draw: Callable, key: Array | None):
        magnitude = _drawn_magnitude(draw, key) if self.magnitude == "batch" else memory
        return memory, jax.tree.map(lambda w, m: jnp.sign(w) * m, weights, magnitude)


def _root_mean_square(w: Array) -> Array:
    wide = w.astype(sum_dtype(w.dtype))  # the square of a small number of half precision is 0
    return jnp.sqrt(jnp.mean(wide * wide)).astype(w.dtype)


def _drawn_magnitude(draw: Callable, key: Array | None) -> Any:
    return jax.tree.map(jnp.abs, draw(require_key("sign_concordant", key)))


class kolen_pollack(Feedback):
    """Feedback weights that learn: updates as of the weights, and a decay of both.

    Kolen and Pollack (1994), Akrout et al. (2019): if W and B receive the same updates and both
    decay by λ in every step, their difference is left to decay, B − W ← (1 − λ) (B − W), and no
    weight has to be copied from one to the other. Here the update is read off as what changed W
    since the last step, whatever optimiser changed it: B ← W + (1 − λ) (B − W_before). The decay of
    W itself is the optimiser's. B starts as in `feedback_alignment`.

    Args:
        layer: A layer or a network.
        decay: λ in [0, 1]: 0 keeps the difference for ever, 1 is backprop from the first step on.

    Raises:
        ValueError: ``decay`` is outside of its range; as `Feedback`.
    """

    decay: Annotated[float, require_share] = 1e-2

    def start(self, weights: Any, draw: Callable, key: Array) -> Any:
        # Copied, so that an epoch can be given the memory of params and of state.
        return {"feedback": draw(key), "before": jax.tree.map(jnp.copy, weights)}

    def renew(self, memory: Any, weights: Any, draw: Callable, key: Array | None):
        feedback = jax.tree.map(
            lambda b, before, w: w + (1 - self.decay) * (b - before),
            memory["feedback"],
            memory["before"],
            weights,
        )
        return {"feedback": feedback, "before": weights}, feedback


class Fed(Around):
    """A layer without parts under a rule; as it is where it has nothing to propagate over."""

    rule: Feedback

    keeps = True

    def init(self, key: Array | None, x: Any):
        params, inner = self.layer.init(key, x)
        weights = _weights(params)
        # Integers, such as the ids of an embedding, have no dx.
        if not jax.tree.leaves(weights) or not any(map(_is_floating, jax.tree.leaves(x))):
            return params, inner
        assert key is not None  # it has drawn the weights
        self._require_weights_to_propagate_alone(params, inner, x, key)
        memory = self.rule.start(weights, self._draw_like(x), jax.random.fold_in(key, 1))
        return params, FeedbackState(inner, memory)

    def predict(self, params: Any, state: Any, x: Any):
        return self.layer.predict(params, state.inner if _is_fed(state) else state, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        if not _is_fed(state):
            y, state, residuals = self.layer.forward(params, state, x, key)
            return y, state, (residuals, None)
        y, inner, residuals = self.layer.forward(params, state.inner, x, key)
        if self.rule.true_gradient:
            return y, FeedbackState(inner, state.memory), (residuals, None)
        rule_key = None if key is None else jax.random.fold_in(key, 1)
        memory, feedback = self.rule.renew(
            state.memory, _weights(params), self._draw_like(x), rule_key
        )
        return y, FeedbackState(inner, memory), (residuals, feedback)

    def backward(self, params: Any, residuals: Any, dy: Any):
        kept, feedback = residuals
        if feedback is not None:
            params = jax.tree.map(lambda p, b: p if b is None else b, params, feedback)
        return self.layer.backward(params, kept, dy)

    def _draw_like(self, x: Any) -> Callable:
        return lambda key: _weights(self.layer.init(key, x)[0])

    def _require_weights_to_propagate_alone(
        self, params: Any, state: Any, x: Any, key: Array
    ) -> None:
        layer = self.layer

        def captures(params, state, x, key):
            y, _, residuals = layer.forward(params, state, x, key)
            dy = jax.tree.map(lambda a: a if _is_floating(a) else None, y)
            return layer.backward(params, residuals, dy)[1]

        found = jax.eval_shape(captures, params, state, x, key)
        if isinstance(found, PlacedCaptures):
            raise ValueError(
                f"{self.rule.name}: expected layers that propagate over the weights which backward "
                f"is given, but {layer.name} is a function whose pass is JAX's own, over the "
                "weights that it was called with"
            )
        for capture in jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, Capture)):
            if capture.summed_by is not None:
                raise ValueError(
                    f"{self.rule.name}: expected layers that use their weights on the way back to "
                    f"propagate alone, but {layer.name} gives its gradient already contracted, and "
                    "may compute its forward pass again"
                )


def _weights(params: Any) -> Any:
    return jax.tree.map(lambda p: p if p.ndim >= 2 else None, params)


def _is_fed(state: Any) -> bool:
    return isinstance(state, FeedbackState)


def _is_floating(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)
