"""Poisson samples: each example by itself with one probability."""

import jax
import numpy as np
import pytest
from scipy import stats

from jaxnn.learning.privacy import capacity_of, poisson_batches


@pytest.fixture(scope="module")
def samples():
    """Which of 40 examples is in which of 20,000 batches of 6 expected ones."""
    indices, weights = jax.jit(lambda key: poisson_batches(key, 20_000, 40, 6))(jax.random.key(0))
    inside = np.zeros((20_000, 41))
    np.put_along_axis(inside, np.where(weights > 0, indices, 40), 1, axis=1)
    return np.asarray(indices), np.asarray(weights), inside[:, :40]


def test_every_example_is_sampled_with_the_same_probability(samples):
    shares, probability = samples[2].mean(0), 6 / 40
    assert np.abs(shares - probability).max() < 5 * np.sqrt(probability * (1 - probability) / 2e4)


def test_examples_are_sampled_independently_of_each_other(samples):
    correlations = np.corrcoef(samples[2].T) - np.eye(40)
    assert np.abs(correlations).max() < 5 / np.sqrt(2e4)


def test_the_size_of_a_sample_has_a_binomial_distribution(samples):
    sizes = samples[1].sum(1)
    counts = np.bincount(sizes.astype(int), minlength=41)[:41]
    expected = stats.binom.pmf(np.arange(41), 40, 6 / 40) * len(sizes)
    likely = expected > 20
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert stats.chi2.sf(chi_square, likely.sum()) > 1e-4


def test_no_example_is_twice_in_a_sample(samples):
    indices, weights, inside = samples
    assert (inside.sum(1) == weights.sum(1)).all()
    assert (indices[weights == 0] == 0).all()


@pytest.mark.parametrize(
    ("examples", "batch_size"), [(60_000, 1024), (1000, 1), (40, 39), (7, 7), (1, 1), (10**9, 256)]
)
def test_places_suffice_but_for_a_vanishing_probability(examples, batch_size):
    places = capacity_of(examples, batch_size)
    sample = stats.binom(examples, batch_size / examples)
    assert sample.sf(places) <= 1e-15
    assert places == batch_size or sample.sf(places - 1) > 1e-15


def test_positions_beyond_many_examples_do_not_overflow():
    indices, weights = jax.jit(lambda key: poisson_batches(key, 2, 10**9, 50))(jax.random.key(0))
    assert (np.diff(np.asarray(indices)[np.asarray(weights) > 0][:20]) != 0).all()
    assert (indices >= 0).all()
    assert 10 < float(weights.sum(1).mean()) < 90


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 11), (10, 0), (0, 1)])
def test_sizes_that_cannot_be_are_refused(examples, batch_size):
    with pytest.raises(ValueError, match="poisson sampling: expected"):
        capacity_of(examples, batch_size)
