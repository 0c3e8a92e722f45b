"""Rescheduled backward passes compared, on little data."""

import json

import pytest

from experiments.studies import reschedule

METHODS = ("backprop", "updates on the way back", "gradients of rank 2")
QUICK = ["--epochs", "1", "--examples", "128"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A narrow network, once."""
    monkeypatch.setattr(reschedule, "DEPTH", 1)
    digits = reschedule.PROBLEMS["digits"]._replace(blocks=reschedule._mlp(16))
    monkeypatch.setitem(reschedule.PROBLEMS, "digits", digits)


def test_techniques_are_compared_on_one_page(tmp_path, capsys):
    options = ["--problems", "digits", *QUICK, "--output", str(tmp_path)]
    reschedule.main([*options, "--methods", *METHODS])
    assert (tmp_path / "reschedule.png").exists()
    found = json.loads((tmp_path / "reschedule.json").read_text())["digits"]
    plain, on_the_way, low = (found[method] for method in METHODS)
    assert plain["score"] == on_the_way["score"]
    assert plain["kept"] == on_the_way["kept"] > 0
    assert low["sent"] < 0.5 * plain["sent"]
    assert all(row["memory"] > 0 and row["milliseconds"] > 0 for row in found.values())
    assert "sent of 4" in capsys.readouterr().out
    with pytest.raises(FileExistsError):
        reschedule.main(options)


def test_every_technique_can_be_made_of_every_problem():
    for problem in reschedule.PROBLEMS.values():
        blocks = problem.blocks(10)
        head = reschedule.nn.dense(10)
        given = reschedule.Given(blocks, problem.reversible, head, reschedule.optax.sgd(0.1), 9)
        for make in reschedule.METHODS.values():
            assert isinstance(make(given).network, reschedule.nn.Layer)


def test_data_that_are_not_there_are_left_out_with_a_reason(tmp_path, monkeypatch, capsys):
    def absent():
        raise FileNotFoundError("found no files")

    monkeypatch.setitem(
        reschedule.PROBLEMS,
        "Fashion-MNIST",
        reschedule.PROBLEMS["Fashion-MNIST"]._replace(load=absent),
    )
    options = ["--problems", "Fashion-MNIST", *QUICK, "--output", str(tmp_path)]
    with pytest.raises(ValueError, match="expected data of at least one problem, found none"):
        reschedule.main(options)
    assert "Fashion-MNIST is left out: found no files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "backprob"], "unknown method 'backprob'"),
        (["--problems", "digit"], "unknown problem 'digit'"),
        (["--examples", "10"], "expected examples to be"),
        (["--devices", "3"], "expected devices to divide a batch of 64, got 3"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reschedule.main([*options, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
