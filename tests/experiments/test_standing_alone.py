"""A run folder stands alone: it needs no data to predict, and notices where they have changed."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import error_of

from experiments import evaluate, map_data, predict, train
from experiments.support.command_line import take_config
from experiments.support.config import DataConfig, ReadingConfig, to_table
from experiments.support.runs import Run, open_trained
from jaxnn.data.tables.reading import Reading

# That both gradients agree is the business of other tests, and has to be compiled.
UNCHECKED = ["wine_mlp", "--crosscheck-every", "0"]
WINE = [*UNCHECKED, "--network", "dense(3)", "--data.standardize", "features"]


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def pets(path, rows=range(100), kinds=("cat", "dog"), columns=("a", "b", "kind")):
    """Two clouds of numbers with their names."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(100, 2)) * [1, 30] + [0, 500]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            is_dog = row % 2
            a, b = numbers[row] + is_dog * np.array([4, 0])
            found = {"a": a, "b": b, "kind": kinds[is_dog]}
            writer.writerow([found[column] for column in columns])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with pets.csv, and a run on it."""
    folder = tmp_path_factory.mktemp("pets")
    table = pets(folder / "pets.csv")
    data = ["--data.name", str(table), "--data.target", "kind", "--data.validation-fraction", "0.2"]
    network = ["--network", "dense(2)", "--learning-rate", "0.05", "--epochs", "30"]
    train.main([*UNCHECKED, *network, *data, "--output", str(folder / "run")])
    assert metrics(folder / "run")[-1]["test"]["accuracy"] > 0.9
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """The same at another place, whose run does not know where its table is."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(trained / "run", folder)
    run = Run(folder)
    config = run.read_config()
    table = to_table(config)
    data = {**table["data"], "name": str(tmp_path / "pets.csv")}
    moved = type(config.data)(**data)
    run.write_config(type(config)(**{**vars_of(config), "data": moved}))
    return folder


