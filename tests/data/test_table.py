import gzip
import warnings

import numpy as np
import pandas as pd
import pytest

from jaxnn.data import load, read_features
from jaxnn.data.files import examples_like, inputs_like, read_file
from jaxnn.data.preparation import STANDARDIZATIONS, Blocks
from jaxnn.data.tables import features
from jaxnn.data.tables.columns import Column
from jaxnn.data.tables.reading import Reading


def read_examples(path, target, inputs, task, **options):
    """The raw data set, as a dictionary."""
    return read_file(path, target, inputs, task, **options)._asdict()


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_text_target_is_a_classification(tmp_path):
    path = write(tmp_path, "a,kind,b\n1,red,2\n-3.5,white,4e-1\n.5, red ,+6.\n")
    arrays = read_examples(path, "kind", None, None)
    assert arrays["feature_names"] == ("a", "b")
    assert arrays["class_names"] == ("red", "white")
    np.testing.assert_array_equal(arrays["target"], [0, 1, 0])
    np.testing.assert_array_equal(arrays["x"], [[1, 2], [-3.5, 0.4], [0.5, 6]])


def test_integer_classes_are_numbered_in_the_order_of_the_integers(tmp_path):
    path = write(tmp_path, "a,y\n1,10\n1,9\n1,-1\n1,10\n")
    arrays = read_examples(path, "y", None, None)
    assert arrays["class_names"] == ("-1", "9", "10")
    assert arrays["target"].tolist() == [2, 1, 0, 2]


def test_a_target_with_a_fraction_is_a_regression(tmp_path):
    arrays = read_examples(write(tmp_path, "a,y\n1,10\n1,9.5\n"), "y", None, None)
    assert arrays["target"].tolist() == [[10], [9.5]]
    assert arrays["class_names"] == ()
    assert arrays["target_names"] == ("y",)


def test_the_task_decides_where_the_target_could_be_both(tmp_path):
    path = write(tmp_path, "a,y\n1,10\n1,9\n")
    assert read_examples(path, "y", None, "regression")["target"].tolist() == [[10], [9]]
    path = write(tmp_path, "a,y\n1,1.0\n1,0.0\n")
    assert read_examples(path, "y", None, "classification")["target"].tolist() == [1, 0]


def test_the_named_columns_are_taken_in_their_order(tmp_path):
    path = write(tmp_path, "id,a,b,y\nx7,1,2,u\nx8,3,4,v\n")
    arrays = read_examples(path, "y", ("b", "a"), None)
    np.testing.assert_array_equal(arrays["x"], [[2, 1], [4, 3]])
    np.testing.assert_array_equal(read_features(path, ("a",)), [[1], [3]])


def test_quotes_blank_lines_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = write(tmp_path, '"a, left",y\r\n\r\n"1",u\r\n2,"v"\r\n\r\n', "utf-8-sig")
    arrays = read_examples(path, "y", None, None)
    assert arrays["feature_names"] == ("a, left",)
    np.testing.assert_array_equal(arrays["x"], [[1], [2]])


