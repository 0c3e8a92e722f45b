"""The limits of the rule that chooses algorithms, from a file of the benchmark."""

import json
import warnings

import jax
import pytest

from jaxnn.kernels.convolution import limits
from jaxnn.kernels.convolution.limits import LIMITS, Limits, in_use, processor, read


@pytest.fixture
def write(tmp_path):
    def write(numbers, **machine):
        there = {"processor": processor(), "versions": {"jax": jax.__version__}} | machine
        path = tmp_path / "limits.json"
        path.write_text(json.dumps({"machine": there, "choose": {"limits": numbers}}))
        return path

    return write


def test_without_a_file_they_are_the_librarys_own(monkeypatch):
    monkeypatch.delenv("JAXNN_LIMITS", raising=False)
    assert in_use() is LIMITS


def test_the_file_that_is_named_is_used(write, monkeypatch):
    found = LIMITS._replace(winograd_forward=7)
    monkeypatch.setenv("JAXNN_LIMITS", str(write(found._asdict())))
    assert in_use() == found


@pytest.mark.parametrize("machine", [{"processor": "another"}, {"versions": {"jax": "0.1"}}])
def test_what_is_of_another_machine_is_passed_over_with_one_line(machine, write, monkeypatch):
    path = write(LIMITS._replace(winograd_forward=7)._asdict(), **machine)
    monkeypatch.setenv("JAXNN_LIMITS", str(path))
    limits._from.cache_clear()
    with pytest.warns(UserWarning, match="JAXNN_LIMITS.*expected limits of") as warned:
        assert in_use() is LIMITS
    assert "\n" not in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_use() is LIMITS  # said once


def test_a_file_that_is_not_there_is_passed_over_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNN_LIMITS", str(tmp_path / "none.json"))
    with pytest.warns(UserWarning, match=r"none\.json"):
        assert in_use() is LIMITS


@pytest.mark.parametrize(
    "numbers", [{}, [], {"winograd_forward": 3}, LIMITS._asdict() | {"max_shifts": -1}, "text"]
)
def test_other_numbers_than_the_limits_are_refused(numbers, write):
    with pytest.raises(ValueError, match="expected a number of at least 0 for each of max_taps"):
        read(write(numbers))


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "[" * 100_000])
def test_other_files_are_refused_with_the_way_out(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a file of limits; make it by python -m"):
        read(path)


def test_every_limit_has_candidates():
    from experiments.benchmarks.choose import CANDIDATES

    assert tuple(CANDIDATES) == Limits._fields
    assert all(value in CANDIDATES[name] for name, value in LIMITS._asdict().items())
