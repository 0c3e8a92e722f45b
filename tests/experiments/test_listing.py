"""What can be named is listed, and what is listed can be named."""

import pytest

from experiments import train
from experiments.support.config import LAYERS, LOSSES
from experiments.support.expressions import parse
from experiments.support.listing import LISTED, listing
from jaxnn.training import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule


def test_train_lists_and_does_nothing_else(tmp_path, capsys):
    train.main(["--list", "losses"])
    out = capsys.readouterr().out
    assert "huber(" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "names"), [("layers", LAYERS), ("losses", LOSSES)])
def test_every_layer_and_loss_has_a_signature_and_a_summary(kind, names):
    lines = listing(kind).splitlines()
    assert [line.split("(")[0] for line in lines[::2]] == sorted(names)
    assert all(line.strip() for line in lines[1::2])


def test_an_optimizer_or_schedule_is_listed_as_it_can_be_given():
    for kind, names in (("optimizers", OPTIMIZERS), ("schedules", SCHEDULES)):
        calls = [parse(line, kind) for line in listing(kind).splitlines() if "…" not in line]
        calls = [call for call in calls if "dtype_momentum" not in call.options]
        assert {call.name for call in calls} >= set(names) - {"adafactor"}
        for call in calls:
            if kind == "schedules":
                make_schedule(call.name, 1.0, 40, call.options)
            else:
                make_optimizer(call.name, 0.1, call.options)


def test_every_kind_has_lines():
    assert all(listing(kind) for kind in LISTED)
