"""WAV files of one's own, trained on with their transcripts, and written down by the run alone."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import error_of
from scipy.io import wavfile

from experiments.demos import sounds

RATE = 4000
PITCHES = {"a": 300, "b": 600, "é": 1200}


def spoken(text, seed, rate=RATE):
    """Tones of a tenth of a second with pauses between."""
    random = np.random.default_rng(seed)
    time = np.arange(rate // 10) / rate
    parts = [np.zeros(rate // 20)]
    for character in text:
        parts += [np.sin(2 * np.pi * PITCHES[character] * time), np.zeros(rate // 20)]
    sound = np.concatenate(parts)
    return (16000 * (sound + random.normal(0, 0.02, len(sound)))).astype(np.int16)


def record(folder, count=20):
    """A table with WAV files beside it."""
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = ["file,text"]
    for i in range(count):
        text = "".join(random.choice([*PITCHES], random.integers(1, 4)))
        wavfile.write(folder / f"{i}.wav", RATE, spoken(text, i))
        rows.append(f"{i}.wav,{text}")
    (folder / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "list.csv"


SIZES = ["--features", "8", "--mels", "16", "--window", "0.05", "--hop", "0.02"]


def test_a_run_writes_down_other_sounds_by_its_folder_alone(tmp_path, capsys):
    table, run = record(tmp_path / "sounds"), tmp_path / "run"
    sounds.main([str(table), *SIZES, "--epochs", "2", "--output", str(run)])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test"]["character_accuracy"] <= 1
    assert "16 sounds of up to" in capsys.readouterr().out
    (tmp_path / "sounds").rename(tmp_path / "moved")
    sounds.main([str(tmp_path / "moved" / "list.csv"), "--run", str(run)])
    assert "characters in 20 sounds" in capsys.readouterr().out
    sounds.main([str(tmp_path / "moved"), "--run", str(run), "--output", "read.csv"])
    rows = list(csv.DictReader(Path("read.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 20
    assert {*"".join(row["text"] for row in rows)} <= {*PITCHES}
    wavfile.write(tmp_path / "other.wav", 8000, spoken("a", 0, 8000))
    with pytest.raises(ValueError, match=r"other.wav: expected 4000 samples a second, .* got 8000"):
        sounds.main([str(tmp_path / "other.wav"), "--run", str(run)])
    (tmp_path / "moved" / "list.csv").write_text("file,text\n1.wav,aç\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"row 1: expected characters of .* got 'ç'"):
        sounds.main([str(tmp_path / "moved" / "list.csv"), "--run", str(run)])


def rewritten(table, line):
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([lines[0], line, *lines[2:]]), encoding="utf-8")


DAMAGES = {
    "another rate": (
        lambda t: wavfile.write(t.with_name("3.wav"), 8000, spoken("a", 0, 8000)),
        "have 4000 samples a second, as most have, got .*3.wav (8000); --rate 4000 resamples",
    ),
    "damaged": (
        lambda t: t.with_name("3.wav").write_bytes(b"RIFF"),
        "3.wav: expected a whole WAV file, got other bytes at its beginning",
    ),
    "missing": (
        lambda t: t.with_name("3.wav").unlink(),
        "line 5, column 'file': expected the path",
    ),
    "no transcript": (lambda t: rewritten(t, "0.wav,"), "row 1: expected a transcript, got none"),
    "too long": (
        lambda t: rewritten(t, f"0.wav,{'ab' * 100}"),
        "0.wav: expected at least 200 frames for its 200 characters",
    ),
    "too short": (
        lambda t: wavfile.write(t.with_name("3.wav"), RATE, np.zeros(50, np.int16)),
        "3.wav: log_mel: expected at least 200 samples, a frame of 0.05 s, got 50",
    ),
    "other columns": (
        lambda t: t.write_text("sound,said\na,b"),
        "expected a column 'file', got sound, said: say --sounds",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_sounds_that_cannot_be_used_are_refused_by_name(kind, tmp_path, monkeypatch, capsys):
    table = record(tmp_path / "sounds", 6)
    damage, message = DAMAGES[kind]
    damage(table)
    error = error_of(sounds.main, [table, *SIZES], monkeypatch, capsys)
    for part in message.split(".*"):
        assert part in error
    assert not Path("runs").exists()
