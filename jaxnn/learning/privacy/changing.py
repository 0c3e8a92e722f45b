"""Bounds and noise that change while training: they follow from the state of the network.

A wrapper around the network holds, beside its state, what the next step's numbers follow from, so
that they are in the train state, in checkpoints and in every compiled step.
"""

import abc
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import Wrapper
from jaxnn.core.contract import Layer
from jaxnn.core.validation import known_values, require_number, require_positive
from jaxnn.rewrites.precision import with_precision


class ChangingState(NamedTuple):
    """The state of a network whose privacy changes."""

    inner: Any
    """That of the network itself."""
    memory: Array
    """What the numbers of the next step follow from."""


def _require_open_share(where: str, name: str, value: Any) -> float:
    bounds = {"open_minimum": True, "open_maximum": True}
    return require_number(where, name, value, minimum=0, maximum=1, **bounds)


class Changing(Wrapper):
    """Base of what stands around a network to say how far its examples' gradients may reach.

    Its predictions, params and captures are the network's.
    """

    layer: Layer

    mixes = False

    @property
    @abc.abstractmethod
    def first(self) -> Array:
        """The memory before the first step."""

    @abc.abstractmethod
    def clip_norm_at(self, memory: Array) -> Any:
        """C of the next step."""

    def noise_multiplier_at(self, memory: Array) -> Any:
        """σ of the next step; None where it does not change."""
        return None

    @abc.abstractmethod
    def renewed(self, memory: Array, within: Array | None) -> Array:
        """The memory after a step, with the noisy share of gradients that were within the bound,
        where the bound is `adaptive`."""

    def validate(self) -> None:
        layer = self.layer
        if isinstance(layer, with_precision) and layer.policy.scales:
            raise ValueError(
                f"{self.name}: expected a network without loss scaling, whose state it would hide, "
                "got one under float16; take bfloat16"
            )

    def inner_state(self, tree: Any) -> Any:
        return tree.inner if isinstance(tree, ChangingState) else tree

    def init(self, key: Array | None, x: Any):
        params, state = self.layer.init(key, x)
        return params, ChangingState(state, self.first)

    def predict(self, params: Any, state: Any, x: Any):
        return self.layer.predict(params, self.inner_state(state), x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, inner, residuals = self.layer.forward(params, self.inner_state(state), x, key)
        is_own = isinstance(state, ChangingState)
        return y, state._replace(inner=inner) if is_own else inner, residuals

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self.layer.backward(params, residuals, dy)


class adaptive(Changing):
    """A clip norm C that follows a quantile q of the norms of gradients (Andrew et al., 2021).

        network = adaptive(serial(…), quantile=0.5, count_noise=12.8)
        gradient = private(network, loss, noise_multiplier=1.1, batch_size=256)

    After each step C ← C exp(−η (b̃ − q)) with b̃ the share of examples whose gradient was within C,
    (Σ_b (1[‖g_b‖ ≤ C] − ½) + σ_b N(0, 1)) / batch_size + ½. One example moves that sum by ½, and
    it costs as much as a mechanism of noise multiplier 2 σ_b. `private` adds so much more noise to
    the gradients, (σ⁻² − (2 σ_b)⁻²)^−½ C, that both together cost what its ``noise_multiplier`` σ
    says: the budget is `epsilon_spent` as it is. Per layer, an example counts by the share of its
    layers that were within their bounds C / √L, which all change alike.

    Args:
        layer: The network.
        clip_norm: C of the first step.
        quantile: q.
        rate: η.
        count_noise: σ_b, more than half of σ; a twentieth of the batch is Andrew et al.'s.
    """

    clip_norm: Annotated[float, require_positive] = 0.1
    quantile: Annotated[float, _require_open_share] = 0.5
    rate: Annotated[float, require_positive] = 0.2
    count_noise: Annotated[float, require_positive] = 10.0

    @property
    def first(self) -> Array:
        return jnp.asarray(self.clip_norm, float)

    def clip_norm_at(self, memory: Array) -> Any:
        return memory

    def renewed(self, memory: Array, within: Array | None) -> Array:
        assert within is not None
        step = self.rate * (within - self.quantile)
        return (memory * jnp.exp(-step)).astype(memory.dtype)


class scheduled(Changing):
    """A clip norm, and a noise multiplier too, by the number of the step.

        network = scheduled(serial(…), optax.cosine_decay_schedule(1.0, steps))
        gradient = private(network, loss, noise_multiplier=1.1, batch_size=256)

    The budget of a schedule of noise is `epsilon_spent` with ``noise_schedule``.

    Args:
        layer: The network.
        clip_norm: The number of the step -> C, which has to be above 0.
        noise_multiplier: The number of the step -> σ, which has to be above 0; None where it is
            that of `private`.
    """

    clip_norm: Callable
    noise_multiplier: Callable | None = None

    @property
    def first(self) -> Array:
        return jnp.zeros((), jnp.int32)

    def clip_norm_at(self, memory: Array) -> Any:
        return self.clip_norm(memory)

    def noise_multiplier_at(self, memory: Array) -> Any:
        return None if self.noise_multiplier is None else self.noise_multiplier(memory)

    def renewed(self, memory: Array, within: Array | None) -> Array:
        return memory + 1


def split_noise(where: str, noise_multiplier: Any, count_noise: float) -> Any:
    """(σ⁻² − (2 σ_b)⁻²)^−½: the noise multiplier of gradients beside a count of noise σ_b, with
    which both together cost what σ alone would.

    Raises:
        ValueError: σ is known and not smaller than 2 σ_b.
    """
    known = known_values(noise_multiplier)
    if known is not None and known >= 2 * count_noise:
        raise ValueError(
            f"{where}: expected count_noise above half of the noise multiplier {float(known):g}, "
            f"which the counts would spend alone, got {count_noise:g}"
        )
    if isinstance(noise_multiplier, int | float):
        return noise_multiplier / math.sqrt(1 - (noise_multiplier / (2 * count_noise)) ** 2)
    return noise_multiplier * jax.lax.rsqrt(1 - (noise_multiplier / (2 * count_noise)) ** 2)
