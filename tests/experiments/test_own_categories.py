"""A table with columns of many categories, from the command line."""

import csv
from pathlib import Path

import numpy as np
import pytest
from commands import error_of

from experiments import evaluate, export, inspect, map_data, predict, train
from experiments.support.runs import Run
from jaxnn.interop import load_exported

DATA = ["--data.name", "homes.csv", "--data.target", "dear", "--data.embed", "zip"]
SMALL = ["--learning-rate", "0.02", "--network", "columns", "dense(outputs)"]
QUICK = ["--epochs", "12", "--learning-rate", "0.02"]


@pytest.fixture(autouse=True)
def homes():
    """Whether a home is dear follows from its city and its zip."""
    random = np.random.default_rng(0)
    of = random.permutation(np.arange(600) % 60).tolist()
    rows = (f"{random.normal(50, 9):.1f},c{i},{i % 6},{'yn'[i % 4 + i % 6 > 4]}" for i in of)
    Path("homes.csv").write_text("\n".join(["size,city,zip,dear", *rows]) + "\n")
    Path("new.csv").write_text("zip,city,size\n3,c59,50\n3,nowhere,50\n")


@pytest.mark.filterwarnings("ignore:.*the vector of others")
def test_categories_are_learned_and_the_run_stands_alone(capsys):
    train.main([*DATA, *QUICK, "--output", "run"])
    out = capsys.readouterr().out
    assert "city    category  embedding of 60 and of others (30)" in out
    assert "1 features, standardised, and 2 embedded" in out
    assert Run(Path("run")).read_config().network[:2] == (
        "parallel(identity(), embedding(62, 30, weight_init='normal(0.1)'), "
        "embedding(8, 3, weight_init='normal(0.1)'))",
        "concatenate()",
    )
    assert Run(Path("run")).test()["accuracy"] > 0.95
    predict.main(["run", "new.csv"])
    first = capsys.readouterr().out.splitlines()
    Path("homes.csv").rename("moved.csv")
    predict.main(["run", "new.csv", "--output", "p.csv"])
    with Path("p.csv").open() as file:
        rows = list(csv.reader(file))
    assert [",".join(row) for row in rows] == first
    assert rows[1][0] == "n"
    capsys.readouterr()
    evaluate.main(["run"])  # what the run has kept
    evaluate.main(["run", "--file", "moved.csv"])
    kept, given = capsys.readouterr().out.splitlines()
    assert f"{Run(Path('run')).test()['accuracy'] * 100:.2f} %" in kept
    assert "600 examples" in given
    export.main(["run", "--to", "program"])
    program = load_exported(Path("program").read_bytes())
    assert program.inputs == ("float64[b, 1]", "int32[b]", "int32[b]")
    codes = program.facts["embedded"]
    x = (
        np.full((1, 1), 50.0),
        *(
            np.array([codes[name].index(value)], np.int32)
            for name, value in (("city", "c59"), ("zip", "3"))
        ),
    )
    answer = np.asarray(program(x)["probability"])[0]
    np.testing.assert_allclose(answer, [float(v) for v in rows[1][1:]], atol=1e-4)


def test_a_resumed_run_ends_with_the_same_numbers():
    quick = [*DATA, *SMALL]
    train.main([*quick, "--epochs", "4", "--schedule", "constant()", "--output", "whole"])
    train.main([*quick, "--epochs", "2", "--schedule", "constant()", "--output", "run"])
    train.main(["--resume", "run", "--epochs", "4"])
    assert Run(Path("run")).test() == Run(Path("whole")).test()


def test_mapped_and_streamed_codes_give_the_same_numbers(capsys):
    map_data.main([*DATA, "--output", "mapped"])
    quick = ["--epochs", "2", *SMALL]
    train.main([*DATA, *quick, "--output", "run"])
    train.main(["--data.name", "mapped", "--stream", *quick, "--output", "streamed"])
    whole, streamed = (Run(Path(name)).test() for name in ("run", "streamed"))
    assert streamed == pytest.approx(whole, rel=1e-5)


def test_folds_whose_training_parts_lack_a_category(capsys):
    text = Path("homes.csv").read_text()
    Path("homes.csv").write_text(text + "50.0,alone,3,y\n")
    with pytest.warns(UserWarning, match="1 cells of column 'city'.*the vector of others"):
        train.main([*DATA, *SMALL, "--folds", "2", "--epochs", "1", "--output", "folds"])
    assert "embedding" in capsys.readouterr().out


def test_a_page_about_a_network_with_embeddings():
    train.main([*DATA, "--data.inputs", "city", "zip", "--epochs", "1", *SMALL, "--output", "run"])
    inspect.main(["run", "--output", "pages", "--examples", "8", "--lanczos", "2"])
    assert Path("pages/inspect_run.png").is_file()


def test_a_network_without_the_embeddings_is_refused_with_the_way_out(monkeypatch, capsys):
    error = error_of(train.main, [*DATA, "--network", "dense(outputs)"], monkeypatch, capsys)
    assert '--network columns "dense(64)"' in error
    assert "city, zip" in error
