"""Connectionist temporal classification: a loss for labels whose places in time are not known.

At each of T times the network gives a distribution over the classes, one of which is the blank. A
path, one class for each time, reads as the labels that are left when repeats are merged and then
blanks removed; the probability of a label sequence is the sum over all paths that read as it
(Graves et al., 2006). With l' = (blank, l₁, blank, l₂, … blank), of S = 2 L + 1 states, and all in
logarithms, the forward variable is

    α_t(s) = log Σ_{s' → s} exp α_{t−1}(s') + log p_t(l'_s)      log P = log (e^α_T(S) + e^α_T(S−1))

where s comes from s, from s − 1, and from s − 2 where l'_s is a label unlike l'_{s−2}. With the
backward variable β_t(s) = log Σ_{s → s'} exp(β_{t+1}(s') + log p_{t+1}(l'_{s'})), the probability
that the path is in s at t is γ_t(s) = exp(α_t(s) + β_t(s) − log P), and for logits z

    ∂(−log P)/∂z_t(k) = softmax(z_t)_k − Σ_{s: l'_s = k} γ_t(s).
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from jaxnn.core.contract import Loss
from jaxnn.core.validation import (
    check_traced,
    known_values,
    require_array,
    require_count,
    require_floating,
    require_lengths,
    widened,
)
from jaxnn.losses.targets import is_integer, like, over, wide


class ctc(Loss):
    """−log P(labels | logits), summed over all alignments; see the head of this file.

    Prediction: logits [batch, time, classes]. Target: ``labels`` [batch, labels], integers without
    the blank, filled up with −1 at the end; or the tuple (labels, lengths), where only the first
    lengths[b] times of an example's logits are real: the others have no gradient.

    A target that no path of its length can read, one that has more labels (and one blank more for
    every two equal neighbours) than there are times, is refused where its values are known. Inside
    `jax.jit` they are not: there such an example has the loss ∞ and the gradient 0, and so has one
    with a label that is no class, or the blank; functions wrapped in
    `jax.experimental.checkify.checkify` report it.

    Args:
        blank: The class that stands for nothing.

    Raises:
        TypeError: labels or lengths are not integers, or logits not floating-point.
        ValueError: a shape does not fit, a label is no class, or a target is too long.
    """

    mixes = False

    blank: Annotated[int, require_count] = 0

    def value(self, prediction: Any, target: Any):
        trellis = _trellis(prediction, *self._read(prediction, target), self.blank)
        return like(prediction, _loss(_forward(trellis)[1]))

    def gradient(self, prediction: Any, target: Any):
        return self._both(prediction, target)[1]

    def weighted(self, prediction: Any, target: Any, factors: Array):
        values, delta = self._both(prediction, target)
        return values, delta * over(factors, 3).astype(delta.dtype)

    def task(self, classes: int):
        raise ValueError(
            "ctc: expected a loss of one label or number for each example, but this one takes "
            "sequences of labels; train with it from Python, as experiments/tones.py does"
        )

    def _both(self, prediction: Any, target: Any) -> tuple[Array, Array]:
        labels, lengths = self._read(prediction, target)
        trellis = _trellis(prediction, labels, lengths, self.blank)
        alphas, log_p = _forward(trellis)
        occupied = _occupied(trellis, alphas, log_p)
        classes = jax.nn.one_hot(trellis.classes, prediction.shape[-1], dtype=occupied.dtype)
        reached = jnp.einsum("tbs,bsk->btk", occupied, classes)
        real = jnp.swapaxes(trellis.valid, 0, 1) & ~_impossible(log_p)[:, None, None]
        delta = jnp.where(real, jax.nn.softmax(wide(prediction)) - reached, 0)
        return like(prediction, _loss(log_p)), like(prediction, delta)

    def _read(self, prediction: Any, target: Any) -> tuple[Array, Array | None]:
        """Labels and lengths; raises where one is not as described."""
        batch, time, classes = _require_logits("ctc", prediction, self.blank)
        if isinstance(target, tuple) and len(target) != 2:
            raise TypeError(
                f"ctc: expected target to be labels or a tuple (labels, lengths), "
                f"got a tuple of {len(target)}"
            )
        labels, lengths = target if isinstance(target, tuple) else (target, None)
        require_array("ctc", "labels", labels)
        if not is_integer(labels):
            raise TypeError(f"ctc: expected labels to be integers, got {labels.dtype}")
        if len(labels.shape) != 2 or labels.shape[0] != batch:
            raise ValueError(
                f"ctc: expected labels to have shape [{batch}, labels], got {tuple(labels.shape)}"
            )
        if lengths is not None:
            require_lengths("ctc", lengths, batch, time)
        known = known_values(labels)
        if known is not None:
            known = widened(known)
            _require_labels(known, classes, self.blank)
            known_lengths = np.full(batch, time) if lengths is None else known_values(lengths)
            if known_lengths is not None:
                _require_room(known, known_lengths)
        return widened(labels), lengths


def best_path(logits: Array, lengths: Any = None, blank: int = 0) -> Array:
    """[batch, time], the labels that the most probable path reads as, filled up with −1.

    Greedy decoding: the largest class at each of the first lengths[b] times, repeats merged, blanks
    removed. The most probable labels may be others, whose probability is spread over more paths.
    """
    require_count("best_path", "blank", blank)
    batch, time, _ = _require_logits("best_path", logits, blank)
    path = jnp.argmax(logits, -1)
    before = jnp.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    read = (path != before) & (path != blank)
    if lengths is not None:
        require_lengths("best_path", lengths, batch, time)
        read &= jnp.arange(time) < lengths[:, None]
    # Each label goes to the place that the labels before it leave; all others off the end.
    places = jnp.where(read, jnp.cumsum(read, 1) - 1, time)
    rows = jnp.arange(batch)[:, None]
    return jnp.full((batch, time), -1, path.dtype).at[rows, places].set(path, mode="drop")


NEVER = -1e30
"""The logarithm of a probability of 0. Where two −∞ are added up, autodiff finds ∞ − ∞."""


class _Trellis(NamedTuple):
    """The states l' of every example, and what they emit; time-major."""

    emitted: Array
    """[time, batch, states], log p_t(l'_s); NEVER where l'_s is padding or no class."""
    classes: Array
    """[batch, states], l'."""
    from_two_before: Array
    """[batch, states], 0 where s − 2 leads to s, else NEVER."""
    ends: Array
    """[batch, states], 0 where a path may end, else NEVER."""
    valid: Array
    """[time, batch, 1], whether the time is before the example's length."""


