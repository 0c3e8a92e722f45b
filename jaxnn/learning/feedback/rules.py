"""Rules that put other weights into a layer's backward pass.

Weights here are the parameters of two axes and more; a bias does not propagate, and scale and
offset are left as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import Capture, ContractedCapture, contract_at_once
from jaxnn.core.layer import Layer, rewrite
from jaxnn.core.validation import require_key, require_number, unknown_name


class Rule(NamedTuple):
    """How the feedback weights of a layer come about. ``weights`` are its own: the tree of its
    parameters, with None for those that are none.

    ``draw`` is a function (key) -> weights, drawn anew by the layer's own initialisers: a rule has
    no scale of its own to choose.
    """

    start: Callable
    """(weights, draw, key) -> memory, before the first step."""
    renew: Callable
    """(memory, weights, draw, key) -> (memory, feedback weights), in every forward pass. The key
    is None where the forward pass has none."""


class FeedbackState(NamedTuple):
    """The state of a layer with feedback weights."""

    inner: Any
    """That of the layer itself."""
    memory: Any
    """What its rule keeps, such as the feedback weights."""


def with_feedback(name: str, layer: Layer, rule: Rule) -> Layer:
    """The same network, whose layers with weights propagate over those of ``rule``.

    Params are those of the network itself, and the same key draws the same.

    Args:
        name: Of the rule, for errors.
        layer: A layer or a network.
        rule: The rule.

    Raises:
        ValueError: at ``init``, no layer in it has weights to propagate over, or one gives its
            gradient already contracted: it may compute its forward pass again on the way back, for
            which the feedback weights would be the wrong ones.
    """
    network = rewrite(layer, lambda path, part: _over_feedback(name, part, rule))

    def init(key: Array | None, x: Any):
        params, state = network.init(key, x)
        if not any(_is_fed(s) for s in jax.tree.leaves(state, is_leaf=_is_fed)):
            raise ValueError(
                f"{name}: expected a layer with weights that deltas are propagated over, "
                f"{layer.name or 'the layer'} has none"
            )
        return params, state

    return network._replace(init=init)


def feedback_alignment(layer: Layer) -> Layer:
    """Deltas travel back over fixed random weights, dx = dy Bᵀ (Lillicrap et al., 2016).

    B is drawn once, as the layer's own weights are. The weights come to align with it, so that the
    updates come to within 90° of the gradient. For dense layers, convolutions and recurrent layers
    (there also through time). Raises as `with_feedback`.
    """

    def start(weights: Any, draw: Callable, key: Array):
        return draw(key)

    def renew(memory: Any, weights: Any, draw: Callable, key: Array | None):
        return memory, memory

    return with_feedback("feedback_alignment", layer, Rule(start, renew))


def sign_concordant(layer: Layer, magnitude: str = "uniform") -> Layer:
    """B = M ∘ sign(W): feedback weights share only the signs of the weights (Liao et al., 2016).

    Args:
        layer: A layer or a network.
        magnitude: "uniform": M is one number for each array, the root mean square of its initial
            weights. "fixed": M = |B₀|, drawn once as the layer's own weights are. "batch": the
            same, drawn anew in every training step, which then needs a key.

    Raises:
        ValueError: ``magnitude`` is unknown; as `with_feedback`.
    """
    if magnitude not in _MAGNITUDES:
        raise ValueError(f"sign_concordant: {unknown_name('magnitude', magnitude, _MAGNITUDES)}")
    return with_feedback("sign_concordant", layer, _MAGNITUDES[magnitude])


def _signs(weights: Any, magnitudes: Any) -> Any:
    return jax.tree.map(lambda w, m: jnp.sign(w) * m, weights, magnitudes)


def _uniform_magnitude(weights: Any, draw: Callable, key: Array) -> Any:
    return jax.tree.map(lambda w: jnp.sqrt(jnp.mean(w * w)), weights)


def _drawn_magnitude(weights: Any, draw: Callable, key: Array | None) -> Any:
    return jax.tree.map(jnp.abs, draw(require_key("sign_concordant", key)))


def _kept(memory: Any, weights: Any, draw: Callable, key: Array | None) -> tuple:
    return memory, _signs(weights, memory)


def _redrawn(memory: Any, weights: Any, draw: Callable, key: Array | None) -> tuple:
    return memory, _signs(weights, _drawn_magnitude(weights, draw, key))


_MAGNITUDES = {
    "uniform": Rule(_uniform_magnitude, _kept),
    "fixed": Rule(_drawn_magnitude, _kept),
    "batch": Rule(lambda weights, draw, key: (), _redrawn),
}


def kolen_pollack(layer: Layer, decay: float = 1e-2) -> Layer:
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
        ValueError: ``decay`` is outside of its range; as `with_feedback`.
    """
    require_number("kolen_pollack", "decay", decay, minimum=0, maximum=1)

    def start(weights: Any, draw: Callable, key: Array):
        # Copied, so that an epoch can be given the memory of params and of state.
        return {"feedback": draw(key), "before": jax.tree.map(jnp.copy, weights)}

    def renew(memory: Any, weights: Any, draw: Callable, key: Array | None):
        feedback = jax.tree.map(
            lambda b, before, w: w + (1 - decay) * (b - before),
            memory["feedback"],
            memory["before"],
            weights,
        )
        return {"feedback": feedback, "before": weights}, feedback

    return with_feedback("kolen_pollack", layer, Rule(start, renew))


