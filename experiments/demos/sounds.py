"""Learn to write down what is said in sounds of your own: WAV files, and a table of transcripts.

python -m experiments.sounds recordings.csv --sounds file --transcripts text
python -m experiments.sounds new.wav --run runs/recordings          # or a folder, or a table
python -m experiments.sounds others.csv --run runs/recordings       # evaluated, with transcripts

A bidirectional LSTM reads log-mel features frame by frame, and the CTC loss sums over all
alignments of a transcript's characters. Prints the share of characters that greedy decoding gets
right, 1 − (edits needed) / (characters). The run folder has all that it takes to write down others.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro

from experiments.demos.tones import fit, make_network, symbol_accuracy
from experiments.support.calling import waiting
from experiments.support.command_line import parse_options, run_script
from experiments.support.kept import Kept, keep, restore
from experiments.support.runs import new_run, stem_of
from jaxnn.core.files import write_file
from jaxnn.core.validation import printable, require_number, require_positive_integer
from jaxnn.data.files import is_file_name
from jaxnn.data.sounds import Hearing, encode_transcripts, one_rate, require_readable
from jaxnn.data.tables.reading import FOUND, is_table
from jaxnn.data.tables.table import read_table
from jaxnn.data.tones import fill_up
from jaxnn.losses.ctc import best_path
from jaxnn.training import make_predict

KIND = "sound"


@dataclass(frozen=True)
class Options:
    """Train a network to write down what is said in WAV files, or let it write."""

    file: Annotated[Path, tyro.conf.Positional]
    """A table with the paths of WAV files, from its own folder on, and their transcripts; with
    --run also a WAV file or a folder of them."""
    sounds: str = "file"
    """The column of the paths."""
    transcripts: str = "text"
    """The column of what is said."""
    run: Path | None = None
    """A run folder, whose network writes; nothing is trained."""
    rate: int | None = None
    """Samples a second, to which sounds of other rates are resampled."""
    mels: int = 40
    """How many bands of the mel scale a frame has."""
    window: float = 0.025
    """Seconds of a frame."""
    hop: float = 0.01
    """Seconds from one frame to the next."""
    centred: bool = False
    """Take a sound's mean off each band, for voices and rooms unlike those trained on."""
    test_fraction: float = 0.2
    """The share of the sounds that is held out."""
    features: int = 64
    """Of each direction of the LSTM."""
    epochs: int = 40
    """How often every sound is used."""
    batch_size: int = 16
    """How many sounds a step uses."""
    learning_rate: float = 5e-3
    """The largest learning rate."""
    seed: int = 0
    """Draws the split, the initial parameters and the order of the sounds."""
    output: Path | None = None
    """The run folder to make, runs/TABLE unless given; with --run, a .csv file to write."""


class Recordings(NamedTuple):
    """Sounds of a table, with what is said in them."""

    paths: list[Path]
    frames: list[np.ndarray]
    """[frames, mels] of each."""
    transcripts: list[str]


def main(arguments: list[str]) -> None:
    """Train and test, or write."""
    options = parse_options(Options, "sounds", arguments)
    if options.run is not None:
        _use(options)
        return
    for name in ("features", "epochs", "batch_size"):
        require_positive_integer("sounds", name, getattr(options, name))
    bounds: dict[str, Any] = {"minimum": 0, "maximum": 1, "open_minimum": True}
    require_number("sounds", "test_fraction", options.test_fraction, open_maximum=True, **bounds)
    path = options.file.expanduser()
    waiting(f"reading {path.name}")
    paths, transcripts = _table(path, options)
    if options.rate is not None:
        require_positive_integer("sounds", "rate", options.rate)
    hearing = Hearing(
        options.rate or one_rate(paths),
        options.rate is not None,
        options.mels,
        options.window,
        options.hop,
        options.centred,
    )
    alphabet = "".join(sorted({*"".join(transcripts)}))
    labels = encode_transcripts(transcripts, alphabet, str(path))
    frames = [hearing.features(sound) for sound in paths]
    require_readable(paths, frames, labels)
    order = np.random.default_rng(options.seed).permutation(len(paths))
    count = round(options.test_fraction * len(paths))
    if not 0 < count < len(paths):
        raise ValueError(
            f"sounds: expected test_fraction to leave sounds in both parts, got {count} of "
            f"{len(paths)} held out: choose another --test-fraction"
        )
    training, held_out = order[count:], order[:count]
    of_training = np.concatenate([frames[i] for i in training])
    mean, deviation = of_training.mean(0), np.maximum(of_training.std(0), 1e-6)
    facts: dict[str, Any] = {
        "alphabet": alphabet,
        "hearing": hearing._asdict(),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
    }
    x = as_batch([frames[i] for i in training], facts)
    target = fill_up([labels[i] for i in training], -1), x[1]
    network = make_network(options.features, len(alphabet))
    run = new_run(stem_of(str(path)), options.output)
    print(
        f"{len(training)} sounds of up to {x[0].shape[1]} frames at {hearing.rate} samples a "
        f"second, {count} held out, {len(alphabet)} characters"
    )
    state, _ = fit(network, x, target, options, run)
    kept = Kept(network, state, facts)
    keep(run.folder, KIND, kept)
    of_test = Recordings(*(_take(part, held_out) for part in (paths, frames, transcripts)))
    accuracy = _evaluate(kept, of_test)
    run.append({"test": {"character_accuracy": accuracy}})
    print(f"test: {_describe(accuracy, of_test)}")
    print(f"{run.folder}: model.json, weights, metrics.jsonl")


