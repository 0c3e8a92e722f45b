import json

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.data import preparation as preparation_module
from jaxnn.data.dataset import make_dataset
from jaxnn.data.npz import read_npz
from jaxnn.data.preparation import ARRAYS, IDENTITY, fit, from_facts
from jaxnn.data.splitting import split_off, take

few = settings(max_examples=20, deadline=None, derandomize=True)


def numbered(labels, classes=0):
    """Examples whose x is their own number."""
    x = np.arange(len(labels), dtype=np.float32)[:, np.newaxis]
    return make_dataset("test", x, np.asarray(labels), (), tuple(map(str, range(classes))))


def split(examples, count, seed=0):
    chosen = np.arange(len(examples.x))
    parts = split_off("test", examples, chosen, count, seed, "test_fraction")
    return [take(examples, part) for part in parts]


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
    np.testing.assert_allclose(part.target, part.x / 99, rtol=1e-6)
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
    with pytest.raises(ValueError, match=r"at least 2 examples of each class .*: '2' \(--data"):
        split(numbered([0, 1, 0, 1, 0, 1, 2], 3), 3)


@pytest.mark.parametrize("count", [2, 7])
def test_a_part_too_small_for_every_class_is_refused(count):
    with pytest.raises(ValueError, match="every split at least 3 examples, one for each class"):
        split(numbered([0, 1, 2] * 3, 3), count)


def three_parts(x, target):
    return [make_dataset("test", x[i::3], target[i::3]) for i in range(3)]


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    x = rng.normal([5, -300, 2], [1, 50, 0], (90, 3))
    return three_parts(x, rng.normal(150, 77, 90))


def prepared(parts, features, target):
    preparation = fit(parts[0], features, target, False)
    return preparation, [preparation.apply("test", part) for part in parts]


def test_features_have_mean_0_and_deviation_1_in_the_training_split_alone(parts):
    _, result = prepared(parts, "features", False)
    x = parts[0].x
    np.testing.assert_allclose(result[0].x[:, :2].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(result[0].x[:, :2].std(0), 1, rtol=1e-5)
    for before, after in zip(parts, result, strict=True):
        expected = (before.x[:, :2] - x[:, :2].mean(0)) / x[:, :2].std(0)
        np.testing.assert_allclose(after.x[:, :2], expected, atol=1e-5)
        assert after.x.dtype == after.target.dtype == np.float32
        np.testing.assert_array_equal(after.target, before.target.astype(np.float32))


def test_a_constant_feature_has_deviation_1(parts):
    preparation, result = prepared(parts, "features", False)
    assert preparation.standardization.deviation[2] == 1
    np.testing.assert_array_equal(result[0].x[:, 2], 0)


def test_a_constant_that_rounds_still_has_deviation_1():
    x = np.full((7, 1), 0.1)
    assert fit(three_parts(x, x[:, 0])[0], "features", True, False).standardization.deviation == [1]


def test_all_has_one_mean_and_deviation(parts):
    preparation, result = prepared(parts, "all", False)
    assert preparation.standardization.mean.shape == ()
    assert preparation.standardization.deviation.shape == ()
    np.testing.assert_allclose(result[0].x.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(result[0].x.std(), 1, rtol=1e-6)


def test_none_leaves_float32_as_it_is_without_a_copy(parts):
    parts = [part._replace(x=part.x.astype(np.float32)) for part in parts]
    preparation, result = prepared(parts, "none", False)
    for before, after in zip(parts, result, strict=True):
        assert after.x is before.x
    assert preparation.standardization == preparation.target_standardization == IDENTITY


def test_targets_return_to_their_units(parts):
    preparation, result = prepared(parts, "none", True)
    np.testing.assert_allclose(result[0].target.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(result[0].target.std(), 1, rtol=1e-6)
    back = preparation.target_standardization.invert(result[2].target)
    np.testing.assert_allclose(back, parts[2].target, rtol=1e-5)
    assert back.dtype == np.float64


def test_examples_of_another_shape_are_not_standardised(parts):
    standardization = fit(parts[0], "features", False, False).standardization
    for use in (standardization.apply, standardization.invert):
        with pytest.raises(ValueError, match=r"examples of shape \(3,\), .* got \(1,\)"):
            use(parts[2].x[:, :1])


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e18])
def test_extreme_scales_stay_finite(scale):
    x = np.array([[0.0], [1], [2], [3], [5], [7], [8], [9], [9]]) * scale
    _, result = prepared(three_parts(x, x[:, 0]), "features", True)
    assert all(np.isfinite(part.x).all() for part in result)


def test_seconds_since_1970_keep_their_digits_when_they_are_standardised(monkeypatch):
    x = np.column_stack([1.7e9 + np.arange(90.0), np.arange(90)])
    for chunk in (1 << 22, 7):  # in one piece, and in several
        monkeypatch.setattr(preparation_module, "_CHUNK", chunk)
        _, result = prepared(three_parts(x, 1.7e9 + np.arange(90.0)), "features", True)
        for part in result:
            np.testing.assert_allclose(part.x[:, 0], part.x[:, 1], rtol=1e-6)
            np.testing.assert_allclose(part.target[:, 0], part.x[:, 1], rtol=1e-6)


@pytest.mark.parametrize("features", ["none", "features", "all"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_preparation_is_read_back_as_it_was(features, flatten, tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 2, 3))
    examples = make_dataset("test", x, np.linspace(0, 1, 12))
    preparation = fit(examples, features, True, flatten)
    facts, arrays = preparation.facts()
    np.savez(tmp_path / "a.npz", **arrays)
    again = from_facts("test", json.loads(json.dumps(facts)), read_npz(tmp_path / "a.npz", ARRAYS))
    chex.assert_trees_all_equal(again.apply("test", examples), preparation.apply("test", examples))
    assert again.facts()[0] == facts


@pytest.mark.parametrize(
    "change",
    [
        lambda facts, arrays: facts.update(version=2),
        lambda facts, arrays: facts.pop("shape"),
        lambda facts, arrays: facts.update(class_names=3),
        lambda facts, arrays: arrays.update(mean=np.zeros(3, np.float32)),
    ],
)
def test_a_preparation_that_is_not_as_it_was_written_is_refused(change):
    facts, arrays = fit(
        make_dataset("test", np.ones((4, 3)), np.ones(4)), "all", True, True
    ).facts()
    change(facts, arrays)
    with pytest.raises(ValueError, match="test: expected a preparation of version 1"):
        from_facts("test", facts, arrays)
