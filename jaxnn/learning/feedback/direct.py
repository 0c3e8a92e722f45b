"""Direct feedback alignment: the error of the output goes to every block at once."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import Many, inside, serial
from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_key
from jaxnn.learning.feedback.rules import FeedbackState


class direct_feedback_alignment(Many, init=False):
    """y = fₙ(… f₁(x)) as `serial`; block i is given the delta dy · Bᵢ in place of its successor's.

    Bᵢ [outputs of the network, *outputs of block i] is drawn once from N(0, 1 / outputs of the
    network) and is the ``memory`` of a `FeedbackState`, beside the states of the blocks; the last
    block is given dy itself (Nøkland, 2016). No delta waits for another, so that backward is
    parallel in depth. Within a block deltas travel back as its own layers have it: a block of a
    weight and an activation, ``serial(dense(512), relu())``, is direct feedback alignment as
    published.

    dx is that of the first block. The memory of Bᵢ is outputs times outputs: a convolution's block
    should end with its pooling.

    Raises:
        ValueError: there is a single block, which would be plain `serial`; a block does not return
            one array.
    """

    true_gradient: bool
    """Whether each block is given its successor's delta after all; see `plain`."""

    mixes = False

    def __init__(self, /, *layers: Layer, true_gradient: bool = False, **named: Layer):
        object.__setattr__(self, "true_gradient", true_gradient)
        super().__init__(*layers, **named)

    @property
    def options(self) -> dict[str, Any]:
        return {"true_gradient": True} if self.true_gradient else {}

    def validate(self) -> None:
        if len(self.layers) < 2:
            raise ValueError(
                "direct_feedback_alignment: expected at least two blocks, got one, which has the "
                "delta of the output anyhow"
            )

    @functools.cached_property
    def _chain(self) -> serial:
        return serial(*self.by_position, **self.by_name)

    def plain(self) -> Layer:
        if self.true_gradient:
            return self
        return direct_feedback_alignment(*self.by_position, **self.by_name, true_gradient=True)

    def of_parts(self, tree: Any) -> tuple:
        return tree.inner if isinstance(tree, FeedbackState) else tree

    def init(self, key: Array | None, x: Any):
        params, states = self._chain.init(key, x)
        shapes = []
        for block, p, s in zip(self.layers, params, states, strict=True):
            x = jax.eval_shape(block.predict, p, s, x)
            if not hasattr(x, "shape"):
                raise ValueError(
                    "direct_feedback_alignment: expected every block to return one array, "
                    f"{block.name} returns {type(x).__name__}"
                )
            shapes.append(x.shape[1:])
        key = jax.random.fold_in(require_key("direct_feedback_alignment", key), 1)
        outputs = math.prod(shapes[-1])
        feedback = tuple(
            jax.random.normal(k, (outputs, *shape), x.dtype) / math.sqrt(outputs)
            for k, shape in zip(jax.random.split(key, len(shapes) - 1), shapes[:-1], strict=True)
        )
        return params, FeedbackState(states, feedback)

    def predict(self, params: Any, state: Any, x: Any):
        return self._chain.predict(params, state.inner, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, inner, residuals = self._chain.forward(params, state.inner, x, key)
        return y, state._replace(inner=inner), (residuals, state.memory)

    def backward(self, params: Any, residuals: Any, dy: Array):
        residuals, feedback = residuals
        if self.true_gradient:
            return self._chain.backward(params, residuals, dy)
        error = dy.reshape(dy.shape[0], math.prod(dy.shape[1:]))
        deltas = [*(jnp.tensordot(error, b, 1) for b in feedback), dy]
        results = []
        for index, block in enumerate(self.layers):
            with inside(self, index):
                own = params[index], residuals.kept[index], deltas[index]
                results.append(block.backward(*own))
        dx, captures = zip(*results, strict=True)
        return dx[0], self.gather(captures)
