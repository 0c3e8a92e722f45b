"""Speech of synthesisers: what is held out, error rates, and the script from end to end."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.demos import speech
from experiments.demos.sounds import main as write_down
from jaxnn.data.speech import ALPHABET, HELD_OUT_SPEAKERS, SENTENCES, SPEAKERS, Speech, make_speech

spoken = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


def test_no_speaker_is_both_heard_and_held_out():
    for synthesiser, speakers in SPEAKERS.items():
        assert not {*speakers} & {*HELD_OUT_SPEAKERS[synthesiser]}
    assert len({*SENTENCES}) == len(SENTENCES)
    assert {*"".join(SENTENCES)} == {*ALPHABET}


def test_without_a_synthesiser_the_way_out_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"expected the speech .*apt-get install espeak-ng"):
        make_speech(2, 2)


def test_a_synthesiser_that_fails_is_named_and_leaves_nothing_in_the_cache(monkeypatch, tmp_path):
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\necho no voice >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    monkeypatch.setattr("jaxnn.data.speech.SYNTHESISERS", ("espeak-ng",))
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        RuntimeError, match="espeak-ng: expected a sound, got exit code 3: no voice"
    ):
        make_speech(2, 2)
    assert not [*(tmp_path / "cache").iterdir()]


def test_error_rates_are_edits_over_what_was_said():
    said = Speech((Path("a"),) * 2, ("two red keys", "birds"), ("x", "y"))
    rates = speech.error_rates(said, ["two rad keys", "birds bird"])
    assert rates["x"] == (1 / 3, 0, 1 / 12)
    assert rates["y"] == (1, 1, 1)
    assert rates["all"] == (2 / 4, 1 / 4, 6 / 17)


@spoken
def test_the_script_hears_speaks_once_and_leaves_a_run_for_other_sounds(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    monkeypatch.setattr(speech, "make_speech", lambda sounds, seed: make_speech(sounds, 8, seed))
    sizes = ["--sounds", "16", "--features", "4", "--epochs", "1", "--batch-size", "8"]
    speech.main([*sizes, "--output", str(run)])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test"]["all"].keys() == {"words", "in_lexicon", "characters"}
    assert (run / "speech.png").stat().st_size > 0
    assert "word error rate" in capsys.readouterr().out
    training, held_out = make_speech(16, 8)
    assert not {*training.texts} & {*held_out.texts}
    assert not {*training.voices} & {*held_out.voices}
    written = training.paths[0].stat().st_mtime_ns
    assert make_speech(16, 8)[0].paths[0].stat().st_mtime_ns == written
    write_down([str(held_out.paths[0]), "--run", str(run)])
    assert held_out.paths[0].name in capsys.readouterr().out


@spoken
def test_each_character_has_a_place_in_the_alignment(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path))
    import jax
    import optax

    from experiments.demos.sounds import as_batch
    from experiments.demos.tones import make_network
    from experiments.support.kept import Kept
    from jaxnn.training import create_state

    training, _ = make_speech(1, 1)
    (frames,) = speech.heard(training)
    facts = {"alphabet": ALPHABET, "mean": [0.0] * 40, "deviation": [1.0] * 40}
    network = make_network(4, len(ALPHABET))
    x = as_batch([frames], facts)
    state = create_state(network, optax.identity(), jax.random.key(0), x)
    weights = speech.alignment(Kept(network, state, facts), frames, training.texts[0])
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-4)
    said = [ALPHABET.index(character) + 1 for character in training.texts[0]]
    others = [*set(range(1, weights.shape[1])) - {*said}]
    np.testing.assert_allclose(weights[:, others], 0, atol=1e-5)
    for label in said:  # each is passed at least as often as the sentence has it
        assert weights[:, label].sum() > said.count(label) - 1e-3
