"""A budget held to what one training shows (Steinke, Nasr and Jagielski, 2023).

Of m canaries, examples made for the purpose, each is among the training data or not by a coin of
its own. After the training, scores say which seem to have been there: the larger, the likelier.
Whoever is (ε, δ)-private lets nobody guess many of these coins right, so that many right guesses
refute the ε; few prove nothing.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import brief, require_integer, require_non_negative
from jaxnn.learning.privacy.gradient import require_probability

LARGEST_EPSILON = 100.0
"""No audit tells larger ones apart."""


class Audit(NamedTuple):
    """What the canaries of one training show."""

    epsilon: float
    """With ``confidence``, the training is not (ε', δ)-private for any smaller ε'."""
    correct: int
    """How many guesses were right."""
    guesses: int
    """Of how many."""


def audit(
    scores: Any,
    included: Any,
    *,
    delta: float,
    guesses: int | None = None,
    confidence: float = 0.95,
) -> Audit:
    """A lower bound on the ε of a training, from the scores of m canaries.

        included = jax.random.bernoulli(key, 0.5, (m,))
        …  # train on the data and the canaries that are included
        audit(loss_before - loss_after, included, delta=1e-5, guesses=m // 4)

    Those of the largest scores are guessed to be included, those of the smallest, as many, not to
    be; nothing is said of the others. Neighbouring data sets differ in one example more or less.

    Args:
        scores: [m], such as by how much a canary's loss has fallen.
        included: [m], booleans, drawn by independent fair coins.
        delta: δ of the promise.
        guesses: How many, chosen before the scores are looked at; all m unless given. An odd one
            guesses one more to be included.
        confidence: The probability with which the bound holds.

    Raises:
        ValueError: scores are not finite numbers, one for each canary, or a number is out of range.
        TypeError: ``included`` is not of booleans, or scores are no numbers.
    """
    included = np.asarray(included)
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"audit: expected scores to be numbers, got {brief(scores)}") from error
    if included.dtype != bool:
        raise TypeError(f"audit: expected included to be booleans, got {included.dtype}")
    if scores.ndim != 1 or scores.shape != included.shape or not scores.size:
        raise ValueError(
            "audit: expected scores and included to be one number for each canary, got shapes "
            f"{scores.shape} and {included.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("audit: expected finite scores, got some that are not")
    guesses = len(scores) if guesses is None else guesses
    require_integer("audit", "guesses", guesses, 1, len(scores))
    require_probability("audit", "delta", delta)
    require_probability("audit", "confidence", confidence)
    # Of equal scores the first count as smaller, whatever the coins were.
    order = np.argsort(scores, kind="stable")
    there, absent = order[len(scores) - (guesses + 1) // 2 :], order[: guesses // 2]
    correct = int(included[there].sum() + (~included[absent]).sum())

    def refuted(epsilon: float) -> bool:
        return audit_p_value(epsilon, delta, len(scores), guesses, correct) < 1 - confidence

    low, high = 0.0, LARGEST_EPSILON
    if not refuted(low) or refuted(high):
        return Audit(high if refuted(low) else low, correct, guesses)
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return Audit(low, correct, guesses)


def audit_p_value(epsilon: float, delta: float, canaries: int, guesses: int, correct: int) -> float:
    """The largest probability with which an (ε, δ)-private training lets so many guesses be right.

    With W binomial, of ``guesses`` trials of probability p = e^ε / (1 + e^ε), it is

        P[W ≥ v] + 2 m δ max_{i ≥ 1} P[v > W ≥ v − i] / i

    for v right ones and m canaries (their Theorem 5.2, by its algorithm).

    Raises:
        ValueError: a number is out of its range.
    """
    require_non_negative("audit_p_value", "epsilon", epsilon)
    require_probability("audit_p_value", "delta", delta)
    require_integer("audit_p_value", "canaries", canaries, 1)
    require_integer("audit_p_value", "guesses", guesses, 0, canaries)
    require_integer("audit_p_value", "correct", correct, 0, guesses)
    from scipy.stats import binom  # here: it takes long to import

    probability = 1 / (1 + math.exp(-epsilon))
    exact = binom.sf(correct - 1, guesses, probability)
    below = binom.pmf(np.arange(correct - 1, -1, -1), guesses, probability)  # of v − 1, v − 2, …
    most = np.max(np.cumsum(below) / np.arange(1, correct + 1), initial=0.0)
    return float(min(1.0, exact + 2 * canaries * delta * most))
