"""The command lines from end to end, in this process."""

import csv
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import error_of
from sklearn.datasets import load_wine

from experiments import check, evaluate, predict, train
from experiments.support.runs import Run, restore

# Two dense layers with dropout and batch norm, an order and noise that a seed draws, a smaller last
# batch, a schedule and a validation set: all that a resumed run could get wrong.
WINE = [
    "wine_mlp",
    *("--network", "dense(8)", "batch_norm()", "relu()", "dropout(0.2)", "dense(3)"),
    *("--schedule", "cosine()", "--data.validation-fraction", "0.1"),
]


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """A run of four epochs."""
    folder = tmp_path_factory.mktemp("wine") / "run"
    train.main([*WINE, "--epochs", "4", "--output", str(folder)])
    return folder


def wine_table(path, rows=5, target=False):
    """The first wines as a .csv, the columns in another order than the network has them."""
    bunch = load_wine()
    names = list(reversed(bunch.feature_names)) + (["kind"] if target else [])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for x, label in zip(bunch.data[:rows], bunch.target[:rows], strict=True):
            writer.writerow(
                [*map(repr, map(float, x[::-1])), *([f"class_{label}"] if target else [])]
            )
    return path


def test_a_run_folder_holds_configuration_metrics_pictures_and_checkpoints(wine):
    assert {path.name for path in wine.iterdir()} == {
        ".lock",
        "arrays.npz",
        "best",
        "checkpoints",
        "config.toml",
        "confusion_matrix.png",
        "learning_curves.png",
        "metrics.jsonl",
        "run.json",
    }
    *epochs, test = metrics(wine)
    assert [record["epoch"] for record in epochs] == [1, 2, 3, 4]
    assert all(
        {"loss", "validation_loss", "validation_accuracy"} < set(record) for record in epochs
    )
    assert set(test["test"]) == {"loss", "accuracy"}
    assert Run(wine).read_config().schedule == "cosine()"
    assert (wine / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_killed_after_a_checkpoint_does_its_last_epochs_again(wine, tmp_path):
    folder = tmp_path / "run"
    train.main([*WINE, "--epochs", "4", "--output", str(folder), "--save-seconds", "0"])
    shutil.rmtree(folder / "checkpoints" / "4")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "lo')
    train.main([f"--resume={folder}"])
    assert metrics(folder) == metrics(wine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "expected seed to stay 0, got 1"),
        (["--batch-size", "8"], "expected batch_size to stay 16, got 8"),
        (["--epochs", "2"], "expected epochs to be at least the 4"),
        (["--output", "elsewhere"], "expected no output"),
    ],
)
def test_what_a_resumed_run_cannot_change_is_named(wine, arguments, message, monkeypatch, capsys):
    before = metrics(wine)
    error = error_of(train.main, ["--resume", wine, *arguments], monkeypatch, capsys)
    assert message in error
    assert metrics(wine) == before
    assert not Path("elsewhere").exists()


def test_an_existing_run_folder_is_refused_and_stays_as_it_is(wine, monkeypatch, capsys):
    before = (wine / "metrics.jsonl").read_bytes()
    error = error_of(train.main, ["wine_mlp", "--output", wine], monkeypatch, capsys)
    assert "expected output to be a new or empty folder" in error
    assert "--resume" in error
    assert (wine / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wine_mpl"], "did you mean 'wine_mlp'"),
        (["wine_mlp", "--network", "dense(5)"], "expected network to return 3 outputs"),
        (["wine_mlp", "--loss", "ctc()"], "ctc: expected a loss of one label or number for each"),
        (
            ["wine_mlp", "--loss", "sequence_loss(hinge())"],
            "sequence_loss of hinge: expected a loss",
        ),
        (["wine_mlp", "--network", "projection(3)"], "expected prediction to be an array"),
        (["wine_mlp", "--network", "serial(a=relu(), a=tanh())"], "every option once, got a 2"),
        (["wine_mlp", "--learning-rate", "-1"], "expected learning_rate to lie in (0, inf)"),
        (["wine_mlp", "--optimizer", "adam(b3=1)"], "unknown option of optimizer adam 'b3'"),
        (["wine_mlp", "--optimizer", "adam(b1='x')"], "optimizer adam: cannot work with"),
        (["wine_mlp", "--gradient", "manuel"], "did you mean 'manual'"),
        (["wine_mlp", "--patience", "3"], "expected validation data where patience is given"),
        (["wine_mlp", "--data.name", "whine"], "did you mean 'wine'"),
        (["--data.name", "nan.csv", "--data.target", "y"], "nan.csv, line 3, column 'a'"),
        (["--data.name", "nan.csv", "--data.target", "z"], "unknown column 'z'"),
        (["--data.name", "none.csv", "--data.target", "y"], "none.csv: expected a file"),
        (["--resume", "runs/none"], "expected runs/none to be a run folder"),
    ],
)
def test_wrong_options_are_named_before_a_run_folder_is_made(
    arguments, message, monkeypatch, capsys
):
    Path("nan.csv").write_text("a,y\n1,0.5\nx,0.5\n3,0.25\n")
    assert message in error_of(train.main, arguments, monkeypatch, capsys)
    assert not Path("runs").exists()