@pytest.mark.parametrize(
    "cell", ["inf", "1e999", "1_000", "0x10", "one", "1;5", "--1", "1.2.3", "١", "1,5,2"]
)
def test_the_first_bad_cell_is_named_by_column_and_line(tmp_path, cell):
    path = write(tmp_path, f'a,b,y\n1,2,u\n\n3,"{cell}",v\n4,2,v\n5,4,u\n')
    with pytest.raises(ValueError, match=rf"t\.csv, line 4, column 'b': expected .*, got '{cell}'"):
        read_examples(path, "y", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header row, got an empty file"),
        ("a,y\n", "expected rows below the header, got none"),
        ("1,2\n3,4\n", "unknown column 'y': valid are 0, 1"),
        ("a,a,y\n1,2,3\n", "expected distinct column names, got 'a' twice"),
        ("a,y\n1,2\n1,2,3\n", "line 3: expected 2 cells as in the header, got 3"),
        ("a,y\n1,2\n1\n", "line 3: expected 2 cells as in the header, got 1"),
        ("a,y\n1,u\n2,\n", "line 3, column 'y': expected a target, got none"),
        ("a,y\n1,0.5\n2,cheap\n3,0.7", "line 3, column 'y': expected a finite number, got 'cheap'"),
        ("a,y\n1,0.5\n2,1e999\n", "line 3, column 'y': expected a finite number"),
        ("a,Y\n1,2\n", "unknown column 'y': did you mean 'Y'"),
        ("y\n1\n", "expected columns beside y, got none"),
        ("a\0,y\n1,2\n", "expected a table in text, got binary data"),
        ('a,y\n"1,2\n', "unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"t\.csv.*" + message):
        read_examples(write(tmp_path, text), "y", None, None)


def test_the_target_must_be_named_and_is_no_input(tmp_path):
    path = write(tmp_path, "a,y\n1,2\n")
    with pytest.raises(ValueError, match="expected target to name a column, one of a, y"):
        read_examples(path, None, None, None)
    with pytest.raises(ValueError, match="expected inputs without the target column 'y'"):
        read_examples(path, "y", ("a", "y"), None)
    with pytest.raises(ValueError, match="expected distinct feature columns"):
        read_examples(path, "y", ("a", "a"), None)
    with pytest.raises(ValueError, match="expected columns beside y, got none"):
        read_examples(path, "y", (), None)
    with pytest.raises(ValueError, match="unknown column 'z'"):
        read_examples(path, "y", ("z",), None)


def test_a_table_can_be_trained_on_and_predicted_for(tmp_path):
    rows = [f"{i},{i * i},{'odd' if i % 2 else 'even'}" for i in range(20)]
    path = write(tmp_path, "\n".join(["a,b,kind", *rows]))
    splits = load(path, target="kind", standardize="features")
    assert splits.train.feature_names == ("a", "b")
    assert splits.train.class_names == ("even", "odd")
    assert (len(splits.train.x), len(splits.test.x)) == (16, 4)

    new = tmp_path / "new.csv"
    new.write_text("b,c,a\n4,oops,2\n")
    x = read_features(new, splits.train.feature_names)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, [[2, 4]])
    everything = np.concatenate([splits.train.x, splits.test.x])
    assert np.any(np.all(everything == splits.standardization.apply(x), axis=1))


def test_a_missing_feature_is_named_when_predicting(tmp_path):
    with pytest.raises(ValueError, match="unknown column 'alcohol': did you mean 'Alcohol'"):
        read_features(write(tmp_path, "Alcohol\n1\n"), ("alcohol",))


CELLS = {
    "size": [1.5 * i for i in range(40)],
    "rooms": [i % 4 for i in range(40)],
    "kind": ["flat", "house", "röom, small"] * 13 + ["flat"],
    "garden": ["yes", "no"] * 20,
    "built": [f"20{i % 24:02d}-0{i % 9 + 1}-{i % 28 + 1:02d}" for i in range(40)],
    "price": [1000.5 + 7 * i for i in range(40)],
    "sold": ["Y", "N", "N", "N"] * 10,
}
EXPECTED = [
    *("size", "rooms", "kind=flat", "kind=house", "kind=röom, small", "garden", "built days"),
    *(f"built {cycle} {wave}" for cycle in ("year", "week") for wave in ("sine", "cosine")),
]


def frame():
    return pd.DataFrame(CELLS)


def to_parquet(path):
    frame().astype({"kind": "category", "built": "datetime64[ns]"}).to_parquet(path)


def to_excel(path):
    pytest.importorskip("openpyxl")
    frame().to_excel(path.with_suffix(".xlsx"), index=False)
    path.with_suffix(".xlsx").rename(path)


WRITERS = {
    "t.csv": lambda p: frame().to_csv(p, index=False),
    "t.CSV": lambda p: frame().to_csv(p, index=False),
    "index.csv": lambda p: frame().to_csv(p),
    "t.tsv": lambda p: frame().to_csv(p, index=False, sep="\t"),
    "bar.txt": lambda p: frame().to_csv(p, index=False, sep="|"),
    "t.csv.gz": lambda p: frame().to_csv(p, index=False),
    "t.TSV.GZ": lambda p: p.write_bytes(
        gzip.compress(frame().to_csv(index=False, sep="\t").encode())
    ),
    "german.csv": lambda p: frame().to_csv(p, index=False, sep=";", decimal=","),
    "utf16.csv": lambda p: frame().to_csv(p, index=False, encoding="utf-16"),
    "utf16le.csv": lambda p: frame().to_csv(p, index=False, encoding="utf-16-le"),
    "latin1.csv": lambda p: frame().to_csv(p, index=False, encoding="latin-1"),
    "signed.csv": lambda p: frame().to_csv(p, index=False, encoding="utf-8-sig"),
    "t.parquet": to_parquet,
    "t.PQ": lambda p: to_parquet(p),
    "t.feather": lambda p: frame().to_feather(p),
    "t.ARROW": lambda p: frame().to_feather(p),
    "t.xlsx": lambda p: to_excel(p),
    "t.XLSX": lambda p: to_excel(p),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("target", ["price", "sold", "rooms"])
@pytest.mark.filterwarnings("ignore:.* is not UTF-8")
def test_every_way_to_write_a_table_gives_the_same_examples(name, target, tmp_path):
    WRITERS["t.csv"](tmp_path / "reference.csv")
    WRITERS[name](tmp_path / name)
    inputs = [c for c in CELLS if c not in ("price", "sold", target)]
    expected, given = (
        load(tmp_path / file, target=target, inputs=inputs) for file in ("reference.csv", name)
    )
    assert given.train.feature_names == expected.train.feature_names
    assert set(expected.train.feature_names) == set(EXPECTED) - {target}
    assert given.train.class_names == expected.train.class_names
    assert len(given.train.class_names) == {"price": 0, "sold": 2, "rooms": 4}[target]
    assert given.source == expected.source
    for part, like in zip(given[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(part.x, like.x)
        np.testing.assert_array_equal(part.target, like.target)


def test_latin_1_is_said(tmp_path):
    WRITERS["latin1.csv"](tmp_path / "t.csv")
    with pytest.warns(UserWarning, match=r"t\.csv is not UTF-8: it is read as Windows-1252"):
        load(tmp_path / "t.csv", target="sold")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "t.csv", target="sold", reading=Reading(encoding="latin-1"))


def test_what_pandas_knows_of_a_column_is_kept(tmp_path):
    kept = pd.DataFrame({"y": [*"uv"] * 20, "code": pd.Categorical([1, 2, 3, 4] * 10)})
    kept["took"] = pd.to_timedelta(np.arange(40), unit="min")
    kept.to_feather(tmp_path / "t.feather")
    splits = load(tmp_path / "t.feather", target="y")
    assert splits.train.feature_names == ("code=1", "code=2", "code=3", "code=4", "took")
    assert {*splits.train.x[:, 4] % 60} == {0}
    kept["took"] = [[1, 2]] * 40
    kept.to_feather(tmp_path / "t.feather")
    with pytest.raises(ValueError, match="column 'took': expected single values, got ndarray"):
        load(tmp_path / "t.feather", target="y")


def test_columns_become_features(tmp_path):
    WRITERS["t.csv"](tmp_path / "t.csv")
    splits = load(tmp_path / "t.csv", target="price")
    kinds = {c.name: c.kind for c in splits.preparation.columns}
    assert kinds == {
        **{"size": "number", "rooms": "number", "kind": "category", "garden": "boolean"},
        **{"built": "date", "sold": "boolean"},
    }
    x = dict(zip(splits.train.feature_names, splits.train.x.T, strict=True))
    np.testing.assert_array_equal(x["kind=flat"] + x["kind=house"] + x["kind=röom, small"], 1)
    row = int(np.argmax(x["size"] == 1.5))  # the second one, of 2001-02-02, a Friday
    assert (x["garden"][row], x["kind=house"][row], x["rooms"][row]) == (0, 1, 1)
    days = (np.datetime64("2001-02-02") - np.datetime64("1970-01-01")).astype(int)
    assert x["built days"][row] == days
    assert x["built week sine"][row] == pytest.approx(np.sin(2 * np.pi * days / 7), abs=1e-6)
    said = splits.preparation.describe()
    assert "category  3 of one-hot (3)" in said
    assert "built" in said


def test_gaps_are_filled_by_the_training_examples_alone(tmp_path):
    sizes = ["" if i % 5 == 0 else i for i in range(60)]
    words = ["NA" if i % 7 == 0 else "ab"[i % 2] for i in range(60)]
    path = tmp_path / "t.csv"
    pd.DataFrame({"size": sizes, "word": words, "y": range(60)}).to_csv(path, index=False)
    options = {"target": "y", "task": "regression"}
    splits = load(path, **options)
    names = ("size", "size missing", "word=a", "word=b", "word missing")
    assert splits.train.feature_names == names
    raw = read_file(path, "y", None, "regression")
    order = splits.train.target.ravel().astype(int)
    median = np.nanmedian(raw.x[order, 0])
    np.testing.assert_array_equal(splits.train.x[:, 0][order % 5 == 0], np.float32(median))
    np.testing.assert_array_equal(splits.train.x[:, 1], order % 5 == 0)
    np.testing.assert_array_equal(splits.train.x[:, 4], order % 7 == 0)
    np.testing.assert_array_equal(splits.train.x[:, 2:].sum(1), 1)
    frequent = load(path, missing="frequent", **options).train
    assert frequent.feature_names == ("size", "word=a", "word=b")
    np.testing.assert_array_equal(frequent.x[:, 1:].sum(1), 1)
    with pytest.raises(ValueError, match=r"column 'size' without empty cells, .* --data\.missing"):
        load(path, missing="refuse", **options)
    with pytest.raises(ValueError, match="unknown missing 'median'"):
        load(path, missing="median", **options)


def test_a_category_that_no_training_example_has_is_said(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame({"word": ["a", "b"] * 20, "y": range(40)}).to_csv(path, index=False)
    splits = load(path, target="y", task="regression")
    (tmp_path / "new.csv").write_text("word\nb\nc\n\n")
    raw = inputs_like(splits.preparation, tmp_path / "new.csv", None)
    with pytest.warns(UserWarning, match="1 cells of column 'word' are of categories that no"):
        x = splits.preparation.inputs("new", raw)
    np.testing.assert_array_equal(x, [[0, 1], [0, 0]])


def test_free_text_is_refused_by_name_and_can_be_left_out(tmp_path):
    path = tmp_path / "t.csv"
    notes = [f"note {i}" for i in range(40)]
    pd.DataFrame({"a": range(40), "my note": notes, "y": [0, 1] * 20}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"t.csv: column 'my note': expected .*'my note=drop'"):
        load(path, target="y")
    assert load(path, target="y", reading=Reading(kinds=("my note=drop",))).train.x.shape[1] == 1
    assert load(path, target="y", reading=Reading(kinds=("my note=category",))).train.x.shape[1] > 9
    with pytest.raises(ValueError, match="expected kinds as COLUMN=KIND"):
        load(path, target="y", reading=Reading(kinds=("my note=text",)))
    with pytest.raises(ValueError, match="unknown column 'note'"):
        load(path, target="y", reading=Reading(kinds=("note=drop",)))


def test_numbers_that_stand_for_categories_and_codes_with_zeros_in_front(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{'01234' if i % 2 else '1234'},{i % 3},{i}" for i in range(40)]
    path.write_text("\n".join(["zip,floor,y", *rows]))
    reading = Reading(kinds=("zip=category", "floor=category"))
    names = load(path, target="y", task="regression", reading=reading).train.feature_names
    assert names == ("zip=01234", "zip=1234", "floor=0", "floor=1", "floor=2")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.234,5", "2,5", "1.000.000,25"], [1234.5, 2.5, 1000000.25]),
        (['"1,234"', '"12,345,678.5"', "3"], [1234, 12345678.5, 3]),
        (["1,50", "-2,5", "3"], [1.5, -2.5, 3]),
    ],
)
def test_thousands_and_decimals_are_found(tmp_path, cells, expected):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a;y", *(f"{cell};u" for cell in cells)]))
    np.testing.assert_array_equal(read_examples(path, "y", None, None)["x"][:, 0], expected)


def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;y\n1,234;u\n5,678;v\n")
    with pytest.raises(ValueError, match=r"say --data\.decimal"):
        read_examples(path, "y", None, None)
    for decimal, first in ((",", 1.234), (".", 1234)):
        reading = Reading(decimal=decimal)
        assert read_examples(path, "y", None, None, reading=reading)["x"][0, 0] == first


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y %H:%M"])
def test_dates_of_other_forms_are_read_where_there_is_one_way(tmp_path, form):
    times = pd.date_range("2024-01-03", periods=60, freq="37h")
    path = tmp_path / "t.csv"
    pd.DataFrame({"when": times.strftime(form), "y": range(60)}).to_csv(path, index=False)
    arrays = read_examples(path, "y", None, "regression")
    assert arrays["columns"] == (Column("when", "date", (), form),)
    exact = times if "%H" in form else times.normalize()
    seconds = (exact - pd.Timestamp(0)) / pd.Timedelta(seconds=1)
    np.testing.assert_array_equal(arrays["x"][:, 0], seconds)


def test_dates_that_can_be_read_in_two_ways_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "when,y\n" + "\n".join(f"0{i % 9 + 1}/0{i % 7 + 1}/2024,{i}" for i in range(40))
    )
    with pytest.raises(ValueError, match=r"column 'when': expected dates .* in one way"):
        read_examples(path, "y", None, "regression")
    reading = Reading(kinds=("when=date:%m/%d/%Y",))
    arrays = read_examples(path, "y", None, "regression", reading=reading)
    assert arrays["columns"][0].format == "%m/%d/%Y"


@pytest.mark.parametrize("word", ["NA", "nan", "None", ""])
def test_a_gap_in_the_target_is_never_a_class_in_silence(tmp_path, word):
    rows = "\n".join(f"{i},{['x', 'y', word][i % 3]}" for i in range(30))
    path = write(tmp_path, f"a,t\n{rows}")
    with pytest.raises(ValueError, match=r"line 4, column 't': expected a target, .*--data"):
        read_examples(path, "t", None, None)
    kept = read_examples(path, "t", None, None, reading=Reading(missing_target="drop"))
    assert (kept["class_names"], len(kept["x"])) == (("x", "y"), 20)
    if word:
        reading = Reading(missing_target="class")
        assert word in read_examples(path, "t", None, None, reading=reading)["class_names"]


def test_long_integer_labels_stay_classes_and_are_no_numbers_to_regress(tmp_path):
    first = 10**18 * 3
    path = write(tmp_path, "a,t\n" + "\n".join(f"{i},{first + i % 2}" for i in range(20)))
    assert read_examples(path, "t", None, None)["class_names"] == (str(first), str(first + 1))
    with pytest.raises(ValueError, match=r"column 't': expected numbers of at most 15 digits"):
        read_examples(path, "t", None, "regression")


@pytest.mark.parametrize(
    ("numbers", "prefer", "classes"),
    [
        (range(40), False, 0),
        ([1, 2] * 20, False, 2),
        ([1, 2] * 20, True, 0),
        ([i % 30 for i in range(400)], False, 30),
    ],
)
def test_whole_numbers_are_classes_where_they_are_few(tmp_path, numbers, prefer, classes):
    path = write(tmp_path, "a,t\n" + "\n".join(f"1,{number}" for number in numbers))
    assert len(read_file(path, "t", None, None, prefer_numbers=prefer).class_names) == classes


def test_several_targets_are_outputs_or_labels(tmp_path):
    rows = "\n".join(f"{i},{i * 0.5},{i % 2},{'yes' if i % 3 else 'no'}" for i in range(40))
    path = write(tmp_path, f"a,t,u,v\n{rows}")
    outputs = load(path, target=("t", "u"), inputs="a")
    assert (outputs.train.target.shape, outputs.train.task) == ((32, 2), "")
    assert outputs.train.target_names == ("t", "u")
    labels = load(path, target=("u", "v"), inputs="a")
    assert (labels.train.target.shape, labels.train.task) == ((32, 2), "labels")
    assert set(np.unique(labels.train.target)) == {0, 1}
    with pytest.raises(ValueError, match="expected one target for a classification"):
        load(path, target=("u", "v"), task="classification")
    with pytest.raises(ValueError, match="to be 0 or 1"):
        load(path, target=("t", "u"), task="labels")


def test_a_test_file_of_ones_own_has_the_classes_of_the_training_file(tmp_path):
    text = "a,b,kind\n" + "\n".join(f"{i},{-i},{'xyz'[i % 3]}" for i in range(30))
    path = write(tmp_path, text)
    (tmp_path / "test.csv").write_text("kind,b,a\nz,1,2\nx,3,4\n")
    splits = load(path, target="kind", test=tmp_path / "test.csv")
    assert len(splits.train.x) == 30
    np.testing.assert_array_equal(splits.test.target, [2, 0])
    np.testing.assert_array_equal(splits.test.x, [[2, 1], [4, 3]])


def test_groups_stay_together_and_a_split_needs_no_strata(tmp_path):
    rows = "\n".join(f"{i},p{i // 4},{'one' if i == 7 else 'ab'[i % 2]}" for i in range(60))
    path = write(tmp_path, f"a,patient,y\n{rows}")
    with pytest.raises(ValueError, match=r"1 of the 3 classes: 'one' .*--data\.no-stratify"):
        load(path, target="y", inputs="a")
    assert len(load(path, target="y", inputs="a", stratify=False).test.x) == 12
    splits = load(path, target="y", groups="patient", validation_fraction=0.2)
    patients = [set((part.x[:, 0] // 4).astype(int)) for part in splits[:3]]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 15
    assert len(splits.test.x) == len(splits.validation.x) == 12


def test_a_long_cell_and_many_columns_take_linear_time_and_memory(tmp_path):
    path = tmp_path / "t.csv"
    cells = ["x" * 200_000 if i == 5 else "z" for i in range(40_000)]
    path.write_text("a,t,y\n" + "\n".join(f"{i},{c},{i % 2}" for i, c in enumerate(cells)))
    with pytest.raises(ValueError, match=r"column 't': .* words of up to 200000 characters"):
        read_examples(path, "y", None, None)
    with pytest.raises(ValueError, match=r"line 7, column 't': expected the name of a class"):
        read_examples(path, "t", None, None)
    count = 20_000
    path.write_text(
        ",".join(["y", *(f"c{i}" for i in range(count))])
        + "\n"
        + "\n".join(",".join([str(i % 2), *["1.5"] * count]) for i in range(4))
    )
    assert read_examples(path, "y", None, None)["x"].shape == (4, count)


def test_one_example_of_a_known_table_is_enough(tmp_path):
    path = write(tmp_path, "a,kind\n1,x\n2,y\n3,x\n")
    known = read_file(path, "kind", None, None)
    (tmp_path / "one.tsv").write_text("kind\ta\ny\t7\n")
    found = examples_like(known, tmp_path / "one.tsv", "kind", None)
    assert (found.x.tolist(), found.target.tolist()) == ([[7]], [1])


def test_the_first_row_of_a_table_of_numbers_is_not_lost_as_a_header(tmp_path):
    path = write(tmp_path, "0,103,-6\n1,99,4\n0,87,2\n")
    with pytest.raises(ValueError, match="expected a first row that is either names or data"):
        read_file(path, "0", None, None)
    found = read_file(path, "0", None, None, Reading(header="no"))
    assert found.feature_names == ("1", "2")
    np.testing.assert_array_equal(found.x, [[103, -6], [99, 4], [87, 2]])
    # What is twice in the first row names nothing; what is not the number of a column does.
    assert len(read_file(write(tmp_path, "0,0,5\n1,2,3\n"), "0", None, None).x) == 2
    known = read_file(write(tmp_path, "0,1,y\n5,6,a\n7,8,b\n"), "y", None, None)
    new = write(tmp_path, "5,1,0\n3,2,1\n")
    with pytest.raises(ValueError, match=r"say --data\.header yes or no"):
        inputs_like(known, new, None)
    np.testing.assert_array_equal(inputs_like(known, new, None, Reading(header="yes")), [[1, 2]])


def test_a_header_of_several_lines_costs_no_rows(tmp_path):
    path = write(tmp_path, '\na,"b\n\nb",y\n1,2,3.5\n4,5,6.5\n')
    found = read_file(path, "y", None, None)
    np.testing.assert_array_equal(found.x, [[1, 2], [4, 5]])
    assert found.feature_names == ("a", "b\n\nb")


def test_whole_numbers_that_float64_cannot_hold_are_warned_of(tmp_path):
    path = write(tmp_path, f"a,b,c,y\n1,{10**18 + 1},{10**30},0.5\n2,{10**18 + 2},{10**30},1.5\n")
    with pytest.warns(UserWarning, match="digits") as warned:
        read_file(path, "y", None, None)
    assert {str(w.message).split()[1] for w in warned} == {"'b'", "'c'"}


def test_a_constant_feature_of_any_size_becomes_zero():
    x = np.full((7, 2), [1e30, 0.1])
    np.testing.assert_array_equal(STANDARDIZATIONS["features"](Blocks(x)).apply(x), 0)


def test_gaps_that_no_training_example_had_are_warned_of(tmp_path):
    path = write(tmp_path, "a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    splits = load(path, target="y")
    new = inputs_like(splits.preparation, write(tmp_path, 'a\n3\n""\n'), None)
    with pytest.warns(UserWarning, match="there are empty cells in a"):
        splits.preparation.inputs("new", new)


def test_a_table_read_in_pieces_is_as_one_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxnn.data.tables.numeric._ROWS", 2)
    path = write(tmp_path, "y,a,b\nu,1,2\nv,2,\nu,3.5,4\nv,4,5\nu,5,6\n")
    found = read_file(path, "y", None, None)
    assert found.feature_names == ("a", "b")
    np.testing.assert_array_equal(found.x, [[1, 2], [2, np.nan], [3.5, 4], [4, 5], [5, 6]])
    np.testing.assert_array_equal(found.target, [0, 1, 0, 1, 0])
    # Cells of words are as they are written, whatever came before them.
    rows = "".join(f"{cell},0{n % 2}\n" for n, cell in enumerate(("01", "01", "x", "x", "y")))
    found = read_file(write(tmp_path, f"word,y\n{rows}"), "y", None, None)
    assert found.columns[0].values == ("01", "x", "y")
    with pytest.raises(ValueError, match="line 6: expected 2 cells as in the header, got 1"):
        read_file(write(tmp_path, "a,y\n1,2\n1,2\n1,2\n1,2\n1\n"), "y", None, None)


def test_numbers_of_a_table_with_words_are_not_read_as_text_again(tmp_path, monkeypatch):
    rows = [f"{i + 0.5},{i % 7},{'red' if i % 2 else ' blue'},{i % 3},," for i in range(40)]
    path = write(tmp_path, "\n".join(["a,b,word,y,c,d", *rows, "?,inf,red,1,,"]))
    read = []
    whole = features.read_column
    monkeypatch.setattr(
        features, "read_column", lambda *a: read.append(a[1].dtype.kind) or whole(*a)
    )
    with pytest.raises(ValueError, match=r"line 42, column 'b': expected a finite number"):
        load(path, target="y")
    path.write_text(path.read_text().replace("inf", "0"))
    read.clear()
    splits = load(path, target="y", inputs=["b", "word", "a"])
    assert read == ["i", "O", "O"]  # a, for its question mark, is in text as a whole
    names = ("b", "word=blue", "word=red", "a")
    assert splits.train.feature_names[:4] == names


def test_points_that_group_thousands_are_no_fractions_where_the_comma_is_decimal(tmp_path):
    rows = "".join(f"{row},5;{row}.250;{row % 2}\n" for row in range(1, 20))
    found = read_file(write(tmp_path, "a;b;y\n" + rows), "y", None, None)
    assert found.x[0].tolist() == [1.5, 1250.0]
    rows = "".join(f"{row}.250;{row % 2}\n" for row in range(1, 20))
    path = write(tmp_path, "b;y\n" + rows)
    assert read_file(path, "y", None, None).x[0].tolist() == [1.25]
    assert read_file(path, "y", None, None, Reading(decimal=",")).x[0].tolist() == [1250.0]


def test_dates_whose_day_is_a_zero_and_a_digit_keep_it(tmp_path):
    path = write(tmp_path, "d,y\n" + "".join(f"0{1 + i % 9}022020,{i % 2}\n" for i in range(18)))
    found = read_file(path, "y", None, None, Reading(kinds=("d=date:%d%m%Y",)))
    expected = np.datetime64("2020-02-01", "s").astype(int)
    assert found.x[0, 0] == expected
    assert inputs_like(found, path, None)[0, 0] == expected


def test_the_comma_that_training_found_is_decimal_in_other_files_too(tmp_path):
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    rows = "".join(f"{n},5;{n % 2}\n" for n in range(10))
    path.write_text("x;y\n" + rows)
    other.write_text("x\n12.234\n")
    preparation = load(path, target="y", stratify=False).preparation
    assert inputs_like(preparation, other, None).tolist() == [[12234]]
    other.write_text("x\n16.5\n")
    with pytest.raises(ValueError, match=r"column 'x'"):
        inputs_like(preparation, other, None)
    said = inputs_like(preparation, other, None, Reading(decimal="."))
    assert said.tolist() == [[16.5]]
