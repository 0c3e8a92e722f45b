"""Local losses: every block learns from a head of its own, and no delta crosses a block (Belilovsky
et al., 2019; Nøkland and Eidnes, 2019).

Of blocks y_i = f_i(y_{i−1}), each but the last has a head h_i, and is given the gradient of

    l_i = loss(h_i(y_i), target)

by its own parameters and by those of its head, y_{i−1} taken for a constant; the last block has the
loss of the network. What this loses beside backprop is what exact deltas buy.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract_for
from jaxnn.core.combinators import inside, parallel, serial, split
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import (
    of_present,
    of_those_present,
    require_weights,
    shares,
    weighted_mean,
)
from jaxnn.core.networks import summing
from jaxnn.core.value import Value


class auxiliary_heads(Layer):
    """y = fₙ(… f₁(x)), as ``blocks``, with a head behind every block but the last.

    Of the heads y does not depend: `jaxnn.backprop` gives them gradients of zero, `local_losses`
    those of their own losses. Their parameters and state lie beside those of the blocks, which are
    drawn as ``blocks.init`` draws them.

    Args:
        blocks: A `serial` of at least two.
        heads: A `parallel` of one for each block but the last, such as
            ``parallel(serial(flatten(), dense(10)), …)``.

    Raises:
        ValueError: there are not as many heads.
    """

    blocks: serial
    heads: parallel

    mixes = False

    def validate(self) -> None:
        blocks, heads = len(self.blocks.layers), len(self.heads.layers)
        if heads != blocks - 1:
            raise ValueError(
                f"auxiliary_heads: expected a head for every block but the last, {blocks - 1}, "
                f"got {heads}"
            )

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.blocks, self.heads)

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("blocks", "heads")

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        return auxiliary_heads(*parts)  # pyright: ignore[reportArgumentType]

    def init(self, key: Array | None, x: Any):
        with inside(self, 0):
            params, state = self.blocks.init(key, x)
        ys = []
        for block, own, kept in zip(self.blocks.layers, params, state, strict=True):
            x = jax.eval_shape(block.predict, own, kept, x)
            ys.append(x)
        with inside(self, 1):
            own = None if key is None else jax.random.fold_in(key, 1)
            of_heads = self.heads.init(own, tuple(ys[:-1]))
        return tuple(zip((params, state), of_heads, strict=True))

    def predict(self, params: Any, state: Any, x: Any):
        with inside(self, 0):
            return self.blocks.predict(params[0], state[0], x)

    def predictions(
        self, params: Any, state: Any, x: Any, key: Array | None
    ) -> tuple[tuple, Any, Any]:
        """(what the heads and the last block predict, state, what each block and the heads keep),
        in training."""
        ys, states, kept = [], [], []
        with inside(self, 0):
            # The blocks draw what they draw without heads.
            for i, own in enumerate(split(key, len(self.blocks.layers))):
                with inside(self.blocks, i):
                    x, new, residuals = self.blocks.layers[i].forward(
                        params[0][i], state[0][i], x, own
                    )
                ys.append(x)
                states.append(new)
                kept.append(residuals)
        with inside(self, 1):
            own = None if key is None else jax.random.fold_in(key, 1)
            of_heads = self.heads.forward(params[1], state[1], tuple(ys[:-1]), own)
        predicted, new, residuals = of_heads
        state = (self.blocks.gather(states), new)
        return (*predicted, ys[-1]), state, (self.blocks.gather(kept), residuals)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        (*_, y), state, residuals = self.predictions(params, state, x, key)
        return y, state, residuals

    def backward(self, params: Any, residuals: Any, dy: Any):
        kept, of_heads = residuals
        captures = []
        with inside(self, 0):
            for i in reversed(range(len(kept))):
                with inside(self.blocks, i):
                    dy, own = self.blocks.layers[i].backward(params[0][i], kept[i], dy)
                captures.append(own)
        treedef, shapes = of_heads.output.value
        nothing = [jnp.zeros(one.shape, one.dtype) for one in shapes]
        with inside(self, 1):
            _, unused = self.heads.backward(params[1], of_heads, treedef.unflatten(nothing))
        return dy, (self.blocks.gather(reversed(captures)), unused)


class local_losses(Value):
    """The gradients of local losses, with the signature of `jaxnn.backprop`'s.

    The value is the loss of the last block alone, that of the network.
    """

    network: auxiliary_heads
    loss: Loss

    def __call__(self, params, state, x, target, key=None, weights=None):
        """((value, state), gradients)."""
        network: Any = summing(self.network)
        blocks, heads = network.parts
        x, target = of_those_present(self.loss, weights, x, target)
        predicted, state, (kept, of_heads) = network.predictions(params, state, x, key)
        shape = jax.eval_shape(self.loss.value, predicted[-1], target)
        require_weights(weights, shape)
        factors = shares(weights, shape)
        pairs = [self.loss.weighted(prediction, target, factors) for prediction in predicted]
        values, deltas = zip(*pairs, strict=True)
        with inside(network, 1):
            below, captures = heads.backward(params[1], of_heads, deltas[:-1])
        own = []
        with inside(network, 0):
            for i, delta in enumerate((*below, deltas[-1])):
                with inside(blocks, i):
                    own.append(blocks.layers[i].backward(params[0][i], kept[i], delta)[1])
        value = weighted_mean(of_present(weights, values[-1]), weights)
        return (value, state), contract_for(params, (blocks.gather(own), captures))
