"""A table of one's own, trained on, evaluated and predicted for by one command each."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import error_of

from experiments import evaluate, predict, train
from experiments.support.runs import Run

QUICK = [
    "--epochs",
    "40",
    "--learning-rate",
    "0.02",
    "--network",
    "dense(16)",
    "relu()",
    "dense(outputs)",
]


def final_metrics(folder):
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["test"]


def homes(count=200):
    """Sizes with gaps, words, dates, truth values; whole prices, and what depends on them."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": random.normal(100, 30, count).round(1),
            "kind": random.choice(["flat", "house"], count),
            "built": pd.date_range("1990-01-01", periods=count, freq="37D").strftime("%Y-%m-%d"),
            "garden": random.choice(["yes", "no"], count),
        }
    )
    score = frame["size"] * 3000 + (frame.kind == "house") * 90_000
    frame["price"] = score.round().astype(int)
    frame["rent"] = (score / 300).round(2)
    frame["dear"] = (score > score.median()).map({True: "dear", False: "cheap"})
    frame["large"], frame["house"] = (frame["size"] > 100) * 1, (frame.kind == "house") * 1
    frame.loc[::17, "size"] = np.nan
    return frame


TASKS = {
    "one number": (["price"], "half_squared_error()", 1),
    "two numbers": (["price", "rent"], "half_squared_error()", 2),
    "classes": (["dear"], "softmax_cross_entropy()", 2),
    "labels": (["large", "house"], "sigmoid_binary_cross_entropy()", 2),
}
FEATURES = ["size", "kind", "built", "garden"]


@pytest.mark.parametrize("task", TASKS)
def test_a_table_alone_is_trained_on_evaluated_and_predicted_for(task, capsys):
    targets, loss, outputs = TASKS[task]
    homes()[FEATURES + targets].to_csv("my homes.csv", index=False)
    train.main(["--data.name", "my homes.csv", "--data.target", *targets, *QUICK])
    out = capsys.readouterr().out
    assert "kind    category  2 of one-hot (2)" in out
    assert f"--loss {loss}" in out
    config = Run(Path("runs/my homes")).read_config()
    assert config.loss == loss
    assert config.network[-1] == f"dense({outputs})"
    assert config.data.standardize == "features"
    assert config.data.standardize_target == ("number" in task)
    metrics = final_metrics("runs/my homes")
    assert metrics.get("r2", metrics.get("accuracy")) > 0.6

    Path("my homes.csv").rename("moved.csv")
    evaluate.main(["runs/my homes", "--file", "moved.csv"])
    assert "200 examples" in capsys.readouterr().out
    predict.main(["runs/my homes", "moved.csv", "--output", "p.csv"])
    with Path("p.csv").open() as file:
        rows = list(csv.DictReader(file))
    frame = pd.read_csv("moved.csv")
    if task == "classes":
        assert rows[0].keys() == {"class", "probability of cheap", "probability of dear"}
        assert np.mean([r["class"] == d for r, d in zip(rows, frame.dear, strict=True)]) > 0.7
    elif task == "labels":
        assert list(rows[0]) == [n for t in targets for n in (t, f"probability of {t}")]
        for name in targets:
            found = [int(row[name]) == value for row, value in zip(rows, frame[name], strict=True)]
            assert np.mean(found) > 0.7
    else:
        assert list(rows[0]) == targets
        for name in targets:
            assert np.corrcoef([float(row[name]) for row in rows], frame[name])[0, 1] > 0.85


def test_whole_numbers_with_a_loss_of_errors_are_a_regression(capsys):
    Path("t.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 5}" for i in range(60)))
    data = ["--data.name", "t.csv", "--data.target", "y", "--epochs", "1"]
    train.main([*data, "--loss", "huber()", "--output", "numbers"])
    assert set(final_metrics("numbers")) == {"loss", "r2", "mae"}
    train.main([*data, "--output", "classes"])
    assert set(final_metrics("classes")) == {"loss", "accuracy"}
    train.main([*data, "--loss", "huber()", "--data.task", "classification", "--output", "said"])
    assert set(final_metrics("said")) == {"loss", "accuracy"}


