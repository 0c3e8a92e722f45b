"""Cross-validation from the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import error_of

from experiments import predict, train
from experiments.support.config import Config, DataConfig
from experiments.support.folds import load_folds
from jaxnn.data import load

DATA = ["--data.name", "t.csv", "--data.target", "y"]
QUICK = ["--network", "dense(outputs)", "--learning-rate", "0.3", "--epochs", "10"]


def table(count=83):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(5, 3, count), "g": np.arange(count) // 4})
    frame["kind"] = ["rare" if i == 7 else "ab"[i % 2] for i in range(count)]
    frame["y"] = np.where(frame.a > 5, "high", "low")
    frame["price"], frame["w"] = 1000 * frame.a, 1 + frame.g % 3
    return frame


def test_every_example_is_in_one_test_part_and_prepared_by_the_others():
    frame = table()
    frame.to_csv("t.csv", index=False)
    data = DataConfig("t.csv", target=("y",), inputs=("a", "kind"), standardize="features")
    every = load_folds(Config(data=data), 5)
    names = {splits.train.feature_names for splits in every}
    assert [*map(sorted, names)] == [["a", "kind=a", "kind=b", "kind=rare"]]
    tested = []
    for splits in every:
        place = [splits.preparation.feature_names.index("a")]
        mean, deviation = (a[place] for a in splits.standardization)
        column = splits.train.feature_names.index("a")
        train_a, test_a = (p.x[:, column] * deviation + mean for p in (splits.train, splits.test))
        assert mean == pytest.approx(train_a.mean())
        assert {*np.round(train_a, 5)}.isdisjoint(np.round(test_a, 5))
        counts = np.bincount(splits.test.target)
        assert abs(counts[1] - (frame.y == "low").sum() / 5) < 1
        tested.append(test_a)
        rare = splits.train.feature_names.index("kind=rare")
        if splits.preparation.feature_names == splits.train.feature_names:
            assert splits.train.x[:, rare].any()
        else:  # no training example has it: in the test it counts as none
            assert not splits.train.x[:, rare].any()
            assert not splits.test.x[:, rare].any()
    np.testing.assert_allclose(np.sort(np.concatenate(tested)), np.sort(frame.a), rtol=1e-4)
    assert any(len(s.preparation.feature_names) == 3 for s in every)


@pytest.mark.parametrize("target", ["y", "price"])
def test_a_cross_validation_prints_and_keeps_means_with_intervals(target, capsys, monkeypatch):
    table().to_csv("t.csv", index=False)
    said = ["--data.name", "t.csv", "--data.target", target, "--data.inputs", "a", "kind"]
    said += ["--data.weights", "w", "--data.groups", "g", "--folds", "3", "--output", "run"]
    train.main([*said, *QUICK, "--metrics", "f1_each" if target == "y" else "rmse"])
    out, facts = capsys.readouterr().out, json.loads(Path("run/folds.json").read_text())
    name = "f1_each high" if target == "y" else "rmse"
    assert name in facts["metrics"]
    for metric in facts["metrics"].values():
        values = metric["values"]
        assert metric["mean"] == pytest.approx(np.mean(values))
        # t of two degrees of freedom leaves 2.5 % on each side of ±4.3027.
        expected = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
        assert metric["half_width"] == pytest.approx(expected, rel=1e-5)
        assert f"{metric['mean']:.4f} ± {metric['half_width']:.4f}" in out
    assert sum(fold["examples"]["test"] for fold in facts["folds"]) == 83
    first = load(
        "t.csv",
        target=target,
        inputs=["a", "kind"],
        weights="w",
        groups="g",
        fold=(0, 3),
        validation_fraction=0.1,
    )
    assert facts["folds"][0]["data"] == first.source.data
    assert facts["folds"][0]["split"] == first.source.split
    best = "accuracy" if target == "y" else "r2"
    assert facts["metrics"][best]["mean"] > 0.5
    for script in (predict, train):
        how = ["run", "t.csv"] if script is predict else ["--resume", "run"]
        assert "got a cross-validation" in error_of(script.main, how, monkeypatch, capsys)


def test_groups_stay_together_in_folds():
    frame = table()
    frame["place"] = frame.g
    frame.to_csv("t.csv", index=False)
    for target in ("y", "price"):
        options = {"target": target, "inputs": "place", "groups": "g"}
        parts = [load("t.csv", **options, fold=(index, 4)) for index in range(4)]
        groups = [{*part.test.x[:, 0]} for part in parts]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "folds to be at least 2"),
        (["--folds", "84", "--data.no-stratify"], "as there are examples, 83, got 84"),
        (["--folds", "50"], "as there are examples of each class, of 'low', "),
        (
            ["--folds", "22", "--data.groups", "g"],
            "as there are groups, 21, got 22: say --folds 21",
        ),
        (["--folds", "5", "--stream"], "leave --stream out"),
        (["--folds", "5", "--patience", "3"], "leave --patience out"),
        (["--folds", "5", "--gradient", "private"], "leave --gradient out"),
        (["--folds", "5", "--best", "f1"], "leave --best out"),
        (["--folds", "5", "--angles"], "expected folds without --angles"),
        (
            ["--folds", "5", "--layout", "fully_sharded"],
            "with layout replicated, got fully_sharded",
        ),
        (["--folds", "5", "--data.test", "t.csv"], "expected no test where there are folds"),
    ],
)
def test_folds_without_a_meaning_are_refused(options, message, monkeypatch, capsys):
    frame = table()
    frame["y"] = np.where(np.arange(83) < 43, "high", "low")
    frame.to_csv("t.csv", index=False)
    assert message in error_of(train.main, [*DATA, *QUICK, *options], monkeypatch, capsys)
    assert not Path("runs").exists()
