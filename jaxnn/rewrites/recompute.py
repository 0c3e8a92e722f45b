"""Recomputation: a layer's residuals are computed again when backward needs them, and not kept."""

from typing import Any

from jax import Array

from jaxnn.core.combinators import One, inside
from jaxnn.core.contract import Layer
from jaxnn.kernels.ordering import after


class recompute(One):
    """The same layer, whose forward keeps its input alone; backward first runs forward again.

    Between the two only params, state, x and key are held, of which x and the key are all that
    would not be there anyway; one more forward pass is the price (Chen et al., 2016). Around every
    block of a deep network it leaves the inputs of the blocks, and the residuals of the one block
    that backward is in: `summarize` shows the bytes that each layer saves.

    Gradients, statistics and rules of feedback are those of the layer itself. It is about the
    backward pass by hand: `jaxnn.autodiff` keeps what it keeps.
    """

    layer: Layer

    mixes = False
    forgets = True

    def init(self, key: Array | None, x: Any):
        with inside(self, 0):
            params, state = self.layer.init(key, x)
        return (params,), (state,)

    def predict(self, params: Any, state: Any, x: Any):
        with inside(self, 0):
            return self.layer.predict(params[0], state[0], x)

    def keeping(self, params: Any, state: Any, x: Any, key: Array | None):
        """(y, state, the residuals of the layer), as if nothing were computed again."""
        with inside(self, 0):
            y, new_state, residuals = self.layer.forward(params[0], state[0], x, key)
        return y, (new_state,), (residuals,)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, _ = self.keeping(params, state, x, key)
        return y, new_state, ((params[0], state[0], x, key),)

    def backward(self, params: Any, residuals: Any, dy: Any):
        # Not the params given here: a rule may propagate over others than forward was run with.
        kept_params, state, x, key = residuals[0]
        with inside(self, 0):
            x, key = after(dy, (x, key))
            _, _, residuals = self.layer.forward(kept_params, state, x, key)
            dx, captures = self.layer.backward(params[0], residuals, dy)
        return dx, (captures,)
