import csv
import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import sweep
from experiments.support.config import load_config
from experiments.support.held_out import evaluate_on
from experiments.sweep import combinations, interval, main
from jaxnn.training import TrainState

COMMON = ["wine_mlp", "--epochs", "2", "--seeds", "3", "--devices", "1", "--output", "out"]


def test_a_sweep_leaves_one_tidy_file_and_a_picture(tmp_path, capsys):
    options = ["--learning-rate", "0.001", "0.01", "--data.validation-fraction", "0.1"]
    main([*COMMON, *options])
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} == {
        "loss",
        "validation_loss",
        "validation_accuracy",
        "test_loss",
        "test_accuracy",
    }
    # Three seeds with two rates, three metrics after each of two epochs and two at the end.
    assert len(rows) == 3 * 2 * (3 * 2 + 2)
    places = {tuple(v for k, v in row.items() if k != "value") for row in rows}
    assert len(places) == len(rows)
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 0
    printed = capsys.readouterr().out
    assert "3 seeds × 2 settings = 6 networks" in printed
    last = [float(r["value"]) for r in rows if (r["metric"], r["epoch"]) == ("loss", "2")]
    first_setting = last[::2]
    assert f"{np.mean(first_setting):.4f} ±" in printed
    with pytest.raises(FileExistsError, match=r"expected out/sweep\.csv not to exist"):
        main(COMMON)


def test_the_scores_of_a_sweep_are_those_of_one_evaluation_in_the_same_units():
    config = dataclasses.replace(load_config("diabetes_regression"), epochs=1)
    splits = config.load()
    trials = sweep.train(config, splits, [0], [{"learning_rate": 0.01}], jax.devices()[:1])
    found = sweep.tested(config, splits, trials)
    params, state = jax.tree.map(lambda a: a[0, 0], (trials.params, trials.state))
    one = TrainState(params, state, (), jax.random.key(0), jax.numpy.int32(0))
    expected, _ = evaluate_on(config, splits.preparation, one, splits.test)
    assert expected["mae"] > 10
    assert {name: v[0, 0] for name, v in found.items()} == pytest.approx(expected, rel=1e-5)


def test_an_interval_is_that_of_the_t_distribution_over_finite_values():
    values = np.array([1.0, 2.0, 4.0, np.nan])
    mean, half = interval(values)
    low, high = stats.ttest_1samp(values[:3], 0).confidence_interval(0.95)
    np.testing.assert_allclose((mean - half, mean + half), (low, high))
    assert interval(np.array([3.0]))[0] == 3.0
    assert np.isnan(interval(np.array([3.0]))[1])


def test_every_combination_is_taken():
    chosen = {"learning_rate": (0.1, 0.2), "weight_decay": (0.0, 1.0), "clip_norm": ()}
    assert combinations(chosen) == [
        {"learning_rate": rate, "weight_decay": decay} for rate in (0.1, 0.2) for decay in (0.0, 1)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rate", "0.1", "0.1"], "expected every learning_rate once"),
        (["--learning-rate", "0"], r"expected learning_rate to lie in \(0, inf\)"),
        (["--weight-decay", "-1"], "expected weight_decay to lie in"),
        (["--seeds", "0"], "expected seeds to be at least 1"),
        (["--gradient", "private"], "expected gradient to be manual or crosscheck, got private"),
        (["--devices", "1000"], "expected at most"),
    ],
)
def test_wrong_options_are_refused_before_any_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main([*COMMON, *options])
    assert not (tmp_path / "out").exists()


def test_a_sweep_takes_what_follows_from_the_data(tmp_path):
    options = ["--network", "dense(outputs)", "--batch-size", "0", "--loss", "auto"]
    main([*COMMON, *options])
    assert (tmp_path / "out" / "sweep.csv").is_file()
