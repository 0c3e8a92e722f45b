"""ε for δ, held to what is known without the library."""

import builtins
import math

import pytest
from scipy import optimize, stats

from jaxnn.learning.privacy import Privacy, epsilon_spent, noise_multiplier_for

pytest.importorskip("dp_accounting")


def gaussian_epsilon(noise, delta):
    """ε of one Gaussian mechanism by its exact formula (Balle and Wang, 2018)."""

    def excess(epsilon):
        a, b = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        return stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b) - delta

    return optimize.brentq(excess, 0, 50)


@pytest.mark.parametrize("steps", [1, 16])
def test_without_sampling_it_is_the_gaussian_mechanism_with_less_noise(steps):
    """k steps of noise σ tell as much as one of noise σ / √k."""
    spent = epsilon_spent(Privacy(1.0, 4.0, 1e-5), examples=10, batch_size=10, steps=steps)
    assert spent == pytest.approx(gaussian_epsilon(4.0 / math.sqrt(steps), 1e-5), rel=1e-3)


def test_sampling_and_noise_make_it_cheaper_and_steps_dearer():
    def spent(noise=2.0, batch_size=10, steps=20):
        privacy = Privacy(1.0, noise, 1e-5)
        return epsilon_spent(privacy, examples=1000, batch_size=batch_size, steps=steps)

    assert spent(noise=3.0) < spent() < spent(batch_size=100)
    assert spent() < spent(steps=200)
    assert spent(steps=0) == 0


def test_the_noise_found_for_a_budget_spends_it():
    sizes = {"examples": 100, "batch_size": 10, "steps": 10}
    noise = noise_multiplier_for(1.0, 1e-5, **sizes)
    spent = epsilon_spent(Privacy(1.0, noise, 1e-5), **sizes)
    assert spent == pytest.approx(1.0, rel=5e-3)
    assert spent <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 101}, "expected batch_size to be at most"),
        ({"steps": -1}, "expected steps to be at least 0"),
        ({"delta": 1.0}, "expected delta to lie in"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change, message):
    sizes = {"examples": 100, "batch_size": 50, "steps": 5} | change
    privacy = Privacy(1.0, 1.0, sizes.pop("delta", 1e-5))
    with pytest.raises(ValueError, match=message):
        epsilon_spent(privacy, **sizes)


@pytest.mark.parametrize(
    "schedule", [1.0, lambda step: "1", lambda step: None], ids=["number", "string", "none"]
)
def test_a_schedule_that_says_no_numbers_is_refused(schedule, untyped):
    sizes = {"examples": 100, "batch_size": 50, "steps": 5}
    with pytest.raises(TypeError, match=r"epsilon_spent: expected noise_\w+ to be a"):
        epsilon_spent(Privacy(1.0, 1.0, 1e-5), **sizes, noise_schedule=schedule)


def test_the_library_that_is_missing_is_named(monkeypatch):
    found = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return found(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxnn\[privacy\]'"):
        epsilon_spent(Privacy(1.0, 1.0, 1e-5), examples=10, batch_size=2, steps=1)


def test_a_schedule_of_noise_costs_what_its_steps_do_together():
    sizes = {"examples": 10, "batch_size": 10}
    privacy = Privacy(1.0, 4.0, 1e-5)
    constant = epsilon_spent(privacy, steps=3, noise_schedule=lambda step: 4.0, **sizes)
    assert constant == epsilon_spent(privacy, steps=3, **sizes)
    # Gaussian mechanisms compose: σ⁻² = Σ σᵢ⁻².
    spent = epsilon_spent(
        privacy, steps=3, noise_schedule=lambda step: (3.0, 6.0, 3.0)[step], **sizes
    )
    together = (2 / 3.0**2 + 1 / 6.0**2) ** -0.5
    assert spent == pytest.approx(gaussian_epsilon(together, 1e-5), rel=1e-3)


def test_without_noise_the_budget_is_infinite_where_that_is_allowed():
    sizes = {"examples": 10, "batch_size": 10, "steps": 2}
    assert epsilon_spent(Privacy(1.0, 0.0, 1e-5, allow_no_noise=True), **sizes) == math.inf
    with pytest.raises(ValueError, match="say allow_no_noise=True where that is meant"):
        epsilon_spent(Privacy(1.0, 0.0, 1e-5), **sizes)
    with pytest.raises(ValueError, match="say allow_no_noise=True where that is meant"):
        epsilon_spent(Privacy(1.0, 1.0, 1e-5), noise_schedule=lambda step: 0.0, **sizes)
