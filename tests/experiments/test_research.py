"""Experiments on what a backward pass gives beyond the gradient, from end to end and in part."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import error_of
from helpers import normal

import jaxnn as nn
from experiments import inspect, train
from experiments.studies import (
    critical_batch_size,
    feedback,
    influence,
    private,
    second_order,
    uncertainty,
)
from experiments.support.config import DataConfig

WINE = DataConfig("wine", standardize="features")


def blocks():
    return nn.serial(nn.dense(8), nn.tanh()), nn.serial(nn.dense(8), nn.tanh()), nn.dense(3)


def written(folder, name):
    assert (folder / f"{name}.png").stat().st_size > 10_000
    return json.loads((folder / f"{name}.json").read_text())


def test_feedback_rules_are_compared_by_accuracy_and_angle(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "PROBLEMS", {"wine": feedback.Problem(WINE, blocks, 32, 3, 0.01)})
    names = ("backprop", "feedback alignment", "direct feedback alignment")
    monkeypatch.setattr(feedback, "RULES", {n: feedback.RULES[n] for n in names})
    by_stage = {"forward-forward": feedback.LOCAL_RULES["forward-forward"]}
    monkeypatch.setattr(feedback, "LOCAL_RULES", by_stage)
    feedback.main(["--problems", "wine", "--output", str(tmp_path)])
    found = written(tmp_path, "feedback")["wine"]
    assert all(len(rule["accuracy"]) == 3 for rule in found.values())
    assert max(max(a) for a in found["backprop"]["angles"].values()) < 0.1
    for rule in names[1:]:
        *hidden, last = found[rule]["angles"].values()
        assert max(last) < 0.1
        assert min(min(a) for a in hidden) > 1
    assert list(found)[-1] == "forward-forward"
    assert max(max(a) for a in list(found["forward-forward"]["angles"].values())[-1:]) < 0.1
    with pytest.raises(FileExistsError):
        feedback.main(["--problems", "wine", "--epochs", "1", "--output", str(tmp_path)])


def test_an_unknown_problem_is_named():
    with pytest.raises(ValueError, match="unknown problem 'digits': did you mean"):
        feedback.main(["--problems", "digits", "--output", "pictures"])


def test_methods_are_compared_per_epoch_and_per_second(tmp_path, monkeypatch):
    problem = second_order.Problem(WINE, lambda: nn.serial(*blocks()), 32, 3)
    monkeypatch.setattr(second_order, "PROBLEMS", {"wine": problem})
    methods = {m: dict(list(s.items())[1:2]) for m, s in second_order.METHODS.items()}
    monkeypatch.setattr(second_order, "METHODS", methods)
    second_order.main(["--problems", "wine", "--output", str(tmp_path)])
    found = written(tmp_path, "second_order")["wine"]
    assert list(found) == ["SGD", "Adam", "K-FAC", "K-FAC and Adam"]
    for run in found.values():
        assert len(run["losses"]) == len(run["seconds"]) == 3
        assert np.isfinite(run["losses"]).all()
        assert (np.diff(run["seconds"]) > 0).all()


def test_larger_batches_take_fewer_steps_and_more_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(critical_batch_size, "RATES", (0.25,))
    monkeypatch.setattr(critical_batch_size, "MOST_EXAMPLES", 60_000)
    sizes = ["--batch-sizes", "4", "32", "512"]
    arguments = [*sizes, "--data", "digits", "--target", "0.5", "--output", str(tmp_path)]
    critical_batch_size.main(arguments)
    found = written(tmp_path, "critical_batch_size")
    few, some, many = found["steps"].values()
    assert few >= some >= many
    assert 4 * few < 512 * many
    assert found["critical_batch_size"] > 0


def test_accuracy_is_drawn_against_the_budget(tmp_path, monkeypatch):
    pytest.importorskip("dp_accounting")
    config = tmp_path / "wine_private.toml"
    config.write_text(
        'network = ["dense(3)"]\ngradient = "private"\nepochs = 3\nbatch_size = 32\n'
        "[privacy]\ndelta = 0.01\n[data]\n"
        'name = "wine"\nstandardize = "features"\n'
    )
    options = ["--noise", "8", "2", "--reference", "wine_mlp", "--output", str(tmp_path)]
    private.main([str(config), *options])
    points = written(tmp_path, "private")["points"]
    assert [p["noise_multiplier"] for p in points] == [8, 2]
    assert points[0]["epsilon"] < points[1]["epsilon"]
    with pytest.raises(ValueError, match="expected a configuration with private gradients"):
        private.main(["wine_mlp", *options])


def test_canaries_audit_the_budget(tmp_path, capsys):
    """Of a network that can learn them by heart, with far less noise than is any good."""
    pytest.importorskip("dp_accounting")
    config = tmp_path / "wine_private.toml"
    config.write_text(
        'network = ["dense(200)", "tanh()", "dense(3)"]\ngradient = "private"\nepochs = 60\n'
        'batch_size = 64\nlearning_rate = 1.0\noptimizer = "sgd"\nmicro_batches = 2\n'
        "[privacy]\nclip_norm = 2.0\ndelta = 1e-5\nquantile = 0.9\ncount_noise = 4.0\n"
        'per_layer = true\n[data]\nname = "wine"\nstandardize = "features"\n'
    )
    options = ["--noise", "0.05", "--reference", "wine_mlp", "--canaries", "50"]
    private.main([str(config), *options, "--output", str(tmp_path)])
    (point,) = written(tmp_path, "private")["points"]
    assert 0 < point["audited"] < point["epsilon"]
    assert "canaries show at least" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--privacy.count-noise", "4"], "count_noise only with privacy.quantile"),
        (["--privacy.quantile", "0.5", "--privacy.count-noise", "0"], "expected count_noise to"),
    ],
)
def test_noise_of_counts_is_not_passed_over(options, message, tmp_path, monkeypatch, capsys):
    options = ["wine_mlp", "--gradient", "private", *options, "--output", str(tmp_path / "run")]
    assert message in error_of(train.main, options, monkeypatch, capsys)


def test_training_writes_budget_and_angles_to_its_metrics(tmp_path):
    pytest.importorskip("dp_accounting")
    options = ["--gradient", "private", "--epochs", "2", "--angles", "--micro-batches", "2"]
    options += ["--privacy.quantile", "0.5", "--privacy.count-noise", "4"]
    folder = tmp_path / "run"
    train.main(["wine_mlp", *options, "--output", str(folder)])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, second, _ = lines
    assert 0 < first["epsilon"] < second["epsilon"]
    assert max(second["angles"].values()) < 0.1  # the hand-derived gradient is the gradient
    with pytest.raises(ValueError, match="expected private training to stay private"):
        train.main(["--resume", str(folder), "--gradient", "manual", "--epochs", "3"])


LOOKS = ("--examples", "24", "--lanczos", "5")


def test_a_configuration_is_trained_and_inspected_on_one_page(tmp_path):
    inspect.main(["digits_logistic", "--epochs", "1", *LOOKS, "--output", str(tmp_path)])
    assert (tmp_path / "inspect_digits_logistic.png").stat().st_size > 50_000


def test_a_run_is_inspected_before_and_after_its_training(tmp_path):
    folder = tmp_path / "run"
    network = ["--network", "dense(8)", "batch_norm()", "relu()", "dropout(0.5)", "dense(3)"]
    train.main(["wine_mlp", *network, "--epochs", "1", "--output", str(folder)])
    inspect.main([str(folder), *LOOKS, "--output", str(tmp_path)])
    assert (tmp_path / "inspect_run.png").stat().st_size > 50_000


def test_a_configuration_in_half_precision_is_inspected(tmp_path):
    network = ["--network", "dense(8)", "relu()", "dense(3)", "--precision", "bfloat16"]
    run = str(tmp_path / "run")
    train.main(["wine_mlp", *network, "--epochs", "1", "--output", run])
    inspect.main([run, *LOOKS, "--output", str(tmp_path)])
    assert (tmp_path / "inspect_run.png").stat().st_size > 50_000


def test_without_a_name_inspect_says_what_it_wants():
    with pytest.raises(ValueError, match="expected the name of a configuration or a run folder"):
        inspect.main(["--output", "pictures"])


def test_dead_and_saturated_units_are_counted():
    """Of four units of a ReLU two never fire; half of the slopes of the others are 0."""
    network = nn.serial(nn.dense(4), nn.relu(), nn.dense(2))
    params, state = network.init(jax.random.key(0), jnp.zeros((1, 1)))
    first = {"weight": jnp.array([[1.0, -1.0, 0.0, 0.0]]), "bias": jnp.array([0.0, 0, -1, -1])}
    x = jnp.array([[-2.0], [-1.0], [1.0], [2.0]])
    flow = inspect.flow_through(
        network, nn.half_squared_error(), (first, *params[1:]), state, x, jnp.zeros((4, 2))
    )
    assert flow.dead == {"1 relu": 0.5}
    assert flow.saturated == {"1 relu": 0.75}
    assert list(flow.activations) == ["0 dense", "1 relu", "2 dense"]
    np.testing.assert_allclose(flow.activations["0 dense"][:, 0], x[:, 0])
    np.testing.assert_allclose(flow.deltas["2 dense"], flow.activations["2 dense"])


def in_precision(dtype):
    return lambda network: nn.with_precision(network, nn.POLICIES[dtype])


@pytest.mark.parametrize(
    "wrap",
    [
        in_precision("bfloat16"),
        in_precision("float16"),
        nn.feedback_alignment,
        nn.kolen_pollack,
        nn.recompute,
        lambda network: nn.serial(nn.serial(in_precision("float16")(network))),
    ],
)
def test_units_deltas_and_names_are_seen_through_whatever_stands_around_the_layers(wrap):
    network = nn.serial(first=nn.dense(4), act=nn.relu(), head=nn.dense(2))
    wrapped = wrap(network)
    x = jnp.array([[-2.0], [-1.0], [1.0], [2.0]])
    params, state = wrapped.init(jax.random.key(0), x)
    first = {"weight": jnp.array([[1.0, -1.0, 0.0, 0.0]]), "bias": jnp.array([0.0, 0, -1, -1])}
    weights = iter([first["bias"], first["weight"], *jax.tree.leaves(params)[2:]])
    params = jax.tree.map(lambda _: next(weights), params)
    arguments = (nn.half_squared_error(), params, state, x, jnp.zeros((4, 2)))
    flow = inspect.flow_through(wrapped, *arguments)
    places = list(flow.activations)
    assert [place.split(".")[-1] for place in places] == ["first dense", "act relu", "head dense"]
    assert list(flow.dead.values()) == [0.5]
    assert list(flow.saturated.values()) == [0.75]
    deltas = flow.deltas[places[-1]].astype(float)
    np.testing.assert_allclose(deltas, flow.activations[places[-1]].astype(float), rtol=0.01)


def test_a_straight_through_estimator_is_looked_at_as_one_by_the_slope_that_it_passes_on():
    network = nn.serial(nn.dense(4), nn.straight_through(nn.relu(), nn.identity()), nn.dense(2))
    x = normal(0, (4, 3), jnp.float32)
    params, state = network.init(jax.random.key(0), x)
    target = jnp.zeros((4, 2))
    flow = inspect.flow_through(network, nn.half_squared_error(), params, state, x, target)
    assert list(flow.activations) == ["0 dense", "1 straight_through", "2 dense"]
    assert flow.dead == flow.saturated == {"1 straight_through": 0.0}


def test_layers_inside_of_a_scan_are_looked_at_as_one():
    network = nn.serial(nn.repeat(nn.serial(nn.dense(3), nn.tanh()), 2), nn.dense(2))
    x = normal(0, (4, 3), jnp.float32)
    params, state = network.init(jax.random.key(0), x)
    loss = nn.half_squared_error()
    flow = inspect.flow_through(network, loss, params, state, x, jnp.zeros((4, 2)))
    assert set(flow.activations) == {"0 repeat", "1 dense"}


def test_wrong_labels_are_found_and_images_shown_behind_predictions(tmp_path, monkeypatch):
    data = DataConfig("digits", flatten=False, standardize="all")
    small = influence.Problem(data, lambda: nn.serial(nn.flatten(), nn.dense(10)), 60)
    monkeypatch.setattr(influence, "PROBLEMS", {"digits": small})
    influence.main(["--examples", "400", "--queries", "1", "--output", str(tmp_path)])
    found = written(tmp_path, "influence")
    assert found["flipped"] == 20
    for ranking in found["found"].values():
        assert 0.5 <= ranking["recall"] <= 1  # a ranking by chance finds 0.1
        assert ranking["precision"] == pytest.approx(ranking["recall"] / 2)
    (one,) = found["behind"]
    assert len(one["helped"]) == len(one["hurt"]) == 4
    assert not set(one["helped"]) & set(one["hurt"])


def test_scores_foretell_what_leaving_examples_out_does(tmp_path, monkeypatch):
    data = DataConfig("digits", flatten=False, standardize="all")
    small = influence.Problem(data, lambda: nn.serial(nn.flatten(), nn.dense(10)), 20)
    monkeypatch.setattr(influence, "PROBLEMS", {"digits": small})
    monkeypatch.setattr(influence, "ASKED", 20)
    given = ["--examples", "128", "--queries", "1", "--output", str(tmp_path)]
    for wrong in ("1", "129"):
        with pytest.raises(ValueError, match=r"expected --leave-out to be 0, or from 2, .* to 128"):
            influence.main([*given, "--leave-out", wrong])
    influence.main([*given, "--leave-out", "6", "--seeds", "1"])
    left_out = written(tmp_path, "influence")["left_out"]
    assert len(set(left_out["examples"])) == 6
    for name in ("EK-FAC", "none"):
        assert len(left_out[name]["each"]) == 20
        assert all(-1 <= rank <= 1 for rank in left_out[name]["each"])
    assert left_out["EK-FAC"]["of the mean loss"] > 0.5


def test_probabilities_are_held_against_what_comes_true_and_foreign_images(tmp_path, monkeypatch):
    held_out = {"test_fraction": 0.4, "validation_fraction": 0.1}
    data = DataConfig("digits", flatten=False, standardize="all", **held_out)
    small = uncertainty.Problem(data, lambda: nn.serial(nn.flatten(), nn.dense(10)), 60)
    monkeypatch.setattr(uncertainty, "PROBLEMS", {"digits": small})
    monkeypatch.setattr(uncertainty, "GRID", (1.0, 100.0))
    uncertainty.main(["--examples", "300", "--output", str(tmp_path)])
    found = written(tmp_path, "uncertainty")
    assert len(found["ways"]) == 1 + 3 * 2
    for way in found["ways"].values():
        assert sum(way["counts"]) == 300
        assert way["accuracy"] > 0.7
        assert way["noise"] > 0.5
    # The network without its posterior is the surest of what it has never seen.
    assert found["ways"]["network"]["noise"] < found["ways"]["last layer, evidence"]["noise"]


def test_calibration_is_counted_in_bins_of_confidence():
    probabilities = np.array([[0.95, 0.05], [0.91, 0.09], [0.35, 0.65], [0.4, 0.6]])
    found = uncertainty.judge(probabilities, np.array([0, 1, 1, 1]))
    gaps = (abs(0.5 - 0.93) * 2 + abs(1 - 0.625) * 2) / 4
    assert found["counts"][6] == found["counts"][9] == 2
    assert found["calibration_error"] == pytest.approx(gaps)
    assert found["log_loss"] == pytest.approx(-np.log([0.95, 0.09, 0.65, 0.6]).mean())
    known, foreign = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.7, 0.3]])
    assert uncertainty.told_apart(known, foreign) == 0.5
