"""The private gradient: norms of the examples' gradients first, then one weighted contraction.

The captures of one backward pass give each example's gradient norm without its gradient (see
`jaxnn.statistics`), and contracted once more, with each example's deltas times its own factor, the
sum of the clipped gradients. No example's gradient is ever held (ghost clipping; Li et al., 2022),
and the second backward pass that PyTorch libraries need for it falls away.
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.captures import contract
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backward_pass
from jaxnn.core.mixing import require_apart, require_loss_apart
from jaxnn.core.validation import (
    brief,
    known_values,
    require_boolean,
    require_key,
    require_non_negative,
    require_number,
    require_positive,
    require_positive_integer,
    unknown_name,
)
from jaxnn.core.value import Value
from jaxnn.kernels.noise import normal
from jaxnn.kernels.products import sum_dtype
from jaxnn.learning.accumulation import SummedGradient
from jaxnn.learning.privacy.changing import (
    Changing,
    ChangingState,
    adaptive,
    scheduled,
    split_noise,
)
from jaxnn.learning.privacy.clipping import clip
from jaxnn.rewrites.precision import ScaledState


class Privacy(NamedTuple):
    """What makes training private; see `private` and `epsilon_spent`."""

    clip_norm: float
    """The largest norm of one example's gradient, all parameters together."""
    noise_multiplier: float
    """The deviation of the noise, in units of ``clip_norm``."""
    delta: float
    """The probability δ with which the promise may fail: well below 1 / examples."""

    allow_no_noise: bool = False
    """Whether the noise may be 0: then nothing is promised, ε is infinite."""

    def require_valid(self) -> "Privacy":
        """The same; raises ValueError or TypeError unless each number is what it should be."""
        require_positive("privacy", "clip_norm", self.clip_norm)
        require_boolean("privacy", "allow_no_noise", self.allow_no_noise)
        require_noise("privacy", self.noise_multiplier, self.allow_no_noise)
        require_probability("privacy", "delta", self.delta)
        return self


def require_noise(where: str, value: Any, allow_no_noise: bool) -> float:
    """The noise multiplier; raises unless it is a number above 0, or 0 with permission."""
    require_non_negative(where, "noise_multiplier", value)
    if value == 0 and not allow_no_noise:
        raise ValueError(
            f"{where}: expected noise_multiplier to lie in (0, inf), got {value}: without noise "
            "nothing is private; say allow_no_noise=True where that is meant, as to see what "
            "clipping alone does (on the command line --privacy.allow-no-noise)"
        )
    return value