def vars_of(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def accuracy_of(arguments, capsys):
    capsys.readouterr()
    evaluate.main([*map(str, arguments)])
    return capsys.readouterr().out.split("accuracy ")[1].split(" %")[0]


def test_a_run_holds_all_that_is_known_of_its_data(trained):
    record = json.loads((trained / "run" / "run.json").read_text())
    assert record["preparation"]["class_names"] == ["cat", "dog"]
    assert record["preparation"]["feature_names"] == ["a", "b"]
    assert record["examples"] == {"train": 50, "validation": 20, "test": 30}
    assert record["network"] == "serial(dense(2))"
    assert {"python", "jaxnn", "jax", "numpy"} <= record["versions"].keys()
    assert len(record["data"]["data"]) == len(record["data"]["split"]) == 64
    with np.load(trained / "run" / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["mean"].dtype == np.float64
        assert arrays["test.x"].shape == (30, 2)


def test_without_its_table_a_run_predicts_and_evaluates_as_before(trained, copy, capsys):
    expected = f"{100 * metrics(copy)[-1]['test']['accuracy']:.2f}"
    assert accuracy_of([copy], capsys) == expected
    new = pets(Path("new.csv"), rows=[0, 1, 3], columns=("b", "a"))
    predict.main([str(copy), str(new)])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["class"] for row in rows] == ["cat", "dog", "dog"]


def test_without_its_table_a_split_that_is_not_kept_is_refused(copy, monkeypatch, capsys):
    error = error_of(evaluate.main, [copy, "--split", "train"], monkeypatch, capsys)
    assert "pets.csv: expected a file, got no such file; the run has no train examples" in error
    assert "--file" in error


@pytest.mark.parametrize(
    "changed",
    [{"kinds": ("zebra", "dog")}, {"rows": range(98)}, {"rows": [*range(100), 0]}],
    ids=["class renamed", "rows removed", "row appended"],
)
def test_changed_data_are_refused_and_with_a_flag_warned_of(
    copy, changed, monkeypatch, capsys, recwarn
):
    pets(copy.parent / "pets.csv", **changed)
    before = (copy / "metrics.jsonl").read_bytes()
    for script, arguments in (
        (evaluate.main, [copy]),
        (train.main, ["--resume", copy, "--epochs", "40"]),
    ):
        error = error_of(script, arguments, monkeypatch, capsys)
        assert "the data are not those that the run was trained on" in error
        assert "bring it back as it was" in error
    assert (copy / "metrics.jsonl").read_bytes() == before
    expected = f"{100 * metrics(copy)[-1]['test']['accuracy']:.2f}"
    assert accuracy_of([copy, "--allow-changes"], capsys) == expected
    assert any("the data are not those" in str(warning.message) for warning in recwarn)
    predict.main([str(copy), str(pets(Path("new.csv"), rows=[0, 1]))])  # needs none of it
    assert [row[:3] for row in capsys.readouterr().out.splitlines()[1:]] == ["cat", "dog"]


def test_a_column_that_the_run_does_not_use_may_change(trained, copy, capsys):
    pets(copy.parent / "pets.csv")
    assert accuracy_of([copy], capsys)
    train.main(["--resume", str(copy), "--epochs", "31"])
    assert [r.get("epoch") for r in metrics(copy)] == [*range(1, 32), None]


def test_an_edited_configuration_is_noticed(copy, monkeypatch, capsys, recwarn):
    path = copy / "config.toml"
    text = path.read_text()
    path.write_text(f"# a comment\n{text}")
    accuracy_of([copy], capsys)
    path.write_text(text.replace('standardize = "features"', 'standardize = "none"'))
    new = pets(Path("new.csv"), rows=[0, 1])
    for script, arguments in (
        (evaluate.main, [copy]),
        (predict.main, [copy, new]),
        (train.main, ["--resume", copy]),
    ):
        error = error_of(script, arguments, monkeypatch, capsys)
        assert "the configuration is not the one that the run was trained with" in error
    predict.main([str(copy), str(new), "--allow-changes"])
    assert any("it has been edited" in str(warning.message) for warning in recwarn)
    path.write_text(text.replace("dense(2)", "dense(2, 'zeros')"))
    error = error_of(predict.main, [copy, new], monkeypatch, capsys)
    assert "it has been edited" in error


@pytest.mark.filterwarnings("ignore:.*it has been changed")
def test_a_record_that_cannot_be_read_is_named(copy, monkeypatch, capsys):
    new = pets(Path("new.csv"), rows=[0, 1])
    for text in ("{", "[]", '{"format": 3}', "5", "[" * 100_000, '{"format": 1e999}'):
        (copy / "run.json").write_text(text)
        error = error_of(predict.main, [copy, new, "--allow-changes"], monkeypatch, capsys)
        assert re.search(r"run\.json: expected (JSON|a JSON object|a record of format 2)", error)


def as_of_version_0_1(folder):
    """The files that jaxnn 0.1 wrote."""
    for name in ("run.json", "arrays.npz"):
        (folder / name).unlink()
    shutil.rmtree(folder / "best")
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.split("[run]")[0].replace('best = "loss"\n', ""))


def test_a_run_of_version_0_1_is_read_with_a_warning_and_made_whole_by_resuming(
    copy, capsys, recwarn
):
    as_of_version_0_1(copy)
    pets(copy.parent / "pets.csv")
    assert accuracy_of([copy], capsys)
    said = [str(warning.message) for warning in recwarn]
    assert any("is a run of jaxnn 0.1, without a record of its data" in s for s in said)
    assert any(f"--resume {copy}" in s for s in said)
    train.main(["--resume", str(copy)])
    (copy.parent / "pets.csv").unlink()
    assert accuracy_of([copy], capsys)


