import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.data import Splits
from jaxnn.data.dataset import make_dataset
from jaxnn.data.splitting import IDENTITY, split_off, standardize

few = settings(max_examples=20, deadline=None, derandomize=True)


def numbered(labels, classes=0):
    """Examples whose x is their own number."""
    x = np.arange(len(labels), dtype=np.float32)[:, np.newaxis]
    return make_dataset("test", x, np.asarray(labels), (), tuple(map(str, range(classes))))


def split(examples, count, seed=0):
    return split_off("test", examples, count, seed, "test_fraction")


@given(
    counts=st.lists(st.integers(4, 20), min_size=2, max_size=4),
    share=st.floats(0.25, 0.75),
    seed=st.integers(0, 2**32 - 1),
)
@few
def test_every_example_is_in_one_part_and_classes_keep_their_proportions(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    examples = numbered(labels, len(counts))
    count = round(share * len(labels))
    rest, part = split(examples, count, seed)
    assert len(part.x) == count
    members = np.concatenate([rest.x, part.x]).ravel().astype(int)
    assert sorted(members) == list(range(len(labels)))
    np.testing.assert_array_equal(labels[part.x.ravel().astype(int)], part.target)
    expected = np.array(counts) * count / len(labels)
    assert np.all(np.abs(np.bincount(part.target, minlength=len(counts)) - expected) <= 1)


def test_a_regression_is_split_at_random():
    rest, part = split(numbered(np.linspace(0, 1, 100)), 30)
    assert (len(rest.x), len(part.x)) == (70, 30)
    np.testing.assert_array_equal(part.target, part.x / np.float32(99))
    assert np.any(np.diff(part.x.ravel()) < 0)


def test_the_seed_decides_the_split():
    examples = numbered(np.arange(60) % 3, 3)
    first, again, other = (split(examples, 20, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize("count", [0, 6])
def test_an_empty_part_is_refused(count):
    with pytest.raises(ValueError, match="expected test_fraction to leave examples in every split"):
        split(numbered([0, 1, 0, 1, 0, 1], 2), count)


def test_a_class_with_one_example_is_refused_by_name():
    with pytest.raises(ValueError, match=r"at least 2 examples of each class .*: '2' \(for a"):
        split(numbered([0, 1, 0, 1, 0, 1, 2], 3), 3)


@pytest.mark.parametrize("count", [2, 7])
def test_a_part_too_small_for_every_class_is_refused(count):
    with pytest.raises(ValueError, match="every split at least 3 examples, one for each class"):
        split(numbered([0, 1, 2] * 3, 3), count)


def three_splits(x, target):
    parts = (make_dataset("test", x[i::3], target[i::3]) for i in range(3))
    return Splits(*parts, IDENTITY, IDENTITY)


@pytest.fixture
def splits():
    rng = np.random.default_rng(0)
    x = rng.normal([5, -300, 2], [1, 50, 0], (90, 3))
    return three_splits(x, rng.normal(150, 77, 90))


def test_features_have_mean_0_and_deviation_1_in_the_training_split_alone(splits):
    result = standardize(splits, "features", False)
    x = splits.train.x
    np.testing.assert_allclose(result.train.x[:, :2].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(result.train.x[:, :2].std(0), 1, rtol=1e-5)
    for before, after in zip(splits[:3], result[:3], strict=True):
        expected = (before.x[:, :2] - x[:, :2].mean(0)) / x[:, :2].std(0)
        np.testing.assert_allclose(after.x[:, :2], expected, atol=1e-5)
        assert after.x.dtype == np.float32
        np.testing.assert_array_equal(after.target, before.target)


def test_a_constant_feature_has_deviation_1(splits):
    result = standardize(splits, "features", False)
    assert result.standardization.deviation[2] == 1
    np.testing.assert_array_equal(result.train.x[:, 2], 0)


def test_a_constant_that_rounds_still_has_deviation_1():
    x = np.full((7, 1), 0.1)
    assert standardize(three_splits(x, x[:, 0]), "features", True).standardization.deviation == [1]


def test_all_has_one_mean_and_deviation(splits):
    result = standardize(splits, "all", False)
    assert result.standardization.mean.shape == result.standardization.deviation.shape == ()
    np.testing.assert_allclose(result.train.x.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(result.train.x.std(), 1, rtol=1e-6)


def test_none_leaves_everything_as_it_is(splits):
    result = standardize(splits, "none", False)
    for before, after in zip(splits[:3], result[:3], strict=True):
        assert after.x is before.x
    assert result.standardization == result.target_standardization == IDENTITY


def test_targets_return_to_their_units(splits):
    result = standardize(splits, "none", True)
    np.testing.assert_allclose(result.train.target.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(result.train.target.std(), 1, rtol=1e-6)
    back = result.target_standardization.invert(result.test.target)
    np.testing.assert_allclose(back, splits.test.target, rtol=1e-5)
    assert back.dtype == np.float32


def test_examples_of_another_shape_are_not_standardised(splits):
    standardization = standardize(splits, "features", False).standardization
    for use in (standardization.apply, standardization.invert):
        with pytest.raises(ValueError, match=r"examples of shape \(3,\), .* got \(1,\)"):
            use(splits.test.x[:, :1])


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e18])
def test_extreme_scales_stay_finite(scale):
    x = np.array([[0.0], [1], [2], [3], [5], [7], [8], [9], [9]]) * scale
    result = standardize(three_splits(x, x[:, 0]), "features", True)
    assert all(np.isfinite(part.x).all() for part in result[:3])