def _trellis(
    logits: Float[Array, "batch time classes"],
    labels: Int[Array, "batch labels"],
    lengths: Int[Array, " batch"] | None,
    blank: int,
) -> _Trellis:
    batch, time, count = logits.shape
    places = jnp.arange(1, labels.shape[1] + 1)
    length = jnp.max(jnp.where(labels >= 0, places, 0), axis=1, initial=0)
    known = (labels >= 0) & (labels < count) & (labels != blank)
    states = jnp.arange(2 * labels.shape[1] + 1)

    def among_blanks(of_labels: Array, of_blanks: Any):
        every = jnp.full((batch, len(states)), of_blanks, of_labels.dtype)
        return every.at[:, 1::2].set(of_labels)

    classes = among_blanks(jnp.where(known, labels, blank), blank)
    repeated = jnp.pad(labels[:, 1:] == labels[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    log_p = jax.nn.log_softmax(wide(logits))
    emitted = jnp.take_along_axis(log_p, classes[:, None], -1)
    emitted = jnp.where(among_blanks(known, True)[:, None], emitted, NEVER)
    last = 2 * length[:, None]
    if lengths is None:
        lengths = jnp.full(batch, time)
    return _Trellis(
        jnp.swapaxes(emitted, 0, 1),
        classes,
        jnp.where(among_blanks(~repeated[:, : labels.shape[1]], False), 0, NEVER),
        jnp.where((states == last) | (states == last - 1), 0, NEVER),
        (jnp.arange(time)[:, None] < lengths)[..., None],
    )


def _forward(trellis: _Trellis) -> tuple[Array, Array]:
    """α [time, batch, states] and log P [batch]."""

    def body(alpha: Array, inputs: tuple):
        emitted, valid = inputs
        one, two = _shift(alpha, 1), _shift(alpha, 2) + trellis.from_two_before
        arriving = jnp.logaddexp(jnp.logaddexp(alpha, one), two)
        alpha = jnp.where(valid, arriving + emitted, alpha)
        return alpha, alpha

    # Before the first time the path stands in the first state, from where two can be reached.
    start = jnp.full(trellis.ends.shape, NEVER, trellis.emitted.dtype).at[:, 0].set(0)
    last, alphas = lax.scan(body, start, (trellis.emitted, trellis.valid))
    return alphas, jax.nn.logsumexp(last + trellis.ends, -1)


def _occupied(trellis: _Trellis, alphas: Array, log_p: Array) -> Array:
    """γ [time, batch, states]; without meaning where no path reads as the labels."""

    def body(beta: Array, inputs: tuple):
        alpha, emitted, valid = inputs
        # A probability, which rounding of logarithms far from 0 would make infinite.
        occupied = jnp.exp(jnp.minimum(alpha + beta - log_p[:, None], 0))
        ahead = beta + emitted
        one, two = _shift(ahead, -1), _shift(ahead + trellis.from_two_before, -2)
        before = jnp.logaddexp(jnp.logaddexp(ahead, one), two)
        return jnp.where(valid, before, beta), occupied

    ends = trellis.ends.astype(alphas.dtype)
    inputs = (alphas, trellis.emitted, trellis.valid)
    return lax.scan(body, ends, inputs, reverse=True)[1]


def _impossible(log_p: Array) -> Array:
    return log_p < NEVER / 2  # not so NaN, which must show


def _loss(log_p: Array) -> Array:
    expected = "ctc: expected targets that a path of their length reads, which have log P above −∞"
    check_traced(log_p, lambda log_p: ~_impossible(log_p), expected)
    return jnp.where(_impossible(log_p), jnp.inf, -log_p)


def _shift(a: Array, by: int) -> Array:
    """a_s as a_{s + by}, NEVER where nothing is moved to."""
    size = a.shape[-1]
    padded = jnp.pad(a, ((0, 0), (max(by, 0), max(-by, 0))), constant_values=NEVER)
    return padded[:, :size] if by > 0 else padded[:, -size:]


def _require_logits(name: str, logits: Any, blank: int) -> tuple[int, int, int]:
    """[batch, time, classes]."""
    require_floating(name, "prediction", logits)
    if len(logits.shape) != 3:
        raise ValueError(
            f"{name}: expected prediction to have shape [batch, time, classes], "
            f"got {tuple(logits.shape)}"
        )
    if blank >= logits.shape[-1]:
        raise ValueError(
            f"{name}: expected blank to be below {logits.shape[-1]}, the classes, got {blank}"
        )
    return logits.shape


def _require_labels(labels: np.ndarray, classes: int, blank: int) -> None:
    wrong = (labels >= classes) | (labels == blank)
    # Padding is at the end: after a negative label there is none that is not.
    wrong[:, 1:] |= (labels[:, 1:] >= 0) & (labels[:, :-1] < 0)
    if wrong.any():
        example = int(np.argmax(wrong.any(1)))
        raise ValueError(
            f"ctc: expected labels to lie in 0 … {classes - 1} without the blank, {blank}, and to "
            f"be filled up with −1 at the end, got {labels[example].tolist()} at example {example}"
        )


def _require_room(labels: np.ndarray, lengths: np.ndarray) -> None:
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)).sum(1)
    needed = (labels >= 0).sum(1) + repeats
    if (needed > lengths).any():
        example = int(np.argmax(needed > lengths))
        raise ValueError(
            f"ctc: expected at least as many times as labels, and one more between equal "
            f"neighbours: example {example} needs {needed[example]}, got {lengths[example]}"
        )