def _over_feedback(name: str, layer: Layer, rule: Rule) -> Layer:
    """A layer without parts under a rule; as it is where it has nothing to propagate over."""

    def draw_like(x: Any) -> Callable:
        return lambda key: _weights(layer.init(key, x)[0])

    def init(key: Array | None, x: Any):
        params, inner = layer.init(key, x)
        weights = _weights(params)
        # Integers, such as the ids of an embedding, have no dx.
        if not jax.tree.leaves(weights) or not any(map(_is_floating, jax.tree.leaves(x))):
            return params, inner
        assert key is not None  # it has drawn the weights
        _require_weights_to_propagate_alone(name, layer, params, inner, x, key)
        memory = rule.start(weights, draw_like(x), jax.random.fold_in(key, 1))
        return params, FeedbackState(inner, memory)

    def predict(params: Any, state: Any, x: Any):
        return layer.predict(params, state.inner if _is_fed(state) else state, x)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        if not _is_fed(state):
            y, state, residuals = layer.forward(params, state, x, key)
            return y, state, (residuals, None)
        y, inner, residuals = layer.forward(params, state.inner, x, key)
        rule_key = None if key is None else jax.random.fold_in(key, 1)
        memory, feedback = rule.renew(state.memory, _weights(params), draw_like(x), rule_key)
        return y, FeedbackState(inner, memory), (residuals, feedback)

    def backward(params: Any, residuals: Any, dy: Any):
        kept, feedback = residuals
        if feedback is not None:
            params = jax.tree.map(lambda p, b: p if b is None else b, params, feedback)
        return layer.backward(params, kept, dy)

    inference = layer.inference and _over_feedback(name, layer.inference, rule)
    return layer._replace(
        init=init, predict=predict, forward=forward, backward=backward, inference=inference
    )


def _require_weights_to_propagate_alone(
    name: str, layer: Layer, params: Any, state: Any, x: Any, key: Array
) -> None:
    def captures(params, state, x, key):
        y, _, residuals = layer.forward(params, state, x, key)
        dy = jax.tree.map(lambda a: a if _is_floating(a) else None, y)
        with contract_at_once(False):
            return layer.backward(params, residuals, dy)[1]

    found = jax.eval_shape(captures, params, state, x, key)
    for capture in jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, Capture)):
        if isinstance(capture, ContractedCapture):
            raise ValueError(
                f"{name}: expected layers that use their weights on the way back to propagate "
                f"alone, but {layer.name} gives its gradient already contracted, and may compute "
                "its forward pass again"
            )


def _weights(params: Any) -> Any:
    return jax.tree.map(lambda p: p if p.ndim >= 2 else None, params)


def _is_fed(state: Any) -> bool:
    return isinstance(state, FeedbackState)


def _is_floating(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)