def test_fine_tuning_changes_the_optimiser_and_goes_on_with_the_parameters(
    copy, monkeypatch, capsys
):
    pets(copy.parent / "pets.csv")
    change = ["--optimizer", "sgd(momentum=0.9)", "--learning-rate", "1e-6", "--epochs", "32"]
    error = error_of(train.main, ["--resume", copy, *change], monkeypatch, capsys)
    assert "expected optimizer to stay 'adam()', got 'sgd(momentum=0.9)'; --fine-tune lets" in error
    error = error_of(
        train.main, ["--resume", copy, "--fine-tune", *change[:4]], monkeypatch, capsys
    )
    assert "expected epochs to be more than the 30" in error
    before = open_trained(copy, weights="last")[0].train_state.params
    train.main(["--resume", str(copy), "--fine-tune", *change])
    after = open_trained(copy, weights="last")[0]
    assert after.epoch == 32
    np.testing.assert_allclose(
        after.train_state.params[0]["weight"], before[0]["weight"], atol=1e-4
    )
    assert [r.get("epoch") for r in metrics(copy)] == [*range(1, 33), None]
    # What was tuned is resumed as any run, and where it began is found again.
    whole = metrics(copy)
    for epoch in ("31", "32"):
        shutil.rmtree(copy / "checkpoints" / epoch, ignore_errors=True)
    train.main(["--resume", str(copy)])
    for first, again in zip(whole, metrics(copy), strict=True):
        assert first | again == {**first, "seconds": again["seconds"]} if "epoch" in first else True
    assert accuracy_of([copy], capsys)


@pytest.mark.parametrize("suffix", [".csv", ".CSV"])
def test_columns_are_found_by_name_whatever_the_case_of_the_suffix(trained, suffix, capsys):
    reversed_table = pets(Path(f"rev{suffix}"), columns=("kind", "b", "a"))
    assert float(accuracy_of([trained / "run", "--file", reversed_table], capsys)) > 90


@pytest.mark.parametrize("suffix", [".npz", ".NPZ"])
def test_named_columns_of_an_array_are_found_by_name(trained, suffix, capsys):
    with pets(Path("p.csv")).open() as file:
        rows = list(csv.DictReader(file))
    x = np.array([[float(row["b"]), float(row["a"])] for row in rows])
    labels = np.array([[row["kind"] == "cat"] for row in rows])  # one column, and of truth values
    names = {"feature_names": np.array(["b", "a"]), "class_names": np.array(["dog", "cat"])}
    with open(f"p{suffix}", "wb") as file:
        np.savez(file, x=x, kind=labels, **names)
    assert float(accuracy_of([trained / "run", "--file", f"p{suffix}"], capsys)) > 90


@pytest.mark.parametrize("rows", [[1], [1, 3, 5], range(4)], ids=["one", "one class", "both"])
def test_a_file_of_a_few_examples_is_evaluated(trained, rows, capsys):
    assert accuracy_of([trained / "run", "--file", pets(Path("t.csv"), rows=rows)], capsys)


def test_a_class_that_the_run_does_not_know_is_refused(trained, monkeypatch, capsys):
    table = pets(Path("t.csv"), kinds=("cat", "zebra"))
    error = error_of(evaluate.main, [trained / "run", "--file", table], monkeypatch, capsys)
    assert "t.csv: expected the classes to be among cat, dog, got zebra" in error


