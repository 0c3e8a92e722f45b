import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from jaxnn.data import NAMES, load, read_features

BUNDLED = {
    "digits": ((1797, 64), 10),
    "wine": ((178, 13), 3),
    "breast_cancer": ((569, 30), 2),
    "iris": ((150, 4), 3),
}


def joined(splits, field):
    return np.concatenate([getattr(part, field) for part in splits[:3]])


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_classification_is_whole_over_its_splits(name):
    shape, classes = BUNDLED[name]
    splits = load(name, validation_fraction=0.1)
    x, target = joined(splits, "x"), joined(splits, "target")
    assert x.shape == shape
    assert (x.dtype, target.dtype) == (np.float32, np.int32)
    assert len(splits.train.class_names) == classes
    bunch = getattr(datasets, f"load_{name}")()
    scale = 16 if name == "digits" else 1
    expected = np.column_stack([bunch.data / scale, bunch.target]).astype(np.float32)
    both = np.column_stack([x, target]).astype(np.float32)
    order, expected_order = (np.lexsort(a.T) for a in (both, expected))
    np.testing.assert_array_equal(both[order], expected[expected_order])


def test_digits_are_the_default_and_images_in_0_1():
    splits = load(flatten=False)
    assert splits.train.x.shape == (1438, 8, 8, 1)
    assert splits.test.x.shape == (359, 8, 8, 1)
    assert (splits.train.x.min(), splits.train.x.max()) == (0, 1)
    assert splits.train.feature_names == ()
    np.testing.assert_array_equal(splits.train.x.reshape(1438, 64), load().train.x)


def test_diabetes_is_a_regression_in_its_own_units():
    splits = load("diabetes")
    target = joined(splits, "target")
    assert (target.shape, target.dtype) == ((442, 1), np.float32)
    assert (target.min(), target.max()) == (25, 346)
    assert splits.train.class_names == ()
    assert splits.train.feature_names[:3] == ("age", "sex", "bmi")
    assert joined(splits, "x")[:, 0].max() == 79


def test_features_and_target_are_standardised_on_the_training_split():
    plain = load("diabetes", validation_fraction=0.2)
    splits = load(
        "diabetes", validation_fraction=0.2, standardize="features", standardize_target=True
    )
    np.testing.assert_allclose(splits.train.x.mean(0), 0, atol=1e-5)
    assert abs(splits.test.target.mean()) > 1e-3  # not fitted on these
    for part, expected in zip(splits[:3], plain[:3], strict=True):
        np.testing.assert_allclose(splits.standardization.invert(part.x), expected.x, rtol=1e-4)
        target = splits.target_standardization.invert(part.target)
        np.testing.assert_allclose(target, expected.target, rtol=1e-5)


def test_the_test_split_does_not_depend_on_the_validation_split():
    first, second = load("iris"), load("iris", validation_fraction=0.3)
    np.testing.assert_array_equal(first.test.x, second.test.x)
    assert [len(part.x) for part in second[:3]] == [75, 45, 30]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(20, 3, 2)), "target": np.arange(20) % 4}


def save(tmp_path, arrays, **others):
    path = tmp_path / "mine.npz"
    np.savez(path, **(arrays | others))
    return path


def test_an_archive_is_read(tmp_path, arrays):
    path = save(tmp_path, arrays)
    splits = load(path, flatten=False)
    assert splits.train.x.shape == (16, 3, 2)
    assert splits.train.class_names == ("0", "1", "2", "3")
    assert load(str(path)).train.x.shape == (16, 6)
    x = read_features(path, flatten=False)
    np.testing.assert_array_equal(x, arrays["x"])
    assert read_features(path).shape == (20, 6)


def test_an_archive_may_use_other_names_and_name_features_and_classes(tmp_path, arrays):
    path = save(
        tmp_path,
        {"images": arrays["x"][:, :, 0], "labels": arrays["target"]},
        feature_names=np.array(["a", "b", "c"]),
        class_names=np.array(["n", "e", "s", "w", "never seen"]),
    )
    train = load(path, inputs="images", target="labels").train
    assert train.feature_names == ("a", "b", "c")
    assert train.class_names == ("n", "e", "s", "w", "never seen")


