import numpy as np
import pytest

from jaxnn.data import load, read_features
from jaxnn.data.table import read_columns, read_examples


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_text_target_is_a_classification(tmp_path):
    path = write(tmp_path, "a,kind,b\n1,red,2\n-3.5,white,4e-1\n.5, red ,+6.\n")
    arrays = read_examples(path, "kind", None, None)
    assert arrays["feature_names"].tolist() == ["a", "b"]
    assert arrays["class_names"].tolist() == ["red", "white"]
    np.testing.assert_array_equal(arrays["target"], [0, 1, 0])
    np.testing.assert_array_equal(arrays["x"], [[1, 2], [-3.5, 0.4], [0.5, 6]])


def test_integer_classes_are_numbered_in_the_order_of_the_integers(tmp_path):
    path = write(tmp_path, "a,y\n1,10\n1,9\n1,-1\n1,10\n")
    arrays = read_examples(path, "y", None, None)
    assert arrays["class_names"].tolist() == ["-1", "9", "10"]
    assert arrays["target"].tolist() == [2, 1, 0, 2]


def test_a_target_with_a_fraction_is_a_regression(tmp_path):
    arrays = read_examples(write(tmp_path, "a,y\n1,10\n1,9.5\n"), "y", None, None)
    assert arrays["target"].tolist() == [10, 9.5]
    assert arrays["class_names"].size == 0


def test_the_task_decides_where_the_target_could_be_both(tmp_path):
    path = write(tmp_path, "a,y\n1,10\n1,9\n")
    assert read_examples(path, "y", None, "regression")["target"].tolist() == [10, 9]
    path = write(tmp_path, "a,y\n1,1.0\n1,0.0\n")
    assert read_examples(path, "y", None, "classification")["target"].tolist() == [1, 0]


def test_the_named_columns_are_taken_in_their_order(tmp_path):
    path = write(tmp_path, "id,a,b,y\nx7,1,2,u\nx8,3,4,v\n")
    arrays = read_examples(path, "y", ("b", "a"), None)
    np.testing.assert_array_equal(arrays["x"], [[2, 1], [4, 3]])
    np.testing.assert_array_equal(read_columns(path, ("a",)), [[1], [3]])


def test_quotes_blank_lines_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = write(tmp_path, '"a, left",y\r\n\r\n"1",u\r\n2,"v"\r\n\r\n', "utf-8-sig")
    arrays = read_examples(path, "y", None, None)
    assert arrays["feature_names"].tolist() == ["a, left"]
    np.testing.assert_array_equal(arrays["x"], [[1], [2]])


@pytest.mark.parametrize(
    "cell", ["", "nan", "inf", "1e999", "1_000", "0x10", "one", "1;5", "--1", "1.2.3", "١"]
)
def test_the_first_bad_cell_is_named_by_column_and_line(tmp_path, cell):
    path = write(tmp_path, f"a,b,y\n1,2,u\n\n3,{cell},v\nbad,bad,v\n")
    got = repr(cell) if cell else "an empty cell"
    with pytest.raises(ValueError, match=rf"t\.csv, line 4, column 'b': expected .*, got {got}"):
        read_examples(path, "y", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header row, got an empty file"),
        ("a,y\n", "expected rows below the header, got none"),
        ("1,2\n3,4\n", "expected a header row of column names, got 1, 2"),
        ("a,a,y\n1,2,3\n", "expected distinct column names, got a, a, y"),
        ("a,,y\n1,2,3\n", "expected distinct column names"),
        ("a;y\n1;2\n", "expected columns separated by commas, got 'a;y'"),
        ("a,y\n1,2\n1,2,3\n", "line 3: expected 2 cells as in the header, got 3"),
        ("a,y\n1,2\n1\n", "line 3: expected 2 cells as in the header, got 1"),
        ("a,y\n1,u\n2,\n", "line 3, column 'y': expected a target, got none"),
        ("a,y\n1,0.5\n2,cheap\n", "line 3, column 'y': expected a finite number, got 'cheap'"),
        ("a,y\n1,0.5\n2,1e999\n", "line 3, column 'y': expected a finite number"),
        ("a,Y\n1,2\n", "unknown column 'y': did you mean 'Y'"),
        ("y\n1\n", "expected distinct feature columns"),
        ('a,y\n"1,2\n', "unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"t\.csv.*" + message):
        read_examples(write(tmp_path, text), "y", None, None)


def test_other_encodings_and_binary_files_are_refused(tmp_path):
    for content in ("naïve,y\n1,2\n".encode("latin-1"), bytes(range(256))):
        path = tmp_path / "t.csv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.csv"):
            read_examples(path, "y", None, None)


def test_the_target_must_be_named_and_is_no_input(tmp_path):
    path = write(tmp_path, "a,y\n1,2\n")
    with pytest.raises(ValueError, match="expected target to name a column, one of a, y"):
        read_examples(path, None, None, None)
    with pytest.raises(ValueError, match="expected inputs without the target column 'y'"):
        read_examples(path, "y", ("a", "y"), None)
    with pytest.raises(ValueError, match="expected distinct feature columns"):
        read_examples(path, "y", ("a", "a"), None)
    with pytest.raises(ValueError, match="expected distinct feature columns"):
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
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[2, 4]])
    everything = np.concatenate([splits.train.x, splits.test.x])
    assert np.any(np.all(everything == splits.standardization.apply(x), axis=1))


def test_a_missing_feature_is_named_when_predicting(tmp_path):
    with pytest.raises(ValueError, match="unknown column 'alcohol': did you mean 'Alcohol'"):
        read_features(write(tmp_path, "Alcohol\n1\n"), ("alcohol",))