def test_arrays_by_their_names_and_labels_that_are_a_part_of_the_classes(capsys):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 10
    x = random.normal(size=(60, 2, 3)) + labels[:, None, None]
    test = {"x_test": x[:3], "y_test": np.array([[0], [3], [9]])}
    np.savez("mnist.npz", x_train=x, y_train=labels.reshape(-1, 1), **test)
    data = ["--data.name", "mnist.npz", "--data.inputs", "x_train", "--data.target", "y_train"]
    train.main([*UNCHECKED, "--network", "dense(10)", *data, "--epochs", "1", "--output", "run"])
    assert accuracy_of(
        ["run", "--file", "mnist.npz", "--inputs", "x_test", "--target", "y_test"], capsys
    )
    predict.main(["run", "mnist.npz", "--inputs", "x_test"])
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("task", "flatten"), [("classes", "--data.flatten"), ("numbers", "--data.no-flatten")]
)
def test_mapped_data_keep_their_preparation_and_original_units(task, flatten, capsys):
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 3)) * [1, 100, 1e4] + [0, 0, 1e6]
    score = x[:, 0] * 50 + x[:, 1]
    target = (score > 0).astype(int) if task == "classes" else 1000 + 7 * score
    np.savez("d.npz", x=x, target=target, feature_names=np.array(["p", "q", "r"]))
    data = ["--data.name", "d.npz", "--data.standardize", "features", flatten]
    loss = ["--network", "dense(2)"]
    if task == "numbers":
        data += ["--data.standardize-target"]
        loss = ["--network", "dense(1)", "--loss", "half_squared_error()"]
    map_data.main(["wine_mlp", *data, "--output", "mapped"])
    same = ["--data.name", "mapped", "--data.standardize", "none", "--stream"]
    options = [*UNCHECKED, *loss, "--epochs", "40", "--learning-rate", "0.05"]
    train.main([*options, *same, "--output", "run"])
    shutil.rmtree("mapped")
    test = metrics("run")[-1]["test"]
    evaluate.main(["run", "--file", "d.npz"])
    out = capsys.readouterr().out
    if task == "classes":
        assert float(out.split("accuracy ")[-1].split(" %")[0]) > 95
    else:
        assert test["r2"] > 0.99
        assert float(out.split("R² ")[-1].split(",")[0]) > 0.99
        assert test["mae"] < 0.2 * target.std()
        predict.main(["run", "d.npz", "--output", "p.csv"])
        predicted = np.loadtxt("p.csv", skiprows=1)
        assert np.corrcoef(predicted, target)[0, 1] > 0.99
        np.testing.assert_allclose(predicted.mean(), target.mean(), rtol=0.05)


def test_seconds_since_1970_are_learnt_from(capsys):
    seconds = 1.7e9 + np.random.default_rng(0).permutation(200)
    rows = (f"{s:.0f},{(s - 1.7e9) * 2:.1f}" for s in seconds)
    Path("t.csv").write_text("\n".join(["when,y", *rows]))
    data = ["--data.name", "t.csv", "--data.target", "y", "--data.standardize", "features"]
    options = ["--network", "dense(1)", "--loss", "half_squared_error()", "--epochs", "60"]
    data += ["--data.standardize-target", "--data.task", "regression"]
    options += ["--learning-rate", "0.1", "--schedule", "cosine()", "--weight-decay", "0"]
    train.main([*UNCHECKED, *options, *data])
    assert metrics("runs/t")[-1]["test"]["r2"] > 0.99999


