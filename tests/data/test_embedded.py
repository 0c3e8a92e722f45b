"""Columns of many categories as codes, of which a network learns an embedding."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from jaxnn.data import load, map_splits, write_mapped
from jaxnn.data.digests import digest
from jaxnn.data.preparation import from_facts


def write(path, cities, *, count=400, gaps=False, numbers=True):
    random = np.random.default_rng(0)
    of = random.permutation(np.arange(count) % cities)
    names = ["" if gaps and row % 50 == 0 else f"c{place:03d}" for row, place in enumerate(of)]
    size = np.arange(1, count + 1) / 2
    rows = [
        f"{size[i]:.1f},{names[i]},{7 * of[i] + 10},{of[i] % 2}"
        if numbers
        else f"{names[i]},{of[i] % 2}"
        for i in range(count)
    ]
    head = "size,city,zip,y" if numbers else "city,y"
    Path(path).write_text("\n".join([head, *rows]) + "\n")
    return np.array(names)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))


def test_above_fifty_categories_a_column_is_embedded_and_otherwise_one_hot():
    write("many.csv", 51)
    write("few.csv", 50)
    many, few = (load(name, target="y", standardize="auto") for name in ("many.csv", "few.csv"))
    numbers, codes = many.train.x
    assert (numbers.dtype, codes.dtype) == (np.float32, np.int32)
    assert many.train.feature_names == ("size", "zip")
    assert [(e.column.name, e.codes, e.width) for e in many.preparation.embedded] == [
        ("city", 53, 26)
    ]
    assert few.train.x.shape[1] == 52


def test_codes_stand_for_their_categories_and_are_never_standardised():
    names = write("t.csv", 60)
    splits = load("t.csv", target="y", standardize="all", stratify=False)
    (encoder,) = splits.preparation.embedded
    column = ["", *encoder.column.values]
    code = splits.train.x[1].tolist()
    found = [column[c] for c in code]
    sizes = [float(line.split(",")[0]) for line in Path("t.csv").read_text().splitlines()[1:]]
    place = {f"{size:.1f}": name for size, name in zip(sizes, names, strict=True)}
    original = splits.standardization.invert(splits.train.x[0])
    original = np.round(2 * original) / 2
    assert found == [place[f"{size:.1f}"] for size, _ in original]
    assert min(code) >= 1
    with pytest.raises(TypeError):
        splits.standardization.apply(splits.train.x)


def test_named_columns_of_numbers_are_embedded_and_the_width_can_be_said():
    write("t.csv", 8)
    splits = load("t.csv", target="y", embed=["zip"], embed_width=3)
    assert [(e.column.name, e.codes, e.width) for e in splits.preparation.embedded] == [
        ("zip", 10, 3)
    ]
    described = splits.preparation.describe()
    assert "zip     category  embedding of 8 and of others (3)" in described
    assert "9 features, not standardised, and 1 embedded" in described


def test_what_training_does_not_have_gets_code_0_and_gaps_have_one_of_their_own():
    write("t.csv", 60, gaps=True)
    splits = load("t.csv", target="y")
    known = splits.preparation
    new = np.array([[1.0, np.inf, 10.0], [1.0, np.nan, 10.0], [1.0, 0.0, 10.0]])
    with pytest.warns(UserWarning, match="1 cells of column 'city'.*the vector of others"):
        _, codes = known.inputs("new", new)
    assert codes.tolist() == [0, 61, 1]


def test_categories_of_the_test_part_alone_get_code_0():
    rows = ["city,y", *(f"c{i % 60},{i % 2}" for i in range(300))]
    Path("t.csv").write_text("\n".join(rows) + "\n")
    Path("test.csv").write_text("city,y\nnew,0\nc7,1\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        splits = load("t.csv", target="y", test="test.csv")
    (codes,) = splits.test.x
    assert codes[0] == 0 < codes[1]
    assert splits.preparation.sample().__class__ is tuple


def test_the_preparation_is_read_as_it_was_written():
    write("t.csv", 60, gaps=True)
    known = load("t.csv", target="y").preparation
    facts, arrays = known.facts()
    read = from_facts("x", facts, arrays)
    assert read.encoders == known.encoders
    x = np.array([[1.0, 3.0, 10.0]])
    for a, b in zip(read.inputs("x", x), known.inputs("x", x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("numbers", [True, False])
def test_a_mapped_folder_has_the_codes_and_refuses_damaged_ones(numbers):
    write("t.csv", 60, numbers=numbers)
    splits = load("t.csv", target="y", validation_fraction=0.2)
    folder = write_mapped(splits, "mapped")
    mapped = map_splits(folder)
    assert load("mapped", flatten=True).preparation.embedded == splits.preparation.embedded
    for part, again in zip(splits[:3], mapped[:3], strict=True):
        assert digest(*part.x) == digest(*map(np.asarray, again.x))
    codes = np.load(folder / "train_x_codes_0.npy")
    codes[3] = 62
    np.save(folder / "train_x_codes_0.npy", codes)
    with pytest.raises(ValueError, match=r"train_x_codes_0.npy.*got 62 at example 3"):
        map_splits(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed": ["nix"]}, "unknown column 'nix'"),
        ({"embed": ["zip"], "inputs": ["size"]}, "unknown feature column 'zip'"),
        ({"embed_above": -1}, "embed_above"),
        ({"embed_width": -1}, "embed_width"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(options, message):
    write("t.csv", 8)
    with pytest.raises(ValueError, match=message):
        load("t.csv", target="y", **options)


@pytest.mark.parametrize("name", ["digits", "a.npz"])
def test_only_columns_of_tables_are_embedded(name):
    np.savez("a.npz", x=np.zeros((4, 2)), target=np.arange(4))
    with pytest.raises(ValueError, match="embed has no meaning"):
        load(name, embed=["a"])


def test_words_with_twenty_rows_each_are_categories_and_others_text():
    write("t.csv", 150, count=3000)
    assert load("t.csv", target="y").preparation.embedded[0].codes == 152
    write("t.csv", 160, count=3000)
    with pytest.raises(ValueError, match="at most 150 different words"):
        load("t.csv", target="y")
