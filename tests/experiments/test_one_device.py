"""Options of one device: micro-batches, half precision, data on disk, and what memory they take."""

import json

import numpy as np
import pytest

from experiments import map_data, memory, train

COMMON = ["wine_mlp", "--epochs", "2", "--gradient", "manual"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [record["loss"] for record in metrics(folder) if "epoch" in record]


def test_micro_batches_and_streaming_change_no_number(tmp_path):
    train.main([*COMMON, "--output", "plain"])
    train.main([*COMMON, "--micro-batches", "3", "--output", "parts"])
    map_data.main(["wine_mlp", "--output", "on_disk"])
    data = ["--data.name", "on_disk", "--data.standardize", "none"]
    train.main([*COMMON, *data, "--stream", "--output", "streamed"])
    for folder in ("parts", "streamed"):
        np.testing.assert_allclose(losses(tmp_path / folder), losses(tmp_path / "plain"), rtol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_is_evaluated(precision, tmp_path):
    train.main([*COMMON, "--precision", precision, "--output", "half"])
    first, second, test = metrics(tmp_path / "half")
    assert second["loss"] < first["loss"]
    assert np.isfinite(test["test"]["loss"])
    assert ("skipped_steps" in first) == (precision == "float16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "float8"], "unknown precision 'float8': did you mean"),
        (["--precision", "bfloat16", "--gradient", "autodiff"], "gradient to be manual where"),
        (["--micro-batches", "0"], "expected micro_batches to be at least 1"),
        (
            ["--micro-batches", "2", "--network", "batch_norm()", "dense(3)"],
            "accumulate: expected layers .* but 0 batch_norm mixes",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.main([*COMMON, *options, "--output", "out"])
    assert not (tmp_path / "out").exists()


def test_memory_is_told_as_foretold_and_as_compiled(capsys):
    network = ["--network", *["skip(dense(13), gelu())"] * 4, "dense(3)"]
    options = ["--batch-size", "100", "--parts", "4", "--blocks", "2"]
    memory.main(["wine_mlp", *network, *options])
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines() if " MB" in line]
    names = [row[1] for row in rows]
    assert names == ["as it is", "2 recomputed blocks", "4 micro-batches"]
    kept = [float(next(cell for cell in row[2:] if cell).split()[0]) for row in rows]
    assert kept[1] < kept[0]
    assert kept[2] < kept[0]
