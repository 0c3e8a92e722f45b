import json

import numpy as np
import pytest

from experiments.demos import tones
from jaxnn.data.tones import BINS, FRAME, PITCHES, RATE, make_tones


def test_sounds_are_filled_up_and_the_same_every_time():
    sounds, again = make_tones(20), make_tones(20)
    assert sounds.x.shape == (20, sounds.lengths.max(), BINS)
    assert sounds.x.dtype == np.float32
    for a, b in zip(sounds, again, strict=True):
        np.testing.assert_array_equal(a, b)
    after = np.arange(sounds.x.shape[1]) >= sounds.lengths[:, None]
    assert not sounds.x[after].any()
    assert sounds.x[~after].any(-1).all()
    counts = (sounds.symbols >= 0).sum(1)
    assert set(counts) <= set(range(1, 9))
    assert sounds.symbols[sounds.symbols >= 0].min() >= 1


def test_a_single_tone_is_loudest_at_its_pitch():
    sounds = make_tones(30, longest=1, noise=0.0)
    loudest = sounds.x.max(1).argmax(-1) + 1
    expected = PITCHES[sounds.symbols[:, 0] - 1] * FRAME / RATE
    assert np.abs(loudest - expected).max() < 1


@pytest.mark.parametrize(
    ("a", "b", "edits"), [([], [], 0), ([1, 2], [], 2), ([1, 2, 3], [1, 3], 1), ([1, 2], [2, 1], 2)]
)
def test_edits_are_counted(a, b, edits):
    assert tones.edit_distance(np.array(a), np.array(b)) == edits
    assert tones.edit_distance(np.array(b), np.array(a)) == edits


def test_accuracy_is_the_share_of_symbols_that_need_no_edit():
    read, said = np.array([[1, 2, -1], [3, -1, -1]]), np.array([[1, 2, 3], [3, -1, -1]])
    assert tones.symbol_accuracy(read, said) == pytest.approx(0.75)


def test_the_script_leaves_a_run_folder(tmp_path, capsys):
    sizes = ["--features", "4", "--examples", "32", "--epochs", "1"]
    tones.main([*sizes, "--output", str(tmp_path / "run")])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "symbol_accuracy" in json.loads(lines[-1])["test"]
    assert (tmp_path / "run" / "tones.png").stat().st_size > 0
    assert "% of" in capsys.readouterr().out
