"""Lower bounds on ε: known values, mechanisms whose ε is known, and a training with canaries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxnn as nn
from jaxnn.learning.privacy import Privacy, audit, audit_p_value, epsilon_spent, private


def by_its_sums(epsilon, delta, canaries, guesses, correct):
    """Their Theorem 5.2, term by term."""
    accuracy = math.exp(epsilon) / (1 + math.exp(epsilon))
    chances = stats.binom.pmf(np.arange(guesses + 1), guesses, accuracy)
    shares = [chances[correct - i : correct].sum() / i for i in range(1, correct + 1)]
    return min(1, chances[correct:].sum() + 2 * canaries * delta * max(shares, default=0))


@pytest.mark.parametrize(
    "numbers", [(0.5, 1e-5, 100, 40, 35), (2.0, 1e-3, 50, 50, 44), (0.0, 0.01, 10, 4, 0)]
)
def test_the_p_value_is_the_sum_of_the_theorem(numbers):
    assert audit_p_value(*numbers) == pytest.approx(by_its_sums(*numbers), rel=1e-9)


def test_the_bound_is_the_epsilon_with_the_p_value_of_what_is_left_to_chance():
    included = np.arange(200) % 2 == 0
    scores = np.where(included, 1.0, 0.0)
    scores[:10] = 1 - scores[:10]
    found = audit(scores, included, delta=1e-6, confidence=0.9)
    assert (found.correct, found.guesses) == (190, 200)
    p_value = audit_p_value(found.epsilon, 1e-6, 200, 200, 190)
    assert p_value == pytest.approx(0.1, rel=1e-3)


def test_randomised_response_is_bounded_below_its_own_epsilon_and_not_far():
    epsilon, rng = 1.5, np.random.default_rng(0)
    included = rng.random(5000) < 0.5
    told = rng.random(5000) < math.exp(epsilon) / (1 + math.exp(epsilon))
    scores = np.where(told, included, ~included) + 1e-9 * rng.random(5000)
    found = audit(scores, included, delta=1e-9)
    assert 0.85 * epsilon < found.epsilon <= epsilon


@pytest.mark.parametrize("seed", range(3))
def test_scores_that_say_nothing_refute_nothing(seed):
    rng = np.random.default_rng(seed)
    assert audit(rng.random(500), rng.random(500) < 0.5, delta=1e-5).epsilon < 0.1


def test_few_guesses_take_the_extremes_alone():
    included = np.array([True, False, True, False, False])
    scores = np.array([5.0, 1.0, 2.0, 3.0, 4.0])
    found = audit(scores, included, delta=1e-5, guesses=3)  # two included, 5 and 4; one not, 1
    assert (found.correct, found.guesses) == (2, 3)


CANARIES, DELTA = 300, 1e-5


def trained_with_canaries(noise_multiplier):
    """How far one private step moved along each canary's own direction, and which were there."""
    included = jax.random.bernoulli(jax.random.key(5), 0.5, (CANARIES,))
    network = nn.dense(1, use_bias=False)
    gradient = private(
        network,
        nn.half_squared_error(),
        clip_norm=1.0,
        noise_multiplier=noise_multiplier,
        batch_size=CANARIES,
        allow_no_noise=True,
    )
    params, x, target = {"weight": jnp.zeros((CANARIES, 1))}, jnp.eye(CANARIES), jnp.ones(CANARIES)
    weights = included.astype(x.dtype)  # one of weight 0 is not there
    _, found = jax.jit(gradient)(params, (), x, target[:, None], jax.random.key(6), weights)
    return -np.asarray(found["weight"])[:, 0], np.asarray(included)


@pytest.mark.parametrize("noise_multiplier", [0.5, 2.0])
def test_a_private_step_is_not_refuted(noise_multiplier):
    pytest.importorskip("dp_accounting")
    privacy = Privacy(1.0, noise_multiplier, DELTA)
    spent = epsilon_spent(privacy, examples=CANARIES, batch_size=CANARIES, steps=1)
    found = audit(*trained_with_canaries(noise_multiplier), delta=DELTA, guesses=100)
    assert 0.1 * (noise_multiplier == 0.5) < found.epsilon < spent


def test_a_step_whose_noise_was_forgotten_is_refuted():
    """Claimed with σ = 2, made without noise."""
    pytest.importorskip("dp_accounting")
    privacy = Privacy(1.0, 2.0, DELTA)
    claimed = epsilon_spent(privacy, examples=CANARIES, batch_size=CANARIES, steps=1)
    found = audit(*trained_with_canaries(0.0), delta=DELTA, guesses=200)
    assert found.correct == 200
    assert found.epsilon > claimed


SCORES, THERE = np.arange(4.0), np.array([True, False, True, True])


@pytest.mark.parametrize(
    ("scores", "included", "options", "error", "message"),
    [
        (SCORES, THERE.astype(int), {}, TypeError, "included to be booleans"),
        (list("abcd"), THERE, {}, TypeError, "scores to be numbers"),
        (SCORES[:3], THERE, {}, ValueError, "one number for each canary"),
        (SCORES * np.nan, THERE, {}, ValueError, "finite scores"),
        (SCORES, THERE, {"guesses": 5}, ValueError, "guesses to be at most 4"),
        (SCORES, THERE, {"delta": 0.0}, ValueError, "delta to lie in"),
        (SCORES, THERE, {"confidence": 1.0}, ValueError, "confidence to lie in"),
    ],
)
def test_what_cannot_be_audited_is_refused(scores, included, options, error, message):
    with pytest.raises(error, match=message):
        audit(scores, included, **{"delta": 1e-5} | options)
