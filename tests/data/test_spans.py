from pathlib import Path

import numpy as np
import pytest

from jaxnn.data import load
from jaxnn.data.tables import spans


@pytest.fixture(autouse=True)
def two_spans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spans, "SMALLEST", 1)
    monkeypatch.setattr(spans, "processors", lambda: 3)


def lines(rows=60):
    return ["a,b,c,y", *(f"{row / 7:.6g},{row % 5},{row},{row % 11 / 8}" for row in range(rows))]


def taken(monkeypatch, content, **options):
    """The splits of a file in spans, and of the same at once."""
    Path("t.csv").write_bytes(content)
    found = load("t.csv", target="y", **options)
    with monkeypatch.context() as at_once:
        at_once.setenv("JAXNN_CACHE", "other")
        at_once.setattr("jaxnn.data.tables.numeric.spans_of", lambda *_: [])
        return found, load("t.csv", target="y", **options)


ENDS = {
    "line feeds": "\n".join(lines()) + "\n",
    "none at the end": "\n".join(lines()),
    "carriage returns": "\r\n".join(lines()) + "\r\n",
    "empty lines": "\n".join([*lines()[:10], "", "", *lines()[10:], "", "\n"]),
    "carriage returns alone": "\r".join(lines()),
    "a mark": "\ufeff" + "\n".join(lines()),
    "gaps": "\n".join([*lines(), ",,,1.5", "3,,1,2.5"]),
    "quotes": "\n".join([*lines(), '"1","2",3,4.5']),
    "negative zeros": "\n".join(["a,y", "-0,1.5", "0.5,2.5", *["-0,1.5"] * 40, "-0.5,1"]),
    "negative zeros of targets": "\n".join(
        ["a,y", "2,-0", "1,1.5", *(f"{row},{-row % 3 or '-0'}" for row in range(58)), "1,.5"]
    ),
    "words after numbers": "\n".join(
        ["a,y", *(f"{row},{'007' if row < 30 or row % 2 else 'x'}" for row in range(60))]
    ),
}


@pytest.mark.parametrize("ends", ENDS)
def test_spans_give_what_the_whole_gives(ends, monkeypatch):
    content = ENDS[ends].encode()
    found, whole = taken(monkeypatch, content, standardize="features")
    assert found.source == whole.source
    for own, other in zip(found[:3], whole[:3], strict=True):
        np.testing.assert_array_equal(own.x, other.x)
        assert own.target.tobytes() == other.target.tobytes()


def test_a_word_in_the_last_span_is_refused_with_its_line():
    Path("t.csv").write_text("\n".join([*lines(), "x,1,2,3.5"]))
    with pytest.raises(ValueError, match=r"t.csv, line 62, column 'a': expected .*, got 'x'"):
        load("t.csv", target="y")


@pytest.mark.parametrize(("row", "given"), [("1,2,3,4.5,", 5), ("1,2,3", 3), ("1,2,3,4,5", 5)])
@pytest.mark.parametrize("line", [22, 23, 40, 60])
def test_a_row_of_another_length_is_refused_with_its_line(row, given, line):
    text = lines()
    text.insert(line - 1, row)
    Path("t.csv").write_text("\n".join(text))
    with pytest.raises(ValueError, match=rf"t.csv, line {line}: expected 4 cells .*, got {given}"):
        load("t.csv", target="y")


@pytest.mark.parametrize("length", range(20, 40))
def test_a_line_longer_than_what_is_looked_at_is_not_cut(length, monkeypatch):
    monkeypatch.setattr(spans, "_BLOCK", 8)
    content = "w,a,y\n" + "x" * length + ",5,6\n1,2,3\n1,2,3\n"
    Path("t.csv").write_text(content)
    for span in spans.spans_of(Path("t.csv"), ",", 3)[1:]:
        assert content[span.start - 1] == "\n"


def test_a_span_is_every_line_once():
    content = "\n".join(lines())
    Path("t.csv").write_text(content)
    found = spans.spans_of(Path("t.csv"), ",", 4)
    assert len(found) == 3
    texts = []
    for span in found:
        with span.open() as file:
            texts.append(file.read().decode())
    assert "".join(texts) == content
    assert [span.lines for span in found] == [len(text.splitlines()) for text in texts]


def test_separators_at_the_ends_of_rows_say_nothing_where_a_column_is_read_once_more():
    Path("t.csv").write_text("a,y\n" + "".join(f"{row},{row % 2}.0,\n" for row in range(30)))
    assert {*load("t.csv", target="y").train.target[:, 0]} == {0, 1}