def test_targets_of_an_archive_follow_their_dtype_or_the_task(tmp_path, arrays):
    assert load(save(tmp_path, arrays, target=np.ones((20, 2)))).train.target.shape == (16, 2)
    assert load(save(tmp_path, arrays), task="regression").train.target.shape == (16, 1)
    train = load(save(tmp_path, arrays, target=np.arange(20) > 9)).train
    assert (train.target.dtype, train.class_names) == (np.int32, ("False", "True"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"target": np.arange(20) % 4 + 1}, "expected labels 0 to 3 for 4 classes, got 4"),
        ({"target": np.arange(20) % 2 * 2 - 1}, "expected labels 0 to 1 for 2 classes, got -1"),
        ({"target": np.arange(19) % 4}, "one target for each of the 20 examples"),
        ({"target": np.zeros(20, int)}, "at least two classes"),
        ({"target": np.eye(20, 4, dtype=int)}, "for one-hot rows"),
        ({"target": np.array([{}] * 20)}, "objects"),
        ({"x": np.zeros((0, 3)), "target": np.zeros(0, int)}, "at least one example"),
        ({"x": np.full((20, 3), np.nan)}, "60 of 60 values are NaN or infinite"),
        ({"class_names": np.arange(4)}, "expected class_names to be strings"),
        ({"feature_names": np.array(["a"])}, "one column for each feature name"),
    ],
)
def test_an_archive_that_cannot_be_used_is_refused(tmp_path, arrays, others, message):
    with pytest.raises(ValueError, match=r"mine\.npz.*" + message):
        load(save(tmp_path, arrays, **others))


@pytest.mark.parametrize("dtype", [complex, str])
def test_an_archive_without_numbers_is_refused(tmp_path, arrays, dtype):
    with pytest.raises(TypeError, match=r"mine\.npz.*expected x to hold real numbers"):
        load(save(tmp_path, arrays, x=arrays["x"].astype(dtype)))


def test_complex_labels_are_refused_and_texts_of_numbers_are_in_their_order(tmp_path, arrays):
    with pytest.raises(TypeError, match=r"mine\.npz.*expected target to hold integer labels"):
        load(save(tmp_path, arrays, target=arrays["target"].astype(complex)))
    texts = np.where(np.arange(len(arrays["target"])) % 2, "10", "9")
    assert load(save(tmp_path, arrays, target=texts)).train.class_names == ("9", "10")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit': did you mean 'digits'"),
        ("Fashion-MNIST", "did you mean 'fashion_mnist'"),
        ("data.doc", r"valid are .*, or the path of a .csv, .*, .npz file"),
        ("", "unknown data set ''"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: expected a file, got no such file"):
        load(tmp_path / "none.csv", target="y")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.npz: expected a file, got a folder"):
        load(tmp_path / "folder.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_features(tmp_path / "none.npz")
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a \.csv, .* or \.npz file, got '\.pkl'"):
        read_features(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0}, r"expected test_fraction to lie in \(0, 1\), got 0"),
        ({"test_fraction": 1.0}, r"expected test_fraction to lie in \(0, 1\)"),
        ({"test_fraction": 20}, r"expected test_fraction to lie in \(0, 1\)"),
        ({"test_fraction": float("nan")}, "expected test_fraction to lie in"),
        ({"validation_fraction": -0.1}, r"expected validation_fraction to lie in \[0, 1\)"),
        ({"validation_fraction": 0.9}, "expected validation_fraction to leave examples"),
        ({"test_fraction": 0.001}, "expected test_fraction to leave examples in every split"),
        ({"seed": -1}, "expected seed to be at least 0"),
        ({"seed": 2**32}, "expected seed to lie in"),
        ({"standardize": "feature"}, "unknown standardize 'feature': did you mean 'features'"),
        ({"standardize_target": True}, "expected standardize_target only for a regression"),
        ({"folder": "here"}, "folder has no meaning for 'iris'"),
        ({"target": "species"}, "target has no meaning for 'iris'"),
        ({"task": "regression"}, "task has no meaning for 'iris'"),
    ],
)
def test_an_option_that_cannot_be_followed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load("iris", **options)


@pytest.mark.parametrize("inputs", [(), ("x", "target")])
def test_inputs_of_an_archive_are_one_array(tmp_path, arrays, inputs):
    path = save(tmp_path, arrays)
    for read in (load, read_features):
        with pytest.raises(ValueError, match="expected inputs to name one array"):
            read(path, inputs=inputs)


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path, arrays):
    with pytest.raises(ValueError, match="unknown task 'regresion': did you mean 'regression'"):
        load(save(tmp_path, arrays), task="regresion")


def test_names_holds_what_load_accepts():
    assert {*BUNDLED, "diabetes", "waves", "solids", "mnist", "fashion_mnist"} == set(NAMES)


def test_importing_jaxnn_imports_no_data_library():
    code = (
        "import sys, jaxnn; light = not {'jaxnn.data', 'sklearn', 'pooch'} & set(sys.modules);"
        "import jaxnn.data; sys.exit(not (light and not {'sklearn', 'pooch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("module", "library"), [("sklearn.datasets", "scikit-learn"), ("pooch", "pooch")]
)
def test_an_absent_library_is_named_with_its_remedy(tmp_path, monkeypatch, module, library):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delenv("JAXNN_CACHE")
    (tmp_path / "t.csv").write_text("a,y\n1,u\n2,v\n")
    name = "iris" if library == "scikit-learn" else tmp_path / "t.csv"
    with pytest.raises(ImportError, match=rf'needs {library}: pip install "jaxnn\[datasets\]"'):
        load(name, target=None if name == "iris" else "y")
