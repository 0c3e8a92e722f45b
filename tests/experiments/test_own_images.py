"""A folder of images of one's own, trained on, evaluated and predicted for by one command each."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import error_of
from PIL import Image

from experiments import evaluate, map_data, predict, train
from experiments.support.command_line import FOLLOWING_IMAGES, take_config
from jaxnn.data import load

QUICK = ["--network", "flatten()", "dense(outputs)", "--epochs", "3", "--learning-rate", "0.02"]


@pytest.fixture
def pets(tmp_path):
    """Dark cats and bright dogs."""
    random = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            image = random.integers(150 * k, 150 * k + 100, (9, 12), np.uint8)
            Image.fromarray(image).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


def test_a_run_on_a_folder_stands_alone(pets, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    train.main(["--data.name", str(pets), "--output", str(run), *QUICK])
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test"]["accuracy"] == 1
    gone = pets.rename(tmp_path / "gone")
    evaluate.main([str(run)])
    evaluate.main([str(run), "--file", str(gone)])
    assert "40 examples" in capsys.readouterr().out
    predict.main([str(run), str(gone / "dog"), "--output", "of.csv"])
    rows = list(csv.DictReader(Path("of.csv").read_text().splitlines()))
    assert [row["file"] for row in rows[:11]] == [f"{i}.png" for i in range(11)]
    assert {row["class"] for row in rows} == {"dog"}
    table = tmp_path / "list.csv"
    table.write_text("where,kind\ngone/cat/1.png,cat\ngone/dog/1.png,dog\n")
    options = ["--file", table, "--inputs", "where", "--target", "kind", "--metrics", "f1"]
    evaluate.main([str(run), *map(str, options)])
    assert "f1 1" in capsys.readouterr().out
    (gone / "cat" / "bad.png").write_bytes(b"no image")
    error = error_of(predict.main, [run, gone / "cat" / "bad.png"], monkeypatch, capsys)
    assert "bad.png: expected an image that can be decoded" in error


def test_a_table_of_images_and_numbers_is_a_regression(pets, tmp_path):
    rows = [f"cat/{i}.png,{i}.5" for i in range(20)]
    (pets / "ages.csv").write_text("\n".join(["file,age", *rows]))
    run = tmp_path / "run"
    options = ["--data.name", "pets/ages.csv", "--data.images", "file", "--data.target", "age"]
    train.main([*options, "--data.size", "4", "4", "--output", str(run), *QUICK])
    predict.main([str(run), str(pets / "cat" / "1.png"), "--output", "one.csv"])
    assert Path("one.csv").read_text().startswith("file,age\n1.png,")
    predict.main([str(run), str(pets / "ages.csv"), "--output", "all.csv"])
    (pets / "cat").rename(tmp_path / "gone")
    evaluate.main([str(run)])
    assert len(Path("all.csv").read_text().splitlines()) == 21


def test_the_network_of_images_fits_their_size(pets):
    name, config, _ = take_config(["--data.name", str(pets)], auto=True)
    assert (name, config) == ("pets", FOLLOWING_IMAGES)
    network = config.resolved(load(pets, flatten=False)).network
    assert network == (
        *("conv(32, (3, 3))", "relu()", "conv(32, (3, 3))", "relu()", "max_pool(2)"),
        *("flatten()", "dropout(0.25)", "dense(64)", "relu()", "dense(2)"),
    )
    flat = config.resolved(load(pets)).network
    assert flat == ("dense(64)", "relu()", "dense(32)", "relu()", "dense(2)")


def test_a_mapped_folder_of_images_is_streamed_and_its_run_takes_images(pets, tmp_path, capsys):
    map_data.main(["--data.name", str(pets), "--output", "mapped", "--data.size", "4", "4"])
    assert "mapped: 28 training examples" in capsys.readouterr().out
    _, config, _ = take_config(["--data.name", "mapped"], auto=True)
    assert config.network == FOLLOWING_IMAGES.network
    run = str(tmp_path / "run")
    train.main(["--data.name", "mapped", "--stream", "--output", run, *QUICK])
    predict.main([run, str(pets / "dog" / "1.png")])
    assert "\n1.png,dog," in capsys.readouterr().out.replace("\r", "")


@pytest.fixture
def grays(tmp_path):
    """A table of images, of the price that follows from how bright they are, and of weights."""
    random, rows = np.random.default_rng(0), ["file,price,kind,w"]
    for i in range(40):
        image = random.integers(5 * i, 5 * i + 30, (6, 6), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        kind = "bright" if (i >= 20) == (i % 3 > 0) else "dark"  # wrong where the weight is 0
        rows.append(f"{i}.png,{2000 + 100 * i},{kind},{i % 3}")
    Path("grays.csv").write_text("\n".join(rows))
    return ["--data.name", "grays.csv", "--data.images", "file"]


@pytest.mark.parametrize(
    "options", [["--data.target", "price"], ["--data.target", "kind", "--data.weights", "w"]]
)
def test_what_follows_from_images_is_the_same_where_they_are_mapped(grays, options):
    how = [*QUICK, "--epochs", "40"]
    train.main([*grays, *options, *how, "--output", "one"])
    map_data.main([*grays, *options, "--output", "mapped"])
    train.main(["--data.name", "mapped", "--stream", *how, "--output", "two"])
    one, two = (Path(name, "metrics.jsonl").read_text().splitlines()[-1] for name in ("one", "two"))
    one, two = (json.loads(line)["test"] for line in (one, two))
    assert one == pytest.approx(two, rel=1e-4)
    assert one.get("accuracy", one.get("r2")) > 0.8  # without weights it cannot be above 2/3


def test_weights_of_images_stand_in_any_table_of_them(grays, monkeypatch, capsys):
    splits = load("grays.csv", images="file", target="kind", weights="w", test="grays.csv")
    for part in (splits.train, splits.test):
        bright = part.x.mean(1) > np.median(splits.train.x.mean(1))
        np.testing.assert_array_equal(part.weights > 0, part.target == np.where(bright, 0, 1))
    rows = Path("grays.csv").read_text().splitlines()
    Path("other.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    with pytest.warns(UserWarning, match="other.csv: no 'w': all examples count the same"):
        load("grays.csv", images="file", target="kind", weights="w", test="other.csv")
    for weights, message in (("v", "unknown column 'v'"), ("kind", "weights beside the target")):
        options = [*grays, "--data.target", "kind", "--data.weights", weights]
        assert message in error_of(train.main, options, monkeypatch, capsys)