def _take(part: Sequence, index: np.ndarray) -> list:
    return [part[i] for i in index]


def _table(path: Path, options: Options) -> tuple[list[Path], list[str]]:
    """The paths of the sounds of a table, and what is said in them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a table, got no such file")
    if not is_file_name(path) or not is_table(path):
        raise ValueError(f"{path}: expected a table of sounds and transcripts, or --run RUN")
    columns = options.sounds, options.transcripts
    table = read_table(path, FOUND, columns, columns)
    for column, option in zip(columns, ("sounds", "transcripts"), strict=True):
        if column not in table.names:
            raise ValueError(
                f"{path}: expected a column {column!r}, got {', '.join(table.names[:20])}: say "
                f"--{option}"
            )
    return table.paths(options.sounds), table.texts(options.transcripts)


def as_batch(frames: Sequence[np.ndarray], facts: dict[str, Any]) -> tuple[Any, Any]:
    """What the network takes: standardised frames, filled up with zeros, and how many there are."""
    mean, deviation = (np.array(facts[name], np.float32) for name in ("mean", "deviation"))
    lengths = np.array([len(rows) for rows in frames], np.int32)
    return fill_up([(rows - mean) / deviation for rows in frames], 0), lengths


def read(kept: Kept, frames: Sequence[np.ndarray]) -> list[str]:
    """What the network writes down."""
    x, state = as_batch(frames, kept.facts), kept.train_state
    logits = make_predict(kept.network, 100)(state.params, state.state, x)
    alphabet = kept.facts["alphabet"]
    rows = np.asarray(best_path(logits, jnp.asarray(x[1])))
    return ["".join(alphabet[label - 1] for label in row if label > 0) for row in rows]


def _evaluate(kept: Kept, recordings: Recordings) -> float:
    texts, alphabet = read(kept, recordings.frames), kept.facts["alphabet"]
    place = {character: label for label, character in enumerate(alphabet, 1)}
    found = [np.array([place[c] for c in text], np.int32) for text in texts]
    said = encode_transcripts(recordings.transcripts, alphabet, "sounds")
    return symbol_accuracy(fill_up(found, -1), fill_up(said, -1))


def _describe(accuracy: float, recordings: Recordings) -> str:
    count = sum(map(len, recordings.transcripts))
    return f"{100 * accuracy:.2f} % of {count} characters in {len(recordings.paths)} sounds"


def _use(options: Options) -> None:
    """Write down what other sounds say, or evaluate where that is known."""
    assert options.run is not None
    kept = restore(options.run, KIND, _input)
    hearing, path = Hearing(**kept.facts["hearing"]), options.file.expanduser()
    if is_table(path) and path.is_file():
        names = read_table(path, FOUND, (options.sounds,), (options.sounds,)).names
        if options.transcripts in names:
            paths, transcripts = _table(path, options)
            encode_transcripts(transcripts, kept.facts["alphabet"], str(path))
            recordings = Recordings(paths, [hearing.features(p) for p in paths], transcripts)
            print(f"{path}: {_describe(_evaluate(kept, recordings), recordings)}")
            return
        paths = read_table(path, FOUND, (options.sounds,), (options.sounds,)).paths(options.sounds)
    elif path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.suffix.lower() == ".wav")
        if not paths:
            raise ValueError(f"{path}: expected WAV files, got none")
    else:
        paths = [path]
    texts = read(kept, [hearing.features(p) for p in paths])
    rows = [
        ["file", options.transcripts],
        *([str(p), t] for p, t in zip(paths, texts, strict=True)),
    ]
    if options.output is None:
        csv.writer(sys.stdout).writerows([printable(cell) for cell in row] for row in rows)
        return

    def write(place: Path) -> None:
        with place.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)

    print(f"{len(texts)} transcripts in {write_file(options.output, write)}")


def _input(facts: dict[str, Any]) -> tuple[Any, Any]:
    mels = int(facts["hearing"]["mels"])
    return np.zeros((1, 1, mels), np.float32), np.ones(1, np.int32)


if __name__ == "__main__":
    run_script(main)
