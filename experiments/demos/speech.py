"""Speech to text: sentences of synthesised voices, and of voices that training never heard.

python -m experiments.speech
python -m experiments.speech --sounds 800 --epochs 10 --output runs/short
python -m experiments.sounds mine.wav --run runs/speech                # your own voice

The synthesisers espeak-ng and flite say short sentences (`jaxnn.data.speech`); a bidirectional LSTM
reads log-mel features, and CTC learns the characters. Held out are both the voices and the
sentences. Prints the word and the character error rate, (edits needed) / (words or characters
said), of every held-out voice, the first also with each word replaced by the nearest of the
grammar's; and draws a sound with its alignment, which is read off the backward pass:
softmax(z) − ∂L/∂z is the probability of each character at each time, given what was said.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.demos.sounds import as_batch, read
from experiments.demos.tones import edit_distance, fit, make_network
from experiments.support import style
from experiments.support.calling import waiting
from experiments.support.command_line import parse_options, run_script
from experiments.support.kept import Kept, keep
from experiments.support.runs import new_run
from jaxnn.core.validation import require_positive_integer
from jaxnn.data.cache import cached
from jaxnn.data.sounds import Hearing, encode_transcripts
from jaxnn.data.speech import ALPHABET, WORDS, Speech, make_speech
from jaxnn.data.tones import fill_up
from jaxnn.training import make_predict

HEARING = Hearing(16_000, resampled=True, hop=0.02, centred=True)


@dataclass(frozen=True)
class Options:
    """Train a bidirectional LSTM with CTC to write down what synthesised voices say."""

    sounds: int = 3000
    """To train on; 300 others, of other voices and sentences, are held out."""
    features: int = 64
    """Of each direction of the LSTM."""
    epochs: int = 12
    """How often every sound is used."""
    batch_size: int = 32
    """How many sounds a step uses."""
    learning_rate: float = 5e-3
    """The largest learning rate."""
    seed: int = 0
    """Draws the sounds, the initial parameters and the order of the sounds."""
    output: Path | None = None
    """The folder to make; runs/speech unless given."""


class Rates(NamedTuple):
    """Error rates: (edits needed) / (what was said)."""

    words: float
    in_lexicon: float
    """Of words, where each found one is replaced by the nearest of the grammar."""
    characters: float


def main(arguments: list[str]) -> None:
    """Have the sounds made, train, test, draw."""
    options = parse_options(Options, "speech", arguments)
    for name in ("sounds", "features", "epochs", "batch_size"):
        require_positive_integer("speech", name, getattr(options, name))
    waiting("speaking")
    training, held_out = make_speech(options.sounds, seed=options.seed)
    frames, labels = heard(training), encode_transcripts(training.texts, ALPHABET, "speech")
    together = np.concatenate(frames)
    facts: dict[str, Any] = {
        "alphabet": ALPHABET,
        "hearing": HEARING._asdict(),
        "mean": together.mean(0).tolist(),
        "deviation": np.maximum(together.std(0), 1e-6).tolist(),
    }
    x = as_batch(frames, facts)
    network = make_network(options.features, len(ALPHABET))
    run = new_run("speech", options.output)
    print(
        f"{len(frames)} sounds of {len({*training.voices})} voices, up to {x[0].shape[1]} frames; "
        f"held out {len(held_out.texts)} of {len({*held_out.voices})} others"
    )
    state, losses = fit(network, x, (fill_up(labels, -1), x[1]), options, run)
    kept = Kept(network, state, facts)
    keep(run.folder, "sound", kept)
    frames = heard(held_out)
    texts = read(kept, frames)
    rates = error_rates(held_out, texts)
    run.append({"test": {voice: rate._asdict() for voice, rate in rates.items()}})
    print(f"{'word error rate':>40}  with a lexicon  of characters")
    for voice, rate in rates.items():
        print(f"{voice:24} {rate.words:15.2%}  {rate.in_lexicon:14.2%}  {rate.characters:13.2%}")
    figure = draw(kept, losses, held_out, frames, texts)
    style.save(figure, run.folder / "speech.png")
    print(f"{run.folder}: speech.png, model.json, weights, metrics.jsonl")


def heard(speech: Speech) -> list[np.ndarray]:
    """float32 [frames, mels] of each sound, kept in the cache."""

    def features() -> dict[str, np.ndarray]:
        frames = [HEARING.features(path) for path in speech.paths]
        return {"frames": np.concatenate(frames), "lengths": np.array([*map(len, frames)])}

    waiting("listening")
    found = cached(speech.paths[0].with_name("list.csv"), features, tuple(HEARING))
    return np.split(found["frames"], np.cumsum(found["lengths"])[:-1])


def error_rates(speech: Speech, texts: list[str]) -> dict[str, Rates]:
    """Those of every voice, and of all of them."""
    rates = {}
    for voice in (*sorted({*speech.voices}), "all"):
        pairs = [
            (said, found)
            for said, found, by in zip(speech.texts, texts, speech.voices, strict=True)
            if voice in (by, "all")
        ]
        rates[voice] = Rates(
            error_rate([(said.split(), found.split()) for said, found in pairs]),
            error_rate([(said.split(), [*map(nearest, found.split())]) for said, found in pairs]),
            error_rate([(list(said), list(found)) for said, found in pairs]),
        )
    return rates


def nearest(word: str) -> str:
    """The word of the grammar that takes the fewest edits, the first of several."""
    return min(WORDS, key=lambda known: edit_distance(np.array([*word]), np.array([*known])))


def error_rate(pairs: list[tuple[list[str], list[str]]]) -> float:
    """(edits from what was said to what was found) / (length of what was said)."""
    edits = sum(edit_distance(np.array(found), np.array(said)) for said, found in pairs)
    return edits / sum(len(said) for said, _ in pairs)


def alignment(kept: Kept, frames: np.ndarray, text: str) -> np.ndarray:
    """[frames, 1 + characters]: how probable each class is at each time, given the whole text.

    The gradient of CTC by the logits is softmax(z) − γ, so γ is read off the backward pass.
    """
    x = as_batch([frames], kept.facts)
    logits = make_predict(kept.network, 1)(kept.train_state.params, kept.train_state.state, x)
    labels = fill_up(encode_transcripts([text], kept.facts["alphabet"], "speech"), -1)
    delta = nn.ctc().gradient(logits, (jnp.asarray(labels), jnp.asarray(x[1])))
    return np.asarray(jax.nn.softmax(logits) - delta)[0]


def draw(
    kept: Kept, losses: list[float], speech: Speech, frames: list[np.ndarray], texts: list[str]
) -> Figure:
    """The loss; of the longest sentence of a held-out voice the sound, and where each character is.

    Characters stand where they are the most probable given what was said, and lines go to the words
    that they make.
    """
    example = max(range(len(texts)), key=lambda i: len(speech.texts[i]))
    said, found = speech.texts[example], texts[example]
    weights = alignment(kept, frames[example], said)
    end = len(weights) * HEARING.hop
    figure, (curve, sound, places) = style.figure(3, height=2.2)
    curve.plot(np.arange(1, len(losses) + 1), losses, marker="o")
    curve.set(xlabel="epoch", ylabel="−log P (nats)", yscale="log", title="loss on training sounds")
    sound.imshow(
        frames[example].T, aspect="auto", origin="lower", extent=(0, end, 0.5, HEARING.mels + 0.5)
    )
    sound.set(ylabel="band of the mel scale", title=f"{speech.voices[example]}: {said!r}")
    used = sorted({*said})
    columns = [ALPHABET.index(character) + 1 for character in used]
    places.imshow(
        weights[:, columns].T, aspect="auto", vmin=0, vmax=1, extent=(0, end, len(used) - 0.5, -0.5)
    )
    places.set_yticks(range(len(used)), ["␣" if c == " " else c for c in used], fontsize=7)
    places.set(
        xlabel="seconds", title=f"where each character is, given the sentence; read as {found!r}"
    )
    path = weights.argmax(1)
    for time in np.flatnonzero((path > 1) & (path != np.roll(path, 1))):  # 1 is the space
        sound.axvline((time + 0.5) * HEARING.hop, color="white", linewidth=0.5)
        sound.text(
            (time + 0.5) * HEARING.hop,
            HEARING.mels + 1,
            ALPHABET[path[time] - 1],
            ha="center",
            fontsize=7,
        )
    sound.title.set_position((0.5, 1.1))
    sound.set_title(sound.get_title(), pad=14)
    for axes in (sound, places):
        axes.grid(False)
    return figure


if __name__ == "__main__":
    run_script(main)
