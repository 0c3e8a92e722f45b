"""Examples that do not all count the same, by a column of a table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import error_of

from experiments import evaluate, map_data, predict, train
from experiments.support.runs import Run
from jaxnn.data import load

WEIGHED = ["--data.name", "t.csv", "--data.target", "y", "--data.weights", "w"]
QUICK = ["--network", "dense(outputs)", "--learning-rate", "0.1"]


def table(count=240):
    """Of three rows one has no weight, and the wrong class."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(size=count), "w": [0, 1, 3] * (count // 3)})
    frame["y"] = np.where((frame.a > 0) == (frame.w > 0), "high", "low")
    return frame


def final_metrics(folder):
    return json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])["test"]


def test_weights_count_in_training_and_metrics_and_are_kept_with_the_run(capsys):
    table().to_csv("t.csv", index=False)
    train.main([*WEIGHED, *QUICK, "--epochs", "10", "--metrics", "f1", "--output", "run"])
    assert final_metrics("run")["accuracy"] > 0.9  # without weights it cannot be above 2/3
    assert Run(Path("run")).read_record().preparation.feature_names == ("a",)
    map_data.main([*WEIGHED, "--output", "mapped"])
    evaluate.main(["run"])  # beside its data
    Path("t.csv").unlink()
    evaluate.main(["run"])  # of what it has kept
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == lines[-2]
    assert f"accuracy {100 * final_metrics('run')['accuracy']:.2f} %" in lines[-1]

    table().drop(columns="w").to_csv("other.csv", index=False)
    predict.main(["run", "other.csv", "--output", "p.csv"])
    with pytest.warns(UserWarning, match="other.csv: no 'w': all examples count the same"):
        evaluate.main(["run", "--file", "other.csv"])
    assert "accuracy 6" in capsys.readouterr().out

    train.main(["--data.name", "mapped", *QUICK, "--epochs", "10", "--stream", "--output", "again"])
    assert final_metrics("again")["accuracy"] == pytest.approx(final_metrics("run")["accuracy"])


def test_weights_are_split_with_their_examples_and_stand_in_any_file(tmp_path):
    frame = table()
    frame.to_csv("t.csv", index=False)
    np.savez("t.npz", x=frame[["a"]], target=frame.y == "high", w=frame.w)
    frame.to_parquet("t.parquet")
    options = {"target": "y", "weights": "w", "validation_fraction": 0.2}
    splits = load("t.csv", **options)
    for part in splits[:3]:
        positive = part.x[:, 0] > 0
        labels = np.array(part.class_names)[part.target]
        np.testing.assert_array_equal(part.weights == 0, (labels == "high") != positive)
    assert splits.source == load("t.parquet", **options).source
    assert splits.source != load("t.csv", **{**options, "weights": None, "inputs": "a"}).source
    part = load("t.npz", weights="w").train
    np.testing.assert_array_equal(part.weights == 0, (part.target == 1) != (part.x[:, 0] > 0))


def test_a_mapped_test_without_weights_counts_all_the_same():
    table().to_csv("t.csv", index=False)
    table().drop(columns="w").to_csv("other.csv", index=False)
    with pytest.warns(UserWarning, match="other.csv: no 'w'"):
        map_data.main([*WEIGHED, "--data.test", "other.csv", "--output", "mapped"])
    splits = load("mapped")
    assert (splits.test.weights == 1).all()
    assert {*splits.train.weights.tolist()} == {0, 1, 3}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({4: "-1"}, "line 6, column 'w': expected a weight, a finite number of at least 0, got"),
        ({4: ""}, "line 6, column 'w': expected a weight, a finite number of at least 0, got an"),
        ({4: "inf"}, "line 6, column 'w': expected a finite number, got 'inf'"),
        ({4: "heavy"}, "line 6, column 'w': expected a finite number, got 'heavy'"),
        ({i: "0" for i in range(240)}, "column 'w': expected some weights above 0, got all 0"),
    ],
)
def test_what_is_no_weight_is_refused_by_line_and_column(cells, message, monkeypatch, capsys):
    frame = table().astype({"w": str})
    for row, cell in cells.items():
        frame.loc[row, "w"] = cell
    frame.to_csv("t.csv", index=False)
    assert message in error_of(train.main, WEIGHED, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.weights", "v"], "unknown column 'v'"),
        (["--data.weights", "y"], "expected weights beside the target"),
        (["--data.weights", "w", "--data.inputs", "a", "w"], "without the weights column 'w'"),
        (["--data.weights", "w", "--gradient", "private"], "expected examples without weights"),
    ],
)
def test_weights_that_have_no_meaning_are_refused(options, message, monkeypatch, capsys):
    table().to_csv("t.csv", index=False)
    assert message in error_of(train.main, [*WEIGHED[:4], *options], monkeypatch, capsys)
    assert not Path("runs").exists()
