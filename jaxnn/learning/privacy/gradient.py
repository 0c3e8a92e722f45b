"""The private gradient: norms of the examples' gradients first, then one weighted contraction.

The captures of one backward pass give each example's gradient norm without its gradient (see
`jaxnn.statistics`), and contracted once more, with each example's deltas times its own factor, the
sum of the clipped gradients. No example's gradient is ever held (ghost clipping; Li et al., 2022),
and the second backward pass that PyTorch libraries need for it falls away.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract
from jaxnn.core.gradients import backward_pass
from jaxnn.core.layer import Layer, Loss
from jaxnn.core.validation import require_key, require_number, require_positive_integer
from jaxnn.learning.privacy.noise import normal
from jaxnn.statistics import scaled, squared_norms_of
from jaxnn.statistics.trees import require_examples_apart


class Privacy(NamedTuple):
    """What makes training private; see `private` and `epsilon_spent`."""

    clip_norm: float
    """The largest norm of one example's gradient, all parameters together."""
    noise_multiplier: float
    """The deviation of the noise, in units of ``clip_norm``."""
    delta: float
    """The probability δ with which the promise may fail: well below 1 / examples."""

    def require_valid(self) -> "Privacy":
        """The same; raises ValueError or TypeError unless each number is what it should be."""
        for name in ("clip_norm", "noise_multiplier"):
            require_number("privacy", name, getattr(self, name), minimum=0, open_minimum=True)
        require_probability("privacy", "delta", self.delta)
        return self


def require_probability(where: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is a number in (0, 1)."""
    require_number(where, name, value, minimum=0, maximum=1, open_minimum=True, open_maximum=True)


def clipped_sum(network: Layer, loss: Loss, clip_norm: float) -> Callable:
    """(params, state, x, target, key=None, weights=None) -> ((values, state), gradients).

    Σ_b g_b min(1, C / ‖g_b‖) with C = ``clip_norm`` and g_b the gradient of weights[b] times the
    example's own loss: no example, whatever its weight, moves the sum by more than C. ``values``
    [batch] are the examples' own losses.

    Raises:
        ValueError: ``clip_norm`` is not positive; a layer mixes the examples of a batch, as batch
            norm does in training.
    """
    require_number("clipped_sum", "clip_norm", clip_norm, minimum=0, open_minimum=True)
    run = backward_pass(network, loss)

    def compute(params, state, x, target, key=None, weights=None):
        result = run(params, state, x, target, key, weights)
        captures = require_examples_apart("clipped_sum", result.captures)
        # A norm of 0 divides to infinity, and the factor is 1.
        factors = jnp.minimum(1, clip_norm * jax.lax.rsqrt(squared_norms_of(captures)))
        return (result.values, result.state), contract(scaled(captures, factors))

    return compute


def private(
    network: Layer,
    loss: Loss,
    *,
    clip_norm: float,
    noise_multiplier: float,
    batch_size: int,
) -> Callable:
    """The gradient function of DP-SGD: (clipped sum + σ C · standard normal noise) / batch_size.

    With `jaxnn.backprop`'s arguments and result; it needs a key, which is split between the network
    and the noise. ``batch_size`` is the *expected* size of a Poisson sample, a constant: to divide
    by the size at hand would tell about the sample. A fixed number of places is filled with the
    sample, and ``weights`` are 1 for its examples and 0 for what is left (see `poisson_batches`).
    The value, Σ w l / batch_size, estimates the mean loss over the data in the same way. It is for
    the eyes of who holds the data: like every training loss it is not covered by the promise.

    The noise is drawn by JAX's generator in the precision of the parameters: enough for research;
    against an attacker who exploits how floating-point numbers are rounded (Mironov, 2012) or
    predicts the generator it is not made.

    Args:
        network: The network.
        loss: The loss.
        clip_norm: C, more than 0.
        noise_multiplier: σ, more than 0.
        batch_size: See above.

    Raises:
        ValueError: as `clipped_sum`; a number is not positive.
    """
    require_number("private", "noise_multiplier", noise_multiplier, minimum=0, open_minimum=True)
    require_positive_integer("private", "batch_size", batch_size)
    clipped = clipped_sum(network, loss, clip_norm)
    deviation = noise_multiplier * clip_norm

    def gradient(params, state, x, target, key=None, weights=None):
        network_key, noise_key = jax.random.split(require_key("private", key))
        (values, state), total = clipped(params, state, x, target, network_key, weights)
        leaves, treedef = jax.tree.flatten(total)
        keys = jax.random.split(noise_key, len(leaves))
        noisy = [_with_noise(*pair, deviation) for pair in zip(keys, leaves, strict=True)]
        gradients = jax.tree.map(lambda g: g / batch_size, treedef.unflatten(noisy))
        own = values if weights is None else values * weights
        return (jnp.sum(own) / batch_size, state), gradients

    return gradient


def _with_noise(key: Array, total: Array, deviation: float) -> Array:
    return total + deviation * normal(key, total.shape, total.dtype)
