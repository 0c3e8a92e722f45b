"""Files as strangers have them: used rightly, or refused by what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest

from jaxnn.data import load
from jaxnn.data.files import examples_like

X = np.arange(24.0).reshape(12, 2)


def test_labels_of_an_archive_may_be_words(tmp_path):
    words = np.array(["cat", "dog", "eel"])[np.arange(12) % 3]
    np.savez(tmp_path / "a.npz", x=X, target=words)
    splits = load(tmp_path / "a.npz", test_fraction=0.25)
    assert splits.train.class_names == ("cat", "dog", "eel")
    np.savez(tmp_path / "b.npz", x=X[:2], target=np.array(["eel", "cat"]))
    np.testing.assert_array_equal(
        examples_like(splits.train, tmp_path / "b.npz", None, None).target, [2, 0]
    )
    np.savez(tmp_path / "c.npz", x=X, target=words, class_names=["eel", "dog", "cat"])
    assert load(tmp_path / "c.npz", test_fraction=0.25).train.class_names == ("eel", "dog", "cat")
    np.savez(tmp_path / "d.npz", x=X, target=words, class_names=["eel", "dog"])
    with pytest.raises(ValueError, match="expected labels among eel, dog, got cat"):
        load(tmp_path / "d.npz")


def test_words_of_an_archive_are_no_numbers_of_a_regression(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, target=np.arange(12) / 2)
    np.savez(tmp_path / "b.npz", x=X, target=np.array([str(i / 2) for i in range(12)]))
    with pytest.raises(ValueError, match=r"expected numbers for the task regression, got texts"):
        load(tmp_path / "b.npz", task="regression")
    known = load(tmp_path / "a.npz").train
    with pytest.raises(ValueError, match=r"expected numbers for the task regression, got texts"):
        examples_like(known, tmp_path / "b.npz", None, None)


@pytest.mark.parametrize("of", ["class_names", "feature_names"])
def test_names_of_an_archive_must_differ(of, tmp_path):
    names = {"class_names": ["a", "a", "b"], "feature_names": ["a", "a"]}[of]
    np.savez(tmp_path / "a.npz", x=X, target=np.arange(12) % 3, **{of: names})
    with pytest.raises(ValueError, match=f"distinct {of}, got a more than once"):
        load(tmp_path / "a.npz")


def test_what_is_called_gz_and_is_none_is_refused_by_name(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(b"a,y\n1,2\n")
    with pytest.raises(ValueError, match=r"t.csv.gz: expected a whole table.*[Nn]ot a gzipped"):
        load(path, target="y")


def test_dates_of_any_century_are_dates(tmp_path):
    rows = (f"0001-01-{i % 28 + 1:02d},{i % 2}" for i in range(30))
    (tmp_path / "t.csv").write_text("\n".join(["when,y", *rows]))
    found = load(tmp_path / "t.csv", target="y").train
    assert found.feature_names[0] == "when days"
    assert found.x[:, 0].min() == (np.datetime64("0001-01-01") - np.datetime64(0, "D")).astype(int)


NUMBERS = {
    "whole": ("1 0 2", ("0", "1", "2"), [1, 0, 2]),
    "signs and zeros": ("+1 00 02", ("0", "1", "2"), [1, 0, 2]),
    "whole as fractions": ("1.0 0.0 2.0", (), [1, 0, 2]),
    "fractions": ("1.5 0 2", (), [1.5, 0, 2]),
    "exponents": ("1e0 0 2", (), [1, 0, 2]),
    "grouped": ('"1,001" 0 2.5', (), [1001, 0, 2.5]),
    "words": ("b a c", ("a", "b", "c"), [1, 0, 2]),
    "truth": ("True False True", ("False", "True"), [1, 0, 1]),
    "long": (f"{10**17 + 1} {10**17} {10**17 + 2}", None, [1, 0, 2]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_targets_read_as_numbers_are_those_of_their_texts(kind, tmp_path):
    cells, classes, expected = NUMBERS[kind]
    rows = [f"{i},{cell}" for i, cell in enumerate(cells.split() * 20)]
    path = Path(tmp_path / "t.csv")
    path.write_text("\n".join(["a,y", *rows]) + "\n")
    splits = load(path, target="y", standardize="none")
    if classes is not None:
        assert splits.train.class_names == classes
    place = np.round(splits.train.x[:, 0]).astype(int) % 3
    np.testing.assert_array_equal(splits.train.target.ravel(), np.array(expected)[place])


def test_splits_without_classes_are_those_of_scikit_learn(tmp_path):
    selection = pytest.importorskip("sklearn.model_selection")
    (tmp_path / "t.csv").write_text("a,y\n" + "\n".join(f"{i},{i / 3}" for i in range(50)))
    splits = load(tmp_path / "t.csv", target="y", seed=3, test_fraction=0.3)
    train, test = selection.train_test_split(np.arange(50), test_size=15, random_state=3)
    np.testing.assert_array_equal(splits.train.x[:, 0], train)
    np.testing.assert_array_equal(splits.test.x[:, 0], test)
