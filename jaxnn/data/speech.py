"""Short sentences spoken by many voices of the speech synthesisers espeak-ng and flite.

    "paint seven green doors"

A sentence has one to four words of a grammar of 34. A tenth of the sentences and some of the voices
are held out: no training sound has one of either.
"""

import csv
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnn.core.validation import require_integer, require_positive_integer
from jaxnn.data.cache import cache_folder

VERBS = ("bring", "count", "find", "hide", "move", "paint", "sell", "wash")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("black", "blue", "brown", "green", "pink", "red", "white", "yellow")
THINGS = ("apples", "birds", "boxes", "cars", "chairs", "cups", "doors", "horses", "keys", "stars")
WORDS = (*VERBS, *NUMBERS, *COLOURS, *THINGS)
ALPHABET = "".join(sorted({*" ".join(WORDS)}))
"""The characters of the sentences; the label of the first is 1."""
SENTENCES = tuple(
    " ".join(filter(None, words))
    for words in product(("", *VERBS), ("", *NUMBERS), ("", *COLOURS), THINGS)
)
HELD_OUT = 0.1
"""The share of the sentences that no training sound has."""

SYNTHESISERS = ("espeak-ng", "flite")
_WAY_OUT = "apt-get install espeak-ng flite (Debian, Ubuntu), or brew install espeak-ng (macOS)"
_SECONDS = 60
"""For one sound at most."""
_AT_ONCE = 8


ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan")
SPEAKERS = {
    "espeak-ng": (
        *("m1", "m2", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f4", "f5", "adam", "Alex"),
        *("Alicia", "Andy", "Annie", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb"),
        *("david", "Denis", "Diogo", "ed", "edward", "gene", "Henrique", "Hugo", "john", "Lee"),
        *("linda", "marcelo", "Marco", "max", "Mike", "pablo", "paul", "pedro", "rob", "victor"),
    ),
    "flite": ("kal16", "awb", "rms"),
}
"""Whom training hears: of espeak-ng each with any of the accents."""
HELD_OUT_SPEAKERS = {
    "espeak-ng": ("m3", "f3", "Michael", "Andrea", "steph"),
    "flite": ("slt",),
}
"""Whom it does not: of flite the only woman."""


class Speech(NamedTuple):
    """Sounds in files, and what they are."""

    paths: tuple[Path, ...]
    texts: tuple[str, ...]
    voices: tuple[str, ...]
    """Of each the synthesiser and the speaker, as "espeak-ng m3"."""


def make_speech(training: int = 3000, held_out: int = 300, seed: int = 0) -> tuple[Speech, Speech]:
    """Sounds to train on, and others of sentences and voices that are not among those.

    They are made once and kept in the cache folder ($JAXNN_CACHE, or else the platform's), beside a
    table of them, list.csv. Only the synthesisers that are installed speak.

    Args:
        training: How many sounds for training.
        held_out: How many for the test.
        seed: Draws sentences, voices, speeds and pitches.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        RuntimeError: A synthesiser fails.
    """
    require_positive_integer("make_speech", "training", training)
    require_positive_integer("make_speech", "held_out", held_out)
    require_integer("make_speech", "seed", seed, 0)
    installed = [name for name in SYNTHESISERS if shutil.which(name)]
    if "espeak-ng" not in installed:
        raise FileNotFoundError(
            f"make_speech: expected the speech synthesiser espeak-ng, got none: {_WAY_OUT}"
        )
    rng = np.random.default_rng(seed)
    sentences = rng.permutation(len(SENTENCES))
    cut = round(HELD_OUT * len(sentences))

    def draw(count: int, among: np.ndarray, speakers: dict[str, tuple[str, ...]]) -> Speech:
        commands, rows = [], []
        for number in range(count):
            # One of four is said by the second synthesiser, where it is there.
            synthesiser = installed[-1] if number % 4 == 0 else installed[0]
            speaker = speakers[synthesiser][rng.integers(len(speakers[synthesiser]))]
            text, file = SENTENCES[rng.choice(among)], f"{number}.wav"
            commands.append(_command(synthesiser, speaker, text, file, rng))
            rows.append((file, text, f"{synthesiser} {speaker}"))
        return _spoken(commands, rows)

    return draw(training, sentences[cut:], SPEAKERS), draw(
        held_out, sentences[:cut], HELD_OUT_SPEAKERS
    )


def _command(
    synthesiser: str, speaker: str, text: str, file: str, rng: np.random.Generator
) -> list[str]:
    """What says a text into a file, at 0.85 to 1.2 of the usual speed and any usual pitch."""
    speed, pitch, accent = rng.uniform(0.85, 1.2), rng.integers(30, 71), rng.choice(ACCENTS)
    if synthesiser == "flite":
        stretch = f"duration_stretch={1 / speed:.3f}"
        return ["flite", "-voice", speaker, "--setf", stretch, "-t", text, "-o", file]
    options = ["-v", f"{accent}+{speaker}", "-s", str(round(165 * speed)), "-p", str(pitch)]
    return ["espeak-ng", *options, "-w", file, "--", text]


def _spoken(commands: list[list[str]], rows: list[tuple[str, str, str]]) -> Speech:
    """The sounds in their folder, which appears at once when all of them are made."""
    digest = hashlib.sha256(repr(commands).encode()).hexdigest()[:32]
    folder = cache_folder() / f"speech-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".speech-"))
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda command: _say(command, making), commands))
            with (making / "list.csv").open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([("file", "text", "voice"), *rows])
            try:
                os.replace(making, folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    files, texts, voices = zip(*rows, strict=True)
    return Speech(tuple(folder / file for file in files), texts, voices)


def _say(command: list[str], folder: Path) -> None:
    name = command[0]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{name}: expected a sound in {_SECONDS} s, got none") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[:200]
        raise RuntimeError(f"{name}: expected a sound, got exit code {done.returncode}: {said}")
