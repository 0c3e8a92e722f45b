"""Loaders and expressions given damaged inputs; `python -m experiments.fuzz` gives them more."""

import json

import numpy as np
import pytest

from experiments import fuzz
from experiments.support.loaders import LOADERS, Loader

INPUTS = {"checkpoint": 4, "optimizer": 30}


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_input_gives_the_same_data_or_one_line(name):
    inputs = INPUTS.get(name, 60)
    found = fuzz.fuzz(inputs, 1, (name,))
    assert found.failures == []
    assert found.same.total() + found.other.total() + found.refused.total() == inputs
    assert found.refused.total() or name in ("cache", "checkpoint")


def write(folder):
    (folder / "data").write_text("[1, 2, 3]")
    return folder / "data"


def read_badly(path):
    return np.array(json.loads(path.read_bytes()), dtype=np.int64)


@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (read_badly, "other data, without a word"),
        (lambda path: {}[path.read_bytes()] if path.name != "data" else 0, "KeyError"),
        (lambda path: path.with_name("none").read_bytes() if path.name != "data" else 0, None),
    ],
    ids=["accepts other data", "raises another error", "refuses"],
)
def test_the_fuzzer_notices_a_loader_that_does_not_notice(read, failure, monkeypatch, tmp_path):
    monkeypatch.setitem(LOADERS, "bad", Loader(write, read, has_checksum=True))
    found = fuzz.fuzz(60, 0, ("bad",), tmp_path / "failures")
    assert bool(found.failures) == bool(failure)
    assert not failure or any(failure in text for text in found.failures)
    assert (tmp_path / "failures").exists() == bool(failure)


def test_a_failure_ends_with_status_1_and_what_it_was(monkeypatch, capsys):
    monkeypatch.setitem(LOADERS, "bad", Loader(write, read_badly, has_checksum=True))
    with pytest.raises(SystemExit, match="1"):
        fuzz.main(["--inputs", "60", "--loaders", "bad"])
    assert "other data, without a word" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown loader 'npzz': did you mean 'npz'"):
        fuzz.main(["--loaders", "npzz"])
