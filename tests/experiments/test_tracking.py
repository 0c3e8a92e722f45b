"""Event files, and the comparison of several runs."""

import csv
import json
import shutil
import struct
from pathlib import Path

import pytest
from commands import error_of
from tensorboardX.proto.event_pb2 import Event

from experiments import compare, train

TRAINING = ["wine_mlp", "--network", "dense(3)", "--data.validation-fraction", "0.1"]


def events(folder):
    """(metric, epoch) -> value, of every event in the folder; none may be there twice."""
    found = {}
    for path in folder.glob("tensorboard/*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
            content = content[16 + length :]
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: of four epochs with event files, and of two with another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    every = ["--save-seconds", "0", "--tensorboard", "--angles"]
    train.main([*TRAINING, "--epochs", "4", *every, "--output", str(folder / "a")])
    other = ["--learning-rate", "0.02", "--clip-norm", "1"]
    train.main([*TRAINING, "--epochs", "2", *other, "--output", str(folder / "b")])
    return folder


def test_event_files_hold_the_metrics(runs):
    *epochs, last = map(json.loads, (runs / "a" / "metrics.jsonl").read_text().splitlines())
    found = events(runs / "a")
    for record in epochs:
        number = record.pop("epoch")
        for angle, value in record.pop("angles").items():
            # Event files have no blanks in names.
            tag = f"angles/{angle.replace(' ', '_')}"
            assert found.pop((tag, number)) == pytest.approx(value)
        for name, value in record.items():
            assert found.pop((name, number)) == pytest.approx(value)
    for name, value in last["test"].items():
        assert found.pop((f"test/{name}", 4)) == pytest.approx(value)
    assert found == {}


def test_event_files_are_made_only_where_they_are_asked_for(runs):
    assert not (runs / "b" / "tensorboard").exists()


def test_after_a_resume_no_step_is_in_the_event_files_twice(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "4")
    (path,) = (folder / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    train.main(["--resume", str(folder), "--angles"])
    expected, found = events(runs / "a"), events(folder)
    assert found.keys() == expected.keys()
    expected = {key: value for key, value in expected.items() if key[0] != "seconds"}
    assert found | expected == found


def test_a_comparison_has_the_metrics_and_the_settings_that_differ(runs, capsys):
    compare.main([str(runs / "a"), str(runs / "b"), "--output", "comparison"])
    with Path("comparison/comparison.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    records = list(map(json.loads, (runs / "a" / "metrics.jsonl").read_text().splitlines()))
    losses = [record["loss"] for record in records[:4]]
    accuracies = [record["validation_accuracy"] for record in records[:4]]
    first = dict(zip(head, rows[0], strict=True))
    assert first["run"] == str(runs / "a")
    assert [row[head.index("trained epochs")] for row in rows] == ["4", "2"]
    assert float(first["last loss"]) == pytest.approx(losses[-1], rel=1e-5)
    place = head.index("best validation_accuracy")
    assert float(rows[0][place]) == pytest.approx(max(accuracies), rel=1e-5)
    assert head[place + 1] == "in epoch"
    assert int(rows[0][place + 1]) == accuracies.index(max(accuracies)) + 1
    assert float(first["test accuracy"]) == pytest.approx(records[-1]["test"]["accuracy"], rel=1e-5)
    assert head[-3:] == ["learning_rate", "epochs", "clip_norm"]
    assert rows[1][-3:] == ["0.02", "2", "1.0"]
    assert rows[0][-1] == ""
    assert Path("comparison/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "best validation_loss" in capsys.readouterr().out


def test_a_comparison_is_not_overwritten_unless_told(runs, monkeypatch, capsys):
    arguments = [str(runs / "a"), str(runs / "b"), "--output", "comparison"]
    compare.main(arguments)
    assert "not to exist" in error_of(compare.main, arguments, monkeypatch, capsys)
    compare.main([*arguments, "--overwrite"])


def test_what_cannot_be_compared_is_named(runs, monkeypatch, capsys):
    a, output = runs / "a", ["--output", "comparison"]
    error = error_of(compare.main, [a, "nowhere", *output], monkeypatch, capsys)
    assert "expected nowhere to be a run folder with config.toml" in error
    assert "two or more different run folders" in error_of(
        compare.main, [a, *output], monkeypatch, capsys
    )
    assert "two or more different run folders" in error_of(
        compare.main, [a, a, *output], monkeypatch, capsys
    )
    empty = shutil.copytree(a, "empty")
    (Path(empty) / "metrics.jsonl").write_text("")
    error = error_of(compare.main, [a, "empty", *output], monkeypatch, capsys)
    assert "expected empty to have metrics of an epoch" in error
    assert not Path("comparison").exists()
