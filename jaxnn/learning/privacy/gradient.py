"""The private gradient: norms of the examples' gradients first, then one weighted contraction.

The captures of one backward pass give each example's gradient norm without its gradient (see
`jaxnn.statistics`), and contracted once more, with each example's deltas times its own factor, the
sum of the clipped gradients. No example's gradient is ever held (ghost clipping; Li et al., 2022),
and the second backward pass that PyTorch libraries need for it falls away.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backward_pass
from jaxnn.core.mixing import require_apart, require_loss_apart
from jaxnn.core.validation import (
    require_key,
    require_number,
    require_positive,
    require_positive_integer,
)
from jaxnn.core.value import Value
from jaxnn.kernels.noise import normal
from jaxnn.kernels.products import sum_dtype
from jaxnn.learning.accumulation import SummedGradient
from jaxnn.statistics import per_example_squared_norms, scaled
from jaxnn.statistics.trees import widened, without


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


class clipped_sum(Value, SummedGradient):
    """(params, state, x, target, key=None, weights=None) -> ((values, state), gradients).

    Σ_b g_b min(1, C / ‖g_b‖) with C = ``clip_norm`` and g_b the gradient of weights[b] times the
    example's own loss: no example, whatever its weight, moves the sum by more than C. One whose
    ‖g_b‖² is infinite or NaN adds nothing. ``values`` [batch] are the examples' own losses.

    Norms and the sum are in at least float32, and C is lowered by what rounding may add there. A
    sum that parameters of half precision ask for is rounded towards zero, so that it is not longer.

    Raises:
        ValueError: ``clip_norm`` is not positive; a layer mixes the examples of a batch, as batch
            norm does in training.
    """

    network: Layer
    loss: Loss
    clip_norm: Annotated[float, require_positive]

    def validate(self):
        require_loss_apart(self.name, self.loss)

    def __call__(self, params, state, x, target, key=None, weights=None):
        network_key, key = self.split(key)
        arguments = (params, state, x, target, network_key, weights)
        (values, state), sums = self.sums(*arguments)
        value, gradients = self.finish(params, values, weights, sums, key)
        return (value, state), gradients

    # A batch may be taken in parts: their sums add up, and are finished once.

    def split(self, key: Array | None) -> tuple[Array | None, Array | None]:
        """The keys of the network and of `finish`."""
        return key, None

    def sums(self, params, state, x, target, key=None, weights=None):
        """((values, state), the sum of clipped gradients), in at least float32."""
        require_apart(self.name, self.network, params, state, x, key)
        require_loss_apart(self.name, self.loss, self.network, params, state, x, target, key)
        run = backward_pass(self.network, self.loss)
        values, _, state, captures, _ = run(params, state, x, target, key, weights)
        captures = widened(captures)
        squares = per_example_squared_norms.of(captures)
        finite = jnp.isfinite(squares)
        # A norm of 0 divides to infinity, and the factor is 1.
        reach = self.clip_norm * (1 - _rounding(params, squares.dtype))
        factors = jnp.minimum(1, reach * jax.lax.rsqrt(squares))
        total = contract(scaled(without(captures, ~finite), jnp.where(finite, factors, 0)))
        return (values, state), total

    def finish(self, params, values, weights, sums, key) -> tuple[Array, Any]:
        """(value, gradients) of what `sums` gave."""
        return values, jax.tree.map(lambda p, total: _towards_zero(total, p.dtype), params, sums)


class private(clipped_sum):
    """The gradient function of DP-SGD: (clipped sum + σ C · standard normal noise) / batch_size.

    With `jaxnn.backprop`'s arguments and result; it needs a key, which is split between the network
    and the noise. ``batch_size`` is the *expected* size of a Poisson sample, a constant: to divide
    by the size at hand would tell about the sample. A fixed number of places is filled with the
    sample, and ``weights`` are 1 for its examples and 0 for what is left (see `poisson_batches`).
    The value, Σ w l / batch_size, estimates the mean loss over the data in the same way. It is for
    the eyes of who holds the data: like every training loss it is not covered by the promise.

    The noise is added to the `clipped_sum` in at least float32, and is that of JAX's generator:
    enough for research; against an attacker who exploits how floating-point numbers are rounded
    (Mironov, 2012) or predicts the generator it is not made.

    Args:
        network: The network.
        loss: The loss.
        clip_norm: C, more than 0.
        noise_multiplier: σ, more than 0.
        batch_size: The expected size of a sample.

    Raises:
        ValueError: as `clipped_sum`; a number is not positive.
    """

    clip_norm: Annotated[float, require_positive] = dataclasses.field(kw_only=True)
    noise_multiplier: Annotated[float, require_positive] = dataclasses.field(kw_only=True)
    batch_size: Annotated[int, require_positive_integer] = dataclasses.field(kw_only=True)

    def split(self, key: Array | None):
        network_key, noise_key = jax.random.split(require_key(self.name, key))
        return network_key, noise_key

    def finish(self, params, values, weights, sums, key):
        leaves, treedef = jax.tree.flatten(sums)
        keys = jax.random.split(require_key(self.name, key), len(leaves))
        deviation = self.noise_multiplier * self.clip_norm
        noisy = treedef.unflatten(
            total + deviation * normal(own, total.shape, total.dtype)
            for own, total in zip(keys, leaves, strict=True)
        )
        own = values if weights is None else values * weights
        gradients = jax.tree.map(lambda p, g: (g / self.batch_size).astype(p.dtype), params, noisy)
        total = jnp.sum(own, dtype=sum_dtype(own.dtype))
        return (total / self.batch_size).astype(own.dtype), gradients


def _rounding(params: Any, dtype: Any) -> float:
    """By what share of itself a norm, or a contracted gradient, may be wrong: the errors of sums of
    as many squares as there are parameters, which have independent signs, and of a few products."""
    size = sum(p.size for p in jax.tree.leaves(params))
    return float(jnp.finfo(dtype).eps) * (8 + size**0.5)


def _towards_zero(total: Array, dtype: Any) -> Array:
    """The nearest number of a dtype that is not further from zero."""
    nearest = total.astype(dtype)
    too_far = jnp.abs(nearest.astype(total.dtype)) > jnp.abs(total)
    return jnp.where(too_far, jnp.nextafter(nearest, jnp.zeros_like(nearest)), nearest)