def require_probability(where: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is a number in (0, 1)."""
    require_number(where, name, value, minimum=0, maximum=1, open_minimum=True, open_maximum=True)


class Sums(NamedTuple):
    """What is summed over the examples, in at least float32."""

    gradient: Any
    """Σ_b of what each example's gradient is clipped to."""
    within: Array | None
    """Σ_b (share of its layers within the bound − ½), where the bound follows it."""


class clipped_sum(Value, SummedGradient):
    """(params, state, x, target, key=None, weights=None, *, clip_norm=None) -> ((values, state),
    gradients).

    Σ_b g_b min(1, C / ‖g_b‖) with C = ``clip_norm`` and g_b the gradient of weights[b] times the
    example's own loss: no example, whatever its weight, moves the sum by more than C. One whose
    ‖g_b‖² is infinite or NaN adds nothing. ``values`` [batch] are the examples' own losses. Other
    ways of clipping stand in `jaxnn.learning.privacy.clipping`.

    Norms and the sum are in at least float32, and C is lowered by what rounding may add there. A
    sum that parameters of half precision ask for is rounded towards zero, so that it is not longer.
    The scale of deltas in float16 stays what it is.

    When called, ``clip_norm`` may be given anew, as a traced number too: mapped by `jax.vmap`, or
    computed. It must be above 0, which of a traced one nothing looks at.

    Args:
        network: The network, or `adaptive` or `scheduled` around it, which say what C is.
        loss: The loss.
        clip_norm: C, more than 0; None where the network or the call says it.
        per_layer: Whether each of L layers is clipped by itself, to C / √L.
        automatic: γ above 0, with which the factor is C / (‖g_b‖ + γ): C is no threshold then, but
            part of the learning rate.

    Raises:
        ValueError: ``clip_norm`` is not positive, or not said, or said twice; a layer mixes the
            examples of a batch, as batch norm does in training; `adaptive` or `scheduled` stands
            inside the network.
        TypeError: what the call or a schedule says is no number.
    """

    numbers: ClassVar[tuple[str, ...]] = ("clip_norm",)
    """What may be given anew when it is called."""

    network: Layer
    loss: Loss
    clip_norm: Annotated[float, require_positive] | None = None
    per_layer: bool = dataclasses.field(default=False, kw_only=True)
    automatic: Annotated[float, require_positive] | None = dataclasses.field(
        default=None, kw_only=True
    )

    def validate(self):
        require_loss_apart(self.name, self.loss)
        for inner in _changing_inside(self.network):
            raise ValueError(
                f"{self.name}: expected {inner.name} to stand around the whole network, where its "
                f"numbers are found, got it inside of {self.network.name}"
            )
        if isinstance(self.network, Changing):
            self._require_unsaid("clip_norm")
        if isinstance(self.network, adaptive) and self.automatic is not None:
            raise ValueError(
                f"{self.name}: expected automatic=None with {self.network.name}: automatic "
                "clipping has no threshold that could follow a quantile"
            )

    def _require_unsaid(self, name: str) -> None:
        if getattr(self, name) is not None:
            raise ValueError(
                f"{self.name}: expected {name} to be said by {self.network.name} alone, "
                f"got {getattr(self, name)}"
            )

    def __call__(self, params, state, x, target, key=None, weights=None, **numbers: Any):
        network_key, key = self.split(key)
        arguments = (params, state, x, target, network_key, weights)
        (values, state), sums = self.sums(*arguments, **numbers)
        return self.finish(params, state, values, weights, sums, key, **numbers)

    # A batch may be taken in parts: their sums add up, and are finished once.

    def split(self, key: Array | None) -> tuple[Array | None, Array | None]:
        """The keys of the network and of `finish`."""
        return key, None

    def sums(self, params, state, x, target, key=None, weights=None, **numbers: Any):
        """((values, state), `Sums`)."""
        for name in numbers:
            if name not in self.numbers:
                raise TypeError(f"{self.name}: {unknown_name('argument', name, self.numbers)}")
        clip_norm = self._clip_norm(state, numbers)
        require_apart(self.name, self.network, params, state, x, key)
        require_loss_apart(self.name, self.loss, self.network, params, state, x, target, key)
        run = backward_pass(self.network, self.loss)
        values, _, state, captures, _ = run(params, state, x, target, key, weights)
        options = {"per_layer": self.per_layer, "automatic": self.automatic}
        if isinstance(state, ScaledState):
            # An example that overflows adds nothing, so that no gradient would ask for a smaller
            # scale again: it may not be doubled, either.
            state = state._replace(finite_steps=jnp.zeros_like(state.finite_steps))
        captures, within, finite = clip(self.name, captures, clip_norm, params, **options)
        count = None
        if isinstance(self.network, adaptive):
            counted = finite if weights is None else finite & (weights != 0)
            count = jnp.sum(jnp.where(counted, within - 0.5, 0))
        return (values, state), Sums(contract(captures), count)

    def finish(self, params, state, values, weights, sums, key, **numbers: Any):
        """((value, state), gradients) of what `sums` gave."""
        gradients = jax.tree.map(
            lambda p, total: _towards_zero(total, p.dtype), params, sums.gradient
        )
        return (values, state), gradients

    def _clip_norm(self, state: Any, given: dict[str, Any]) -> Any:
        """C of this step."""
        said = None
        if isinstance(self.network, Changing):
            said = self.network.clip_norm_at(self._memory(state))
        return self._number("clip_norm", said, given, zero=False)

    def _memory(self, state: Any) -> Array:
        if not isinstance(state, ChangingState):
            raise ValueError(
                f"{self.name}: expected the state of {self.network.name}, which its init returns, "
                f"got {brief(state)}"
            )
        return state.memory

    def _number(self, name: str, said: Any, given: dict[str, Any], *, zero: bool) -> Any:
        """The one of the numbers that the network, the call and the field say."""
        every = [n for n in (said, given.get(name)) if n is not None]
        if said is None and not every:
            every = [getattr(self, name)]
        if len(every) > 1 or every[0] is None:
            there = "alone" if len(every) > 1 else "or given"
            raise ValueError(
                f"{self.name}: expected {name} to be said by {self.network.name} {there}, "
                f"got {brief(every)}"
            )
        return require_one(self.name, name, every[0], zero=zero)


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

    When called, ``clip_norm`` and ``noise_multiplier`` may be given anew, as traced numbers too. Of
    those nothing looks at whether they are above 0.

    Args:
        network: As of `clipped_sum`.
        loss: The loss.
        clip_norm: C, more than 0, as of `clipped_sum`.
        noise_multiplier: σ, more than 0; None where the network or the call says it.
        batch_size: The expected size of a sample.
        per_layer, automatic: As of `clipped_sum`.
        allow_no_noise: Whether σ may be 0, which promises nothing.

    Raises:
        ValueError: as `clipped_sum`; a number is not positive; σ is 0 without permission, not said
            or said twice.
    """

    numbers: ClassVar[tuple[str, ...]] = ("clip_norm", "noise_multiplier")

    clip_norm: Annotated[float, require_positive] | None = dataclasses.field(
        default=None, kw_only=True
    )
    noise_multiplier: Annotated[float, require_non_negative] | None = dataclasses.field(
        default=None, kw_only=True
    )
    batch_size: Annotated[int, require_positive_integer] = dataclasses.field(kw_only=True)
    allow_no_noise: bool = dataclasses.field(default=False, kw_only=True)

    def validate(self):
        super().validate()
        if isinstance(self.network, scheduled) and self.network.noise_multiplier is not None:
            self._require_unsaid("noise_multiplier")
        if self.noise_multiplier is not None:
            require_noise(self.name, self.noise_multiplier, self.allow_no_noise)
            if isinstance(self.network, adaptive):
                split_noise(self.name, self.noise_multiplier, self.network.count_noise)

    def split(self, key: Array | None):
        network_key, noise_key = jax.random.split(require_key(self.name, key))
        return network_key, noise_key

    def finish(self, params, state, values, weights, sums, key, **numbers: Any):
        clip_norm, multiplier = self._clip_norm(state, numbers), self._noise(state, numbers)
        leaves, treedef = jax.tree.flatten(sums.gradient)
        network, share = self.network, None
        counts = isinstance(network, adaptive)
        keys = jax.random.split(require_key(self.name, key), len(leaves) + counts)
        if isinstance(network, adaptive):
            multiplier = split_noise(self.name, multiplier, network.count_noise)
            noise = network.count_noise * normal(keys[-1], (), sums.within.dtype)
            share = (sums.within + noise) / self.batch_size + 0.5
        if isinstance(network, Changing):
            state = state._replace(memory=network.renewed(state.memory, share))
        deviation = multiplier * clip_norm

        def noisy_mean(p: Array, total: Array, own: Array):
            noise = jnp.asarray(deviation, total.dtype) * normal(own, total.shape, total.dtype)
            return ((total + noise) / self.batch_size).astype(p.dtype)

        own_keys = treedef.unflatten(keys[i] for i in range(len(leaves)))
        gradients = jax.tree.map(noisy_mean, params, sums.gradient, own_keys)
        own = values if weights is None else values * weights
        total = jnp.sum(own, dtype=sum_dtype(own.dtype))
        return ((total / self.batch_size).astype(own.dtype), state), gradients

    def _noise(self, state: Any, given: dict[str, Any]) -> Any:
        """σ of this step."""
        said = None
        if isinstance(self.network, Changing):
            said = self.network.noise_multiplier_at(self._memory(state))
        return self._number("noise_multiplier", said, given, zero=self.allow_no_noise)


def require_one(where: str, name: str, value: Any, *, zero: bool) -> Any:
    """The value; raises unless it is one number above 0 (or 0), as far as that is known."""
    is_array = isinstance(value, np.ndarray | np.generic | Array)
    dtype = value.dtype if is_array else type(value)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{where}: expected {name} to be a number, got {brief(value)}")
    if jnp.shape(value):
        raise ValueError(
            f"{where}: expected {name} to be one number, got shape {jnp.shape(value)}; map it by "
            "jax.vmap"
        )
    known = known_values(value)
    if known is not None and name == "noise_multiplier":
        require_noise(where, float(known), zero)
    elif known is not None:
        require_positive(where, name, float(known))
    return value


def _changing_inside(network: Layer) -> Iterator[Layer]:
    for part in network.parts:
        if isinstance(part, Changing):
            yield part
        yield from _changing_inside(part)


def _towards_zero(total: Array, dtype: Any) -> Array:
    """The nearest number of a dtype that is not further from zero."""
    nearest = total.astype(dtype)
    too_far = jnp.abs(nearest.astype(total.dtype)) > jnp.abs(total)
    return jnp.where(too_far, jnp.nextafter(nearest, jnp.zeros_like(nearest)), nearest)