def test_an_output_that_cannot_be_made_is_named(monkeypatch, capsys):
    Path("file").write_text("")
    error = error_of(train.main, ["wine_mlp", "--output", "file/run"], monkeypatch, capsys)
    assert "expected output to be a folder that can be made" in error


def test_a_run_that_diverges_says_where_and_keeps_the_last_good_state(monkeypatch, capsys):
    arguments = ["wine_mlp", "--optimizer", "sgd()", "--learning-rate", "1e30", "--output", "run"]
    error = error_of(train.main, arguments, monkeypatch, capsys)
    assert "training diverged at step 1: the loss is nan" in error
    assert "the first gradient not finite is that of 2 dense weight" in error
    assert "the state after epoch 0 is kept in run/checkpoints" in error
    evaluate.main(["run"])
    assert "run after epoch 0 on wine test" in capsys.readouterr().out


def test_about_ten_plain_lines_show_the_progress_where_there_is_no_terminal(capsys):
    progress = train.Progress(0, 1000)
    for number in range(1, 1001):
        progress.show(number, "loss 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch    1/1000: loss 1"
    assert lines[-1] == "epoch 1000/1000: loss 1"
    assert len(lines) == 11


def test_evaluate_gives_the_test_metrics_of_the_run_again(wine, capsys):
    evaluate.main([str(wine), "--output", "pictures"])
    out = capsys.readouterr().out
    accuracy = metrics(wine)[-1]["test"]["accuracy"]
    assert f"{wine} after epoch 4 on wine test, 53 examples" in out
    assert f"accuracy {100 * accuracy:.2f} %" in out
    assert Path("pictures/confusion_matrix.png").is_file()


def test_evaluate_on_a_file(wine, tmp_path, capsys):
    evaluate.main(
        [str(wine), "--file", str(wine_table(tmp_path / "t.csv", 90, True)), "--target", "kind"]
    )
    assert "90 examples" in capsys.readouterr().out


def test_predictions_are_those_of_the_network_and_are_never_overwritten(
    wine, tmp_path, monkeypatch, capsys
):
    table = wine_table(tmp_path / "wines.csv")
    predict.main([str(wine), str(table), "--output", "out.csv"])
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    config, splits, _, state = restore(Run(wine))
    x = splits.standardization.apply(load_wine().data[:5].astype(np.float32))
    logits = np.asarray(
        config.layers.predict(state.params, state.state, jnp.asarray(x)), np.float64
    )
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = [[float(row[f"probability of class_{k}"]) for k in range(3)] for row in rows]
    np.testing.assert_allclose(given, expected, atol=1e-4)
    assert [row["class"] for row in rows] == [f"class_{k}" for k in expected.argmax(1)]
    before = Path("out.csv").read_bytes()
    error = error_of(predict.main, [wine, table, "--output", "out.csv"], monkeypatch, capsys)
    assert "expected out.csv not to exist" in error
    assert Path("out.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alcohol\n1\n", "unknown column"),
        ("", "expected a header row"),
        (None, "expected a file, got no such file"),
    ],
)
def test_a_file_that_predict_cannot_use_is_named(wine, text, message, monkeypatch, capsys):
    if text is not None:
        Path("bad.csv").write_text(text)
    error = error_of(predict.main, [wine, "bad.csv"], monkeypatch, capsys)
    assert "bad.csv" in error
    assert message in error


