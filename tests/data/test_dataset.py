import numpy as np
import pytest

from jaxnn.data import validate_labels
from jaxnn.data.dataset import make_dataset

x = np.arange(12.0).reshape(4, 3)
labels = np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((dtype, np.float32) for dtype in (bool, np.uint8, np.int16, np.float16, np.float32)),
        *((dtype, np.float64) for dtype in (np.int32, np.int64, np.uint64, np.float64)),
    ],
)
def test_numbers_keep_all_their_digits(given, kept):
    assert make_dataset("test", x.astype(given), x[:, 0].astype(given)).x.dtype == kept
    assert make_dataset("test", x.astype(given), x[:, 0].astype(given)).target.dtype == kept


def test_labels_are_int32():
    dataset = make_dataset("test", x.astype(np.uint8), labels, ("a", "b", "c"), ("no", "yes"))
    assert dataset.target.dtype == np.int32
    np.testing.assert_array_equal(dataset.x, x)
    assert dataset.feature_names == ("a", "b", "c")
    assert dataset.class_names == ("no", "yes")


def test_regression_targets_have_an_axis_of_outputs():
    assert make_dataset("test", x, np.arange(4.0)).target.shape == (4, 1)
    assert make_dataset("test", x, np.ones((4, 2), np.int64)).target.shape == (4, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_the_first_value_that_is_not_finite_is_named_with_their_number(value):
    wrong = x.copy()
    wrong[2, 1] = wrong[3, 0] = value
    message = r"finite in float32, got .* at example 2, feature 'b'; 2 of 12 values are"
    with pytest.raises(ValueError, match=message):
        make_dataset("test", wrong, labels, ("a", "b", "c"), ("no", "yes"))
    images = wrong.reshape(4, 3, 1)
    with pytest.raises(ValueError, match=r"example 2, feature \(1, 0\)"):
        make_dataset("test", images, labels, (), ("no", "yes"))
    with pytest.raises(ValueError, match=r"expected target to be finite .* example 2"):
        make_dataset("test", x, wrong[:, 1])


@pytest.mark.parametrize("wrong", [x.astype(object), x.astype(complex), x.astype(str)])
def test_arrays_that_are_not_real_numbers_are_refused(wrong):
    with pytest.raises(TypeError, match="expected x to hold real numbers, got"):
        make_dataset("test", wrong, labels, (), ("no", "yes"))
    with pytest.raises(TypeError, match="expected target to hold real numbers, got"):
        make_dataset("test", x, wrong[:, 0])


@pytest.mark.parametrize(
    ("wrong_x", "wrong_target", "message"),
    [
        (x, labels[:3], r"one target for each of the 4 examples, got target of shape \(3,\)"),
        (x, np.array(1), "one target for each of the 4 examples"),
        (x[:0], labels[:0], "at least one example and feature"),
        (x[:, :0], labels, "at least one example and feature"),
        (x[:, 0], labels, "expected x to be .*, got "),
        (x, labels + 1, "expected labels 0 to 1 for 2 classes, got 2 at example 1"),
    ],
)
def test_inconsistent_arrays_are_refused(wrong_x, wrong_target, message):
    with pytest.raises(ValueError, match=message):
        make_dataset("test", wrong_x, wrong_target, (), ("no", "yes"))


def test_feature_names_must_be_one_for_each_column():
    with pytest.raises(ValueError, match=r"\[examples, 2\], one column for each feature name"):
        make_dataset("test", x, labels, ("a", "b"), ("no", "yes"))


@pytest.mark.parametrize("shape", [(4, 2, 1), (4, 0)])
def test_regression_targets_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected a regression target of shape"):
        make_dataset("test", x, np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_labels_in_range_pass(dtype):
    validate_labels(np.array([0, 2, 1], dtype), 3)


@pytest.mark.parametrize("bad", [-1, 3, 1000])
def test_a_label_out_of_range_is_named(bad):
    message = rf"expected labels 0 to 2 for 3 classes, got {bad} at example 1 \(and 1 more"
    with pytest.raises(ValueError, match=message):
        validate_labels(np.array([0, bad, 2, bad]), 3)


def test_labels_of_another_rank_or_dtype_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 3\); for one-hot rows take argmax"):
        validate_labels(np.eye(2, 3, dtype=int), 3)
    with pytest.raises(ValueError, match=r"got \(2, 1\); of one column take target\[:, 0\]"):
        validate_labels(np.ones((2, 1), int), 3)
    with pytest.raises(ValueError, match=r"got \(2, 1, 1\)$"):
        validate_labels(np.ones((2, 1, 1), int), 3)
    with pytest.raises(TypeError, match="expected target to hold integer labels, got float64"):
        validate_labels(np.array([0.0, 1.0]), 2)
