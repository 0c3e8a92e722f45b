"""A run as a file of compiled code: it answers as `experiments.predict` does."""

import csv
import io
import sys

import jax
import numpy as np
import pytest

from experiments import export, predict, train
from experiments.support.command_line import run_script
from jaxnn import data, interop

pytest.importorskip("flatbuffers", reason="jax.export writes by flatbuffers")


def run_of(folder, *arguments):
    train.main([*arguments, "--epochs", "1", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of one epoch, in large batches, since how well it answers does not matter."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    return run_of(folder, "digits_mlp", "--network", "dense(10)", "--batch-size", "512")


def table_of(run, path, capsys):
    capsys.readouterr()
    predict.main([str(run), str(path)])
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def columns(rows, start):
    return np.array([[float(v) for n, v in row.items() if n.startswith(start)] for row in rows])


def test_classes_and_probabilities_are_those_of_predict(digits, tmp_path, capsys):
    export.main([str(digits), "--to", str(tmp_path / "digits.export")])
    printed = capsys.readouterr().out
    assert "takes float" in printed
    assert "returns probability, float32[b, 10] (0, 1, 2" in printed
    program = interop.load_exported((tmp_path / "digits.export").read_bytes())
    x = data.load("digits").test.x[:7].reshape(7, 8, 8, 1)
    np.savez(tmp_path / "x.npz", x=x)
    rows = table_of(digits, tmp_path / "x.npz", capsys)
    dtype = np.float64 if "float64" in program.inputs else np.float32
    answers = program(x.astype(dtype))
    assert [row["class"] for row in rows] == list(map(str, answers["class"].tolist()))
    np.testing.assert_allclose(answers["probability"], columns(rows, "probability"), atol=6e-5)


def regression(path):
    """Seconds since 1970, a category, and a number with gaps, which float32 would not keep."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "color", "size", "price"])
        for row in range(60):
            seconds, size = 1_700_000_000 + row, random.normal()
            color = ["red", "blue"][row % 2]
            price = 1000 + 10 * row + 3 * size
            writer.writerow([seconds, color, "" if row % 7 == 0 else size, price])
    return path


def test_a_regression_keeps_its_units_and_names_the_features_that_columns_become(tmp_path, capsys):
    table = regression(tmp_path / "prices.csv")
    about = ["--data.name", str(table), "--data.target", "price", "--data.standardize-target"]
    run = run_of(tmp_path / "run", *about)
    export.main([str(run), "--to", str(tmp_path / "prices.export"), "--platforms", "cpu", "tpu"])
    program = interop.load_exported((tmp_path / "prices.export").read_bytes())
    assert program.platforms == ("cpu", "tpu")
    assert program.facts["encoded"]
    features = program.facts["features"]
    assert features == ["time", "color=blue", "color=red", "size", "size missing"]
    assert (program.inputs, program.outputs) == ("float64[b, 5]", {"numbers": "float64[b, 1]"})
    rows = [[1_700_000_000 + s, 1.0, 0.0, 0.25 * s, 0.0] for s in (0, 1, 59)]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["size", "time", "color"])
        writer.writerows([[row[3], int(row[0]), "blue"] for row in rows])
    shown = columns(table_of(run, tmp_path / "new.csv", capsys), "price")
    numbers = program(np.array(rows))["numbers"]
    assert len({*np.ravel(numbers).tolist()}) == 3
    np.testing.assert_allclose(numbers, shown, rtol=1e-6)


def test_an_existing_file_and_a_program_that_answers_otherwise_are_refused(
    digits, tmp_path, monkeypatch, capsys
):
    there = tmp_path / "digits.export"
    there.write_text("mine")

    def error():
        monkeypatch.setattr(sys, "argv", ["export", str(digits), "--to", str(there)])
        with pytest.raises(SystemExit):
            run_script(export.main)
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        return printed

    assert "choose another name or overwrite it" in error()
    assert there.read_text() == "mine"
    there.unlink()
    exported = export.exported

    def of_other_weights(trained, platforms):
        state = trained.train_state
        params = jax.tree.map(lambda a: a + np.arange(a.shape[-1], dtype=a.dtype), state.params)
        return exported(trained._replace(train_state=state._replace(params=params)), platforms)

    monkeypatch.setattr(export, "exported", of_other_weights)
    assert "the file predicts another" in error()
    assert not there.exists()
