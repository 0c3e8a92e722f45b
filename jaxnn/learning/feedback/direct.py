"""Direct feedback alignment: the error of the output goes to every block at once."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import serial
from jaxnn.core.layer import Layer
from jaxnn.core.validation import require_key


def direct_feedback_alignment(*blocks: Layer) -> Layer:
    """y = fₙ(… f₁(x)) as `serial`; block i is given the delta dy · Bᵢ in place of its successor's.

    Bᵢ [outputs of the network, *outputs of block i] is drawn once from N(0, 1 / outputs of the
    network) and lies in ``state``, behind the states of the blocks; the last block is given dy
    itself (Nøkland, 2016). No delta waits for another, so that backward is parallel in depth.
    Within a block deltas travel back as its own layers have it: a block of a weight and an
    activation, ``serial(dense(512), relu())``, is direct feedback alignment as published.

    dx is that of the first block. The memory of Bᵢ is outputs times outputs: a convolution's block
    should end with its pooling.

    Raises:
        ValueError: there is a single block, which would be plain `serial`; a block does not return
            one array.
    """
    chain = serial(*blocks)
    if len(blocks) < 2:
        raise ValueError(
            "direct_feedback_alignment: expected at least two blocks, got one, which has the delta "
            "of the output anyhow"
        )

    def init(key: Array | None, x: Any):
        params, states = chain.init(key, x)
        shapes = []
        for block, p, s in zip(blocks, params, states, strict=True):
            x = jax.eval_shape(block.predict, p, s, x)
            if not hasattr(x, "shape"):
                raise ValueError(
                    "direct_feedback_alignment: expected every block to return one array, "
                    f"{block.name} returns {type(x).__name__}"
                )
            shapes.append(x.shape[1:])
        keys = jax.random.split(
            jax.random.fold_in(require_key("direct_feedback_alignment", key), 1), len(blocks) - 1
        )
        outputs = math.prod(shapes[-1])
        feedback = tuple(
            jax.random.normal(k, (outputs, *shape), x.dtype) / math.sqrt(outputs)
            for k, shape in zip(keys, shapes[:-1], strict=True)
        )
        return params, (*states, feedback)

    def predict(params: Any, state: Any, x: Any):
        return chain.predict(params, state[:-1], x)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        *states, feedback = state
        y, new_states, residuals = chain.forward(params, tuple(states), x, key)
        return y, (*new_states, feedback), (*residuals, feedback)

    def backward(params: Any, residuals: Any, dy: Array):
        *residuals, feedback = residuals
        error = dy.reshape(dy.shape[0], math.prod(dy.shape[1:]))
        deltas = [*(jnp.tensordot(error, b, 1) for b in feedback), dy]
        results = [
            block.backward(p, kept, delta)
            for block, p, kept, delta in zip(blocks, params, residuals, deltas, strict=True)
        ]
        dx, captures = zip(*results, strict=True)
        return dx[0], captures

    return Layer(
        init,
        predict,
        forward,
        backward,
        "direct_feedback_alignment",
        blocks,
        direct_feedback_alignment,
    )