def test_json_has_no_infinity(capsys):
    rows = "\n".join(f"{i},5.5" for i in range(40))
    Path("t.csv").write_text(f"a,y\n{rows}")
    data = ["--data.name", "t.csv", "--data.target", "y", "--data.validation-fraction", "0.2"]
    train.main(["diabetes_regression", "--epochs", "2", *data, "--output", "run"])

    def refuse(constant):
        raise AssertionError(constant)

    for line in Path("run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert Run(Path("run")).epochs()


def test_a_run_that_lost_its_patience_stays_stopped(capsys):
    data = ["--data.validation-fraction", "0.3", "--learning-rate", "1", "--patience", "2"]
    train.main([*WINE, *data, "--epochs", "30", "--output", "run"])
    epochs = len(metrics("run")) - 1
    assert epochs < 30
    for _ in range(2):
        train.main(["--resume", "run"])
        assert len(metrics("run")) - 1 == epochs
    assert "stopped early" in capsys.readouterr().out
    train.main(["--resume", "run", "--patience", "3"])
    assert len(metrics("run")) - 1 > epochs


def test_the_best_epoch_is_tested_and_predicted_with(capsys):
    options = [*WINE, "--data.validation-fraction", "0.3", "--learning-rate", "1"]
    train.main([*options, "--epochs", "8", "--output", "run"])
    *epochs, _ = metrics("run")
    best = min(epochs, key=lambda record: record["validation_loss"])["epoch"]
    assert best < 8
    out = capsys.readouterr().out
    assert f"test with the weights of epoch {best}, the best in validation" in out
    evaluate.main(["run"])
    assert f"run after epoch {best} on" in capsys.readouterr().out
    evaluate.main(["run", "--weights", "last"])
    assert "run after epoch 8 on" in capsys.readouterr().out
    train.main([*options, "--epochs", "2", "--output", "run2", "--best", "last"])
    assert not Path("run2/best").exists()
    assert "the best in validation" not in capsys.readouterr().out


def test_the_metric_of_the_best_can_be_named(monkeypatch, capsys):
    options = [*WINE, "--data.validation-fraction", "0.3", "--learning-rate", "1", "--epochs", "4"]
    train.main([*options, "--best", "accuracy", "--output", "run"])
    *epochs, _ = metrics("run")
    best = max(epochs, key=lambda record: record["validation_accuracy"])["epoch"]
    assert f"the weights of epoch {best}," in capsys.readouterr().out
    error = error_of(train.main, [*options, "--best", "acuracy"], monkeypatch, capsys)
    assert "unknown metric of classes 'acuracy': did you mean 'accuracy'" in error
    error = error_of(train.main, [*options, "--best", "f1_each"], monkeypatch, capsys)
    assert "expected best to be a metric of one number" in error
    error = error_of(train.main, [*WINE, "--best", "accuracy"], monkeypatch, capsys)
    assert "--data.validation-fraction" in error


def test_metrics_are_chosen_kept_and_evaluated_and_any_of_them_tells_the_best(trained, capsys):
    options = [*WINE, "--data.validation-fraction", "0.3", "--epochs", "3"]
    train.main([*options, "--metrics", "f1_each", "log_loss", "--best", "roc_auc", "--output", "r"])
    *epochs, test = metrics("r")
    assert test["test"]["log_loss"] == pytest.approx(test["test"]["loss"], rel=1e-4)
    assert set(test["test"]["f1_each"]) == {"class_0", "class_1", "class_2"}
    best = max(epochs, key=lambda record: record["validation_roc_auc"])["epoch"]
    assert f"the weights of epoch {best}," in capsys.readouterr().out
    one_class = pets(Path("t.csv"), rows=[1, 3])
    names = ["--metrics", "roc_auc", "recall_each"]
    evaluate.main([str(trained / "run"), "--file", str(one_class), *names])
    out = capsys.readouterr().out
    assert "roc_auc –" in out
    assert "roc_auc is not defined: either none or all of the examples are 'cat'" in out
    assert "recall_each: cat –, dog 1" in out


def test_errors_in_validation_are_in_the_units_of_the_target(capsys):
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2))
    np.savez("homes.npz", x=x, target=x.sum(1) * 1000)
    data = ["--data.name", "homes.npz", "--data.standardize-target", "--metrics", "rmse"]
    split = ["--data.validation-fraction", "0.3", "--learning-rate", "1e-6", "--epochs", "1"]
    network = ["--network", "dense(1)", "--loss", "half_squared_error()"]
    train.main([*UNCHECKED, *network, *data, *split, "--output", "run"])
    epoch, _ = metrics("run")
    found = {name: epoch[f"validation_{name}"] for name in ("mae", "rmse")}
    evaluate.main(["run", "--split", "validation"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"mae {found['mae']:.4g}, rmse {found['rmse']:.4g}" in line
    assert 100 < found["mae"] < found["rmse"]


def test_one_row_of_a_regression_is_evaluated_and_its_r2_is_null(capsys):
    frame = "a,y\n" + "".join(f"{i / 7},{i * 3.3}\n" for i in range(40))
    Path("t.csv").write_text(frame)
    train.main(["--data.name", "t.csv", "--data.target", "y", "--epochs", "1", "--output", "run"])
    Path("one.csv").write_text("a,y\n1.5,4.4\n")
    capsys.readouterr()
    evaluate.main(["run", "--file", "one.csv"])
    out = capsys.readouterr().out
    assert "r2 –" in out
    assert "r2 is not defined: all examples have the same target" in out


def test_the_command_that_resumes_is_quoted(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a run"
    train.main([*WINE, "--epochs", "1", "--output", str(folder)])
    error = error_of(train.main, [*WINE, "--output", folder], monkeypatch, capsys)
    assert f"--resume '{folder}'" in error


@pytest.mark.parametrize("loss", ["softmax_cross_entropy()", "sigmoid_binary_cross_entropy()"])
def test_balanced_classes_count_the_same_and_the_run_keeps_their_weights(loss, capsys):
    outputs = "dense(1)" if loss.startswith("sigmoid") else "dense(2)"
    table = pets(Path("t.csv"), rows=[*range(0, 100, 2), *range(1, 30, 2)])
    data = ["--data.name", str(table), "--data.target", "kind", "--data.test-fraction", "0.2"]
    options = ["--network", outputs, "--loss", loss, "--class-weights", "balanced"]
    train.main([*UNCHECKED, *options, *data, "--epochs", "1", "--output", "run"])
    run = Run(Path("run"))
    splits = run.read_config().load()
    cats, dogs = np.bincount(splits.train.target)
    found = run.read_config().loss_function
    if outputs == "dense(1)":
        assert found.pos_weight == pytest.approx(cats / dogs, rel=1e-5)
    else:
        n = cats + dogs
        assert found.class_weights == pytest.approx((n / (2 * cats), n / (2 * dogs)), rel=1e-5)
    train.main(["--resume", "run", "--epochs", "2"])
    assert len(metrics("run")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["balance"], "unknown class_weights 'balance': did you mean 'balanced'"),
        (["balanced", "--loss", "mean_squared_error()"], "a loss that can weigh"),
    ],
)
def test_weights_that_cannot_be_are_refused(change, message, monkeypatch, capsys):
    assert message in error_of(train.main, [*WINE, "--class-weights", *change], monkeypatch, capsys)


def test_a_run_folder_in_place_of_a_configuration_says_how_to_resume(trained, monkeypatch, capsys):
    error = error_of(train.main, [trained / "run"], monkeypatch, capsys)
    assert (
        f"is a run folder; to continue it: python -m experiments.train --resume {trained}" in error
    )


@pytest.mark.parametrize("name", ["run.json", "arrays.npz"])
def test_an_edited_record_is_refused_and_with_a_flag_warned_of(copy, name, monkeypatch, capsys):
    path = copy / name
    if name == "run.json":
        path.write_text(path.read_text().replace('"cat"', '"tac"'))
    else:
        with np.load(path) as arrays:
            np.savez(path, **{**arrays, "mean": arrays["mean"] + 1})
    error = error_of(evaluate.main, [copy], monkeypatch, capsys)
    assert f"{name}: the record of the data is not the one of the training" in error
    with pytest.warns(UserWarning, match="it has been changed"):
        open_trained(copy, allow_changes=True)


@pytest.mark.parametrize("text", ["[" * 100_000, "5"])
def test_a_line_of_the_metrics_that_is_none_is_named(copy, text):
    path = copy / "metrics.jsonl"
    path.write_text(f"{text}\n{path.read_text()}")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: expected"):
        Run(copy).epochs()


def test_a_config_nested_too_deep_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text("network = " + "[" * 10_000)
    with pytest.raises(ValueError, match="to be TOML"):
        Run(tmp_path).read_config()


def test_another_table_is_read_as_that_of_training_unless_said():
    data = DataConfig(decimal=",", header="no", kinds=("a=drop",))
    assert data.reading(ReadingConfig(header="yes")) == Reading(decimal=",", header="yes")


def test_a_folder_of_arrays_needs_no_configuration(tmp_path):
    _, config, _ = take_config(["--data.name", str(tmp_path)], auto=True)
    assert config.data.validation_fraction == 0
    _, config, _ = take_config(["--data.name", "pets.csv"], auto=True)
    assert config.data.validation_fraction > 0
