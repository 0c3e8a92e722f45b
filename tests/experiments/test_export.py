"""A run as a file of compiled code: it answers as `experiments.predict` does."""

import csv
import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import export, predict, train
from experiments.support.command_line import run_script
from experiments.support.config import Config, DataConfig
from experiments.support.runs import Run, Trained, initial_state, record_of
from jaxnn import data, interop

pytest.importorskip("flatbuffers", reason="jax.export writes by flatbuffers")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of one epoch, in large batches, since how well it answers does not matter."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    options = ["--network", "dense(10)", "--batch-size", "512", "--epochs", "1"]
    train.main(["digits_mlp", *options, "--output", str(folder)])
    return folder


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


@pytest.fixture
def prices(tmp_path):
    """A network on a table, as it starts."""
    table = DataConfig(
        name=str(regression(tmp_path / "prices.csv")),
        target=("price",),
        standardize="features",
        standardize_target=True,
    )
    config = Config(data=table, loss="half_squared_error()", network=("dense(1)",), batch_size=8)
    splits = config.load()
    state = initial_state(config, splits)
    return Trained(Run(tmp_path), config, record_of(config, splits), 0, state)


def test_a_regression_keeps_its_units_and_names_the_features_that_columns_become(prices):
    program = interop.load_exported(export.exported(prices, ("cpu", "tpu")))
    assert program.platforms == ("cpu", "tpu")
    assert program.facts["encoded"]
    features = program.facts["features"]
    assert features == ["time", "color=blue", "color=red", "size", "size missing"]
    assert (program.inputs, program.outputs) == ("float64[b, 5]", {"numbers": "float64[b, 1]"})
    rows = np.array([[1_700_000_000 + s, 1.0, 0.0, 0.25 * s, 0.0] for s in (0, 1, 59)])
    preparation, (params, state) = prices.preparation, prices.train_state[:2]
    x = jnp.asarray(preparation.standardization.apply(rows))
    expected = preparation.target_standardization.invert(
        np.asarray(prices.config.layers.predict(params, state, x))
    )
    assert len({*expected.ravel().tolist()}) == 3
    np.testing.assert_allclose(program(rows)["numbers"], expected, rtol=1e-6)


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