def test_a_users_table_is_trained_evaluated_and_predicted(capsys):
    noise = np.random.default_rng(0).normal(size=(60, 2))
    lines = [f"{a:.4f},{b:.4f},{3 * a - b:.4f}" for a, b in noise]
    Path("homes.csv").write_text("\n".join(["size,rooms,price", *lines]))
    network = ["--network", "dense(1)", "--loss", "huber()", "--data.validation-fraction", "0.2"]
    data = ["--data.name", "homes.csv", "--data.target", "price"]
    train.main(
        [*network, *data, "--epochs", "150", "--learning-rate", "0.1", "--gradient", "manual"]
    )
    assert metrics("runs/homes")[-1]["test"]["r2"] > 0.99
    Path("new.csv").write_text("rooms,size\n0,1\n1,0\n")
    predict.main(["runs/homes", "new.csv", "--output", "prices.csv"])
    head, *prices = Path("prices.csv").read_text().split()
    assert head == "price"
    np.testing.assert_allclose([float(p) for p in prices], [3.0, -1.0], atol=0.1)


def test_projected_cross_entropy_trains_evaluates_and_predicts_as_softmax_cross_entropy(
    tmp_path, capsys
):
    table = wine_table(tmp_path / "wines.csv")
    found = {}
    for loss, last in (("softmax", "dense(3)"), ("projected", "projection(3)")):
        run = str(tmp_path / loss)
        options = ["--network", "dense(8)", "relu()", last, "--loss", f"{loss}_cross_entropy()"]
        train.main(["wine_mlp", *options, "--epochs", "3", "--output", run])
        predict.main([run, str(table), "--output", f"{loss}.csv"])
        *epochs, test = metrics(run)
        found[loss] = [epoch["loss"] for epoch in epochs] + [test["test"]["loss"]]
    np.testing.assert_allclose(found["projected"], found["softmax"], rtol=1e-4)
    assert Path("projected.csv").read_text() == Path("softmax.csv").read_text()


def test_the_mean_absolute_error_of_several_outputs_is_in_the_units_of_each(tmp_path, capsys):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 3))
    target = x @ random.normal(size=(3, 2)) * [1.0, 1000.0] + [5.0, -300.0]
    np.savez("homes.npz", x=x, target=target)
    options = ["--network", "dense(2)", "--loss", "half_squared_error()", "--epochs", "1"]
    data = ["--data.name", "homes.npz", "--data.standardize-target"]
    train.main(["wine_mlp", *options, *data, "--output", "run"])
    config, splits, _, state = restore(Run(Path("run")))
    y = config.layers.predict(state.params, state.state, jnp.asarray(splits.test.x))
    errors = np.abs(
        splits.target_standardization.invert(np.asarray(y))
        - splits.target_standardization.invert(splits.test.target)
    )
    assert errors.mean(0)[1] > 100 * errors.mean(0)[0]
    assert metrics("run")[-1]["test"]["mae"] == pytest.approx(errors.mean(), rel=1e-5)


def test_named_parts_are_in_the_summary_and_the_checkpoint_of_a_run(tmp_path, capsys):
    network = "serial(stem=dense(8), act=relu(), head=dense(3))"
    train.main(["wine_mlp", "--network", network, "--epochs", "2", "--output", "run", "--angles"])
    out = capsys.readouterr().out
    assert "stem dense" in out
    assert "head dense" in out
    config, _, epoch, state = restore(Run(Path("run")))
    assert epoch == 2
    assert repr(config.layers) == network
    assert state.params.head["weight"].shape == (8, 3)
    assert set(metrics("run")[0]["angles"]) == {"stem dense", "head dense"}