def test_what_is_said_is_not_changed_by_what_follows_from_the_data(capsys):
    Path("t.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 2}" for i in range(60)))
    said = ["--loss", "hinge()", "--network", "dense(1)", "--batch-size", "7", "--epochs", "2"]
    data = ["--data.name", "t.csv", "--data.target", "y", "--data.standardize", "none"]
    train.main([*data, *said, "--output", "run"])
    config = Run(Path("run")).read_config()
    assert (config.loss, config.network, config.batch_size, config.epochs) == (
        *("hinge()", ("dense(1)",)),
        *(7, 2),
    )
    assert config.data.standardize == "none"


def test_a_batch_larger_than_the_data_is_all_of_them(capsys):
    train.main(["wine_mlp", "--batch-size", "1000", "--epochs", "2", "--output", "run"])
    assert "--batch-size 125" in capsys.readouterr().out
    assert Run(Path("run")).read_config().batch_size == 125
    train.main(["--resume", "run", "--epochs", "3"])


def test_a_class_of_one_example_is_trained_on_where_the_message_says_how(monkeypatch, capsys):
    rows = [f"{i},{'one' if i == 7 else 'ab'[i % 2]}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["a,y", *rows]))
    command = ["--data.name", "t.csv", "--data.target", "y", "--epochs", "1"]
    assert "--data.no-stratify" in error_of(train.main, command, monkeypatch, capsys)
    train.main([*command, "--data.no-stratify", "--output", "run"])
    assert Run(Path("run")).read_record().preparation.class_names == ("a", "b", "one")


def test_a_test_file_of_ones_own(capsys):
    frame = homes()
    frame[:150].to_csv("a.csv", index=False)
    frame[150:].to_parquet("b.parquet")
    inputs = ["--data.inputs", *FEATURES, "--data.target", "dear", "--data.test", "b.parquet"]
    train.main(["--data.name", "a.csv", *inputs, *QUICK, "--output", "run"])
    assert "135 training, 15 validation and 50 test examples" in capsys.readouterr().out
    evaluate.main(["run"])
    assert "50 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say --data.target"),
        (["--data.target", "Price"], "did you mean 'price'"),
        (["--data.target", "note"], "--data.no-stratify"),
        (["--data.target", "price"], "column 'note': expected numbers, dates or at most"),
        (["--data.target", "price", "--data.kinds", "note=text"], "expected kinds as COLUMN=KIND"),
        (["--data.target", "price", "--data.decimal", ";"], "unknown decimal ';'"),
        (["--data.target", "price", "--data.encoding", "utf-99"], "unknown encoding 'utf-99'"),
        (["--data.target", "price", "--data.missing", "mean"], "unknown missing 'mean'"),
        (["--data.target", "large", "--data.test-fraction", "0.001"], "--data.test-fraction"),
        (
            ["--data.target", "large", "house", "--loss", "softmax_cross_entropy()"],
            '--loss "sigmoid_binary_cross_entropy()"',
        ),
        (["--data.target", "large", "--network", "dense(3)"], 'a last layer "dense(outputs)"'),
        (["--data.target", "large", "--data.test", "none.csv"], "none.csv: expected a file"),
    ],
)
def test_messages_name_the_option_that_mends_them(options, message, monkeypatch, capsys):
    frame = homes(60)
    frame["note"] = [f"note {i}" for i in range(60)]
    if options[:2] == ["--data.target", "large"]:
        frame = frame.drop(columns="note")
    frame.to_csv("t.csv", index=False)
    assert message in error_of(train.main, ["--data.name", "t.csv", *options], monkeypatch, capsys)
    assert not Path("runs").exists()
