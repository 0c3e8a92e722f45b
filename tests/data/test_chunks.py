"""Tables that are read a piece at a time."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxnn.data import chunks, encoding, load, map_splits
from jaxnn.data.chunks import load_table, map_table
from jaxnn.data.encoding import Embedded
from jaxnn.data.tables import piecewise


@pytest.fixture(autouse=True)
def small_pieces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(piecewise, "_ROWS", 64)
    monkeypatch.setattr(encoding, "_CELLS", 300)


def frame(count=300):
    random = np.random.default_rng(0)
    found = pd.DataFrame(
        {
            "size": random.normal(100, 30, count).round(2),
            "floor": random.integers(0, 9, count),
            "kind": np.where(np.arange(count) < 100, "old", random.choice(["a", "z"], count)),
            "city": [f"c{i}" for i in random.permutation(np.arange(count) % 30)],
            "built": pd.date_range("1990-01-01", periods=count, freq="37D").strftime("%Y-%m-%d"),
            "garden": random.choice(["yes", "no"], count),
            "w": random.integers(1, 4, count),
            "who": np.arange(count) // 2,
        }
    )
    found["price"] = (found["size"] * 3.1 + (found.kind == "old") * 9).round(3)
    found["dear"] = np.where(found.price > found.price.median(), "yes", "no")
    found["rooms"] = np.arange(count) % 4
    found.loc[::17, "size"] = np.nan
    found.loc[5::40, "kind"] = ""
    return found


INPUTS = ["size", "floor", "kind", "city", "built", "garden"]
TASKS = {
    "numbers": {"target": "price", "standardize_target": True},
    "words": {"target": "dear"},
    "whole numbers": {"target": "rooms"},
    "whole numbers as such": {"target": "rooms", "task": "regression"},
    "two": {"target": ["price", "size"], "inputs": ["floor", "kind"], "test_fraction": 0.3},
    "weights": {"target": "dear", "weights": "w"},
    "groups": {"target": "price", "groups": "who"},
}


def write(found, path):
    if path.suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        found.to_excel(path, index=False)
    elif path.suffix == ".feather":
        found.to_feather(path, chunksize=70)  # other pieces than are asked for
    elif path.suffix == ".parquet":
        found.to_parquet(path)
    else:
        found.to_csv(path, index=False)


def require_same_digests(folder, whole):
    said = json.loads((folder / "source.json").read_text())
    assert (said["data"], said["split"]) == tuple(whole.source)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".csv.gz", ".feather", ".xlsx"])
@pytest.mark.parametrize("task", TASKS)
def test_pieces_give_what_the_whole_gives(task, suffix):
    path, found = Path(f"t{suffix}"), frame()
    if task == "two":
        found = found.dropna()
    write(found, path)
    options = {"inputs": INPUTS, "standardize": "features", "validation_fraction": 0.1}
    options |= TASKS[task]
    whole = load(path, **options, embed_above=20)
    folder = map_table(path, "mapped", **options, embedded=Embedded(above=20))
    require_same_digests(folder, whole)
    pieces = map_splits(folder)
    assert pieces.preparation.facts()[0] == whole.preparation.facts()[0]
    for part, own in zip(whole[:3], pieces[:3], strict=True):
        assert (own.class_names, own.feature_names) == (part.class_names, part.feature_names)
        np.testing.assert_array_equal(own.target, part.target)
        arrays = part.x if isinstance(part.x, tuple) else (part.x,)
        others = own.x if isinstance(own.x, tuple) else (own.x,)
        for a, b in zip(arrays, others, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(b, a)
        if part.weights is not None:
            np.testing.assert_array_equal(own.weights, part.weights)


def test_what_does_not_fit_the_first_piece_is_refused_with_its_line():
    found = frame().astype({"floor": object})
    found.loc[200, "floor"] = "roof"
    found.to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match=r"t.csv, line 202, column 'floor': .* got 'roof'"):
        map_table("t.csv", "mapped", target="price", inputs=INPUTS)
    found.loc[200, "floor"], found.loc[250, "price"] = 3, np.nan
    found.to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match=r"t.csv, line 252, column 'price': expected a target"):
        map_table("t.csv", "other", target="price", inputs=INPUTS)
    map_table(
        "t.csv",
        "kept",
        target="price",
        inputs=INPUTS,
        reading=chunks.FOUND._replace(missing_target="drop"),
    )
    assert len(map_splits("kept").train.target) == 239
    lines = Path("t.csv").read_text().splitlines()
    Path("short.csv").write_text("\n".join([*lines[:150], lines[150] + ",7", *lines[151:]]))
    with pytest.raises(ValueError, match=r"short.csv, line 151: expected 11 cells"):
        map_table("short.csv", "third", target="price", inputs=INPUTS)
    assert sorted(p.name for p in Path().iterdir() if p.name.startswith(".")) == []


def test_the_folder_in_the_cache_is_of_the_file_and_the_options():
    frame().to_csv("t.csv", index=False)
    options = {"target": "price", "inputs": INPUTS}
    first = load_table("t.csv", **options)
    assert len([*Path("cache").iterdir()]) == 1
    again = load_table("t.csv", **options)
    assert again.source == first.source
    auto = load_table("t.csv", **options, standardize="auto")
    said = {"standardize": "features", "standardize_target": True}
    before = {path.name for path in Path("cache").iterdir()}
    assert load_table("t.csv", **options, **said).source == auto.source
    assert {path.name for path in Path("cache").iterdir()} == before
    for link in Path("cache").iterdir():
        if not link.is_symlink():
            shutil.rmtree(link)
    assert load_table("t.csv", **options, **said).source == auto.source  # whose link leads nowhere
    assert load_table("t.csv", **options, seed=1).source.split != first.source.split
    changed = frame()
    changed.loc[7, "floor"] += 1
    changed.to_csv("t.csv", index=False)
    assert load_table("t.csv", **options).source.data != first.source.data


def test_a_damaged_file_of_arrow_is_refused_by_name():
    frame().to_feather("t.feather", chunksize=70)
    content = Path("t.feather").read_bytes()
    Path("t.feather").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"t\.feather: expected a whole table, got"):
        map_table("t.feather", "mapped", target="price", inputs=INPUTS)


def written(columns, separator=","):
    rows = zip(*columns.values(), strict=True)
    lines = [separator.join(columns), *(separator.join(map(str, row)) for row in rows)]
    Path("t.csv").write_text("\n".join(lines) + "\n")
    return "t.csv"


def require_same(path, **options):
    """The splits in memory, which those in pieces equal."""
    whole, reading = load(path, **options), options.pop("reading", chunks.FOUND)
    folder = map_table(path, "mapped", **options, reading=reading)
    require_same_digests(folder, whole)
    pieces = map_splits(folder)
    assert pieces.preparation.facts()[0] == whole.preparation.facts()[0]
    for part, own in zip(whole[:3], pieces[:3], strict=True):
        np.testing.assert_array_equal(own.x, part.x)
        np.testing.assert_array_equal(own.target, part.target)
    return whole


COUNT = 160
LATE = [row >= 100 for row in range(COUNT)]
YES = ["yes" if row % 2 else "no" for row in range(COUNT)]
TARGETS = {
    "words": ["cat" if late else f"0{row % 3}" for row, late in enumerate(LATE)],
    "fractions": [row % 3 + late / 2 for row, late in enumerate(LATE)],
    "many numbers": [*range(COUNT)],
    "classes": [row // 40 for row in range(COUNT)],
    "none in a piece": ["" if 64 <= row < 128 else word for row, word in enumerate(YES)],
    "none at first": ["" if row < 64 else word for row, word in enumerate(YES)],
}


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_are_what_the_whole_table_says(kind):
    path = written({"a": range(COUNT), "y": TARGETS[kind]})
    dropped = chunks.FOUND._replace(missing_target="drop")
    whole = require_same(path, target="y", stratify=False, reading=dropped)
    assert bool(whole.train.class_names) == (kind not in ("fractions", "many numbers"))


@pytest.mark.parametrize("later", ["007", "TRUE", "1.50"])
def test_a_category_is_the_same_where_a_piece_has_none_but_numbers(later):
    words = [f"w{row % 3}" if row < 90 else later for row in range(COUNT)]
    whole = require_same(written({"a": range(COUNT), "k": words, "y": YES}), target="y")
    assert whole.preparation.encoders[1].values == (later, "w0", "w1", "w2")


def test_a_decimal_comma_is_found_once_for_all_pieces():
    grouped = [f"1.{row:03d}" + ",5" * (row < 64) for row in range(COUNT)]
    path = written(
        {"a": [f"{row},5" for row in range(COUNT)], "b": grouped, "y": grouped}, separator=";"
    )
    whole = require_same(path, target="y")
    assert whole.preparation.encoders[1].fill > 1000
    assert whole.train.target.min() > 999
    mixed = [f"{row}{',' if late else '.'}5" for row, late in enumerate(LATE)]
    written({"a": mixed, "y": YES}, separator=";")
    with pytest.raises(ValueError, match=r"say --data\.decimal"):
        map_table(path, "other", target="y")


def test_groups_and_weights_by_rows_of_which_some_are_dropped():
    columns = {
        "a": range(COUNT),
        "g": ["" if row % 9 == 0 else row * 7 % 11 for row in range(COUNT)],
        "w": [int(row < 64) for row in range(COUNT)],
        "y": ["" if row % 6 == 0 else row * 1.5 for row in range(COUNT)],
    }
    dropped = chunks.FOUND._replace(missing_target="drop")
    require_same(written(columns), target="y", groups="g", weights="w", reading=dropped)


@pytest.mark.parametrize("some", [0.5, True])
def test_categories_that_are_values_have_the_same_names_in_every_piece(some):
    late = [some if late else row % 2 for row, late in enumerate(LATE)]
    if some is True:
        late = [None if row > 100 and row % 9 == 0 else row % 2 == 0 for row in range(COUNT)]
    found = pd.DataFrame({"a": range(COUNT), "k": late, "y": YES})
    found.to_parquet("t.parquet")
    reading = chunks.FOUND._replace(kinds=("k=category",))
    whole = require_same("t.parquet", target="y", reading=reading)
    expected = ("False", "True") if some is True else ("0", "0.5", "1")
    assert whole.preparation.encoders[1].values == expected


@pytest.mark.parametrize(
    "option",
    [{"task": "regresion"}, {"missing": "nix"}, {"standardize": "nix"}, {"embedded": (("k",), -1)}],
)
def test_options_that_there_are_not_are_refused(option):
    option = {key: Embedded(*v) if key == "embedded" else v for key, v in option.items()}
    path = written({"a": range(COUNT), "k": YES, "y": YES})
    with pytest.raises(ValueError, match=rf"unknown {next(iter(option))}|embed_above"):
        map_table(path, "mapped", target="y", **option)
    assert not Path("mapped").exists()


def day(row):
    return f"2024-01-{row % 28 + 1:02d}"


BEYOND_THE_FIRST = {
    "words": lambda row: "" if row < 64 else "ab"[row % 2],
    "dates": lambda row: "" if row < 64 else day(row),
    "truth": lambda row: "" if row < 64 else YES[row],
    "dates after words for gaps": lambda row: "NA" if row < 64 else day(row),
    "words after dates": lambda row: day(row) if row < 150 else "soon",
    "another form of dates": lambda row: (
        f"0{row % 9 + 1}/0{row % 9 + 1}/2024 10:0{row % 6}"
        if row < 64
        else f"01/{row % 28 + 1:02d}/2024 10:00"
    ),
    "words after truth": lambda row: YES[row] if row < 150 else "maybe",
    "numbers after truth": lambda row: row % 2 == 0 if row < 128 else 1,
    "the other truth": lambda row: "yes" if row < 64 else YES[row],
    "numbers after words": lambda row: "ab"[row % 2] if row < 64 else row % 3,
    "a gap as large as a piece": lambda row: "" if 64 <= row < 128 else row,
    "numbers that no integer holds": lambda row: row if row < 100 else 2**70 + row,
    "line feeds between quotes": lambda row: '"a\nb"' if row in (63, 64, 127) else "c",
}


def test_the_only_column_is_what_all_of_its_cells_say():
    path = written({"c": map(BEYOND_THE_FIRST["words"], range(COUNT)), "y": YES})
    require_same(path, target="y")


@pytest.mark.parametrize("cells", BEYOND_THE_FIRST)
def test_a_column_is_what_all_of_its_cells_say(cells):
    columns = {"n": range(COUNT), "c": map(BEYOND_THE_FIRST[cells], range(COUNT)), "y": YES}
    path = written(columns)
    try:
        whole = load(path, target="y")
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            map_table(path, "mapped", target="y")
    else:
        require_same(path, target="y")
        assert whole.preparation.columns[1].name == "c"


def test_a_target_that_float32_does_not_hold_is_refused():
    path = written({"n": range(COUNT), "y": ["1e39" if late else "0.5" for late in LATE]})
    for read in (load, lambda *a, **b: map_table(*a, "mapped", **b)):
        with pytest.raises(ValueError, match=r"finite in float32.* --data.standardize-target"):
            read(path, target="y", test_fraction=0.5)