@pytest.mark.parametrize("script", [evaluate.main, predict.main])
def test_a_run_without_a_readable_checkpoint_is_named(wine, tmp_path, script, monkeypatch, capsys):
    table = wine_table(tmp_path / "wines.csv")
    arguments = ["copy", table] if script is predict.main else ["copy"]
    shutil.copytree(wine, "copy")
    for path in Path("copy").rglob("*"):
        if path.is_file() and {"checkpoints", "best"} & {*path.parts}:
            path.write_bytes(b"{")
    assert "damaged" in error_of(script, arguments, monkeypatch, capsys)
    shutil.rmtree("copy/checkpoints")
    shutil.rmtree("copy/best")
    assert "found none" in error_of(script, arguments, monkeypatch, capsys)
    assert not Path("copy/checkpoints").exists()


def test_evaluate_refuses_what_is_no_run(monkeypatch, capsys):
    assert "expected a run folder" in error_of(evaluate.main, [], monkeypatch, capsys)
    assert "run folder with config.toml" in error_of(evaluate.main, ["."], monkeypatch, capsys)


@pytest.mark.parametrize("config", ["wine_mlp", "breast_cancer_logistic", "diabetes_regression"])
def test_check_finds_that_the_three_gradients_agree(config, capsys):
    check.main([config, "--examples", "4"])
    out = capsys.readouterr().out
    assert "float64" in out
    assert "backprop against numerical" in out
    assert "all gradients agree" in out


def test_check_exits_with_1_where_gradients_disagree(monkeypatch, capsys):
    wrong = check.autodiff

    def doubled(network, loss):
        gradient = wrong(network, loss)

        def run(*arguments):
            value, gradients = gradient(*arguments)
            return value, check.jax.tree.map(lambda g: 2 * g, gradients)

        return run

    monkeypatch.setattr(check, "autodiff", doubled)
    with pytest.raises(SystemExit) as info:
        check.main(["wine_mlp", "--no-numerical", "--examples", "4"])
    assert info.value.code == 1
    assert "gradients DISAGREE" in capsys.readouterr().out


def test_check_refuses_more_examples_than_there_are(monkeypatch, capsys):
    error = error_of(check.main, ["wine_mlp", "--examples", "1000"], monkeypatch, capsys)
    assert "expected examples to be at most the 125" in error


@pytest.mark.parametrize(
    ("script", "names"),
    [
        (train.main, ["CONFIG is", "--list {configs,", "--resume", "--data.target"]),
        (evaluate.main, ["--split"]),
    ],
)
def test_help_names_options_and_configurations(script, names, capsys):
    with pytest.raises(SystemExit) as info:
        script(["--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names)


@pytest.mark.parametrize(
    ("optimizer", "rate", "schedule"),
    [
        ("schedule_free_adamw", "0.01", "constant"),
        ("muon(ns_steps=3)", "0.01", "reduce_on_plateau(patience=1, factor=0.5)"),
        ("noisy_sgd", "0.01", "warmup_cosine_decay_schedule"),
    ],
)
def test_optimizers_of_optax_contrib_train_resume_and_are_evaluated(
    optimizer, rate, schedule, capsys
):
    options = ["--optimizer", optimizer, "--learning-rate", rate, "--schedule", schedule]
    short = ["--network", "dense(3)", "--data.standardize", "features"]
    best = ["--best", "last", "--crosscheck-every", "0", "--data.validation-fraction", "0.2"]
    few = ["--batch-size", "50"]
    train.main(["wine_mlp", *short, *options, *best, *few, "--epochs", "2", "--output", "run"])
    capsys.readouterr()
    evaluate.main(["run", "--weights", "last", "--split", "validation"])
    *epochs, _ = metrics("run")
    assert f"loss {epochs[-1]['validation_loss']:.4g}" in capsys.readouterr().out
    train.main(["--resume", "run", "--epochs", "3"])
    assert [epoch["epoch"] for epoch in metrics("run")[:-1]] == [1, 2, 3]


@pytest.mark.parametrize("change", [["--optimizer", "momo"], ["--schedule", "reduce_on_plateau"]])
def test_a_private_run_refuses_what_is_told_the_loss(change, monkeypatch, capsys):
    error = error_of(
        train.main, ["wine_mlp", "--gradient", "private", *change], monkeypatch, capsys
    )
    assert "not told the loss where gradient is private" in error
