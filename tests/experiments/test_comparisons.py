"""What experiments that compare several ways share."""

import json

import pytest

from experiments.support import style
from experiments.support.comparisons import report, require_problems


def draw(results):
    figure, axes = style.figure()
    axes.plot(results["values"])
    return figure


@pytest.mark.parametrize("end", ["json", "png"])
def test_nothing_is_computed_where_a_result_would_be_replaced(tmp_path, end):
    kept = tmp_path / f"sizes.{end}"
    kept.write_text("kept")
    with pytest.raises(FileExistsError, match=f"sizes.{end}"):
        report("sizes", tmp_path, lambda: pytest.fail("computed"), draw, overwrite=False)
    assert kept.read_text() == "kept"


def test_results_are_written_with_their_picture(tmp_path):
    for overwrite in (False, True):
        values = [1.0, 2.0, float(overwrite)]
        report("sizes", tmp_path, lambda v=values: {"values": v}, draw, overwrite=overwrite)
        assert json.loads((tmp_path / "sizes.json").read_text()) == {"values": values}
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_problem_and_a_wrong_number_of_epochs_are_named():
    with pytest.raises(ValueError, match=r"digit, .*digits"):
        require_problems("sizes", ["digit, MLP"], ["digits, MLP"], None)
    with pytest.raises(ValueError, match="epochs"):
        require_problems("sizes", ["digits, MLP"], ["digits, MLP"], 0)
