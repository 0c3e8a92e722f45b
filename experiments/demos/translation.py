"""Translate between English and Japanese: numbers, dates, times and prices, both ways.

python -m experiments.translation
python -m experiments.translation --network lstm --epochs 5 --output runs/translation_lstm

One encoder-decoder reads a sentence of either language, English by words, Japanese by characters,
and writes it in the other, looking at it through attention. The sentences are made by a grammar
(`jaxnn.data.translation`); those held out are in no training pair. What counts is the share of them
that come out right as a whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

import jaxnn as nn
from experiments.demos.dates import draw, fit, inputs, network_for, translate
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.runs import new_run
from jaxnn.core.validation import require_positive_integer
from jaxnn.data.pairs import Pairs
from jaxnn.data.translation import Translations, make_translations
from jaxnn.training import TrainState, make_predict

DIRECTIONS = ("English to Japanese", "Japanese to English")
DRAWN = ("cost", "appointment")


@dataclass(frozen=True)
class Options:
    """Translate English and Japanese numbers, dates, times and prices into each other."""

    network: Literal["transformer", "lstm"] = "transformer"
    """Which encoder-decoder."""
    sentences: int = 6000
    """To train on, in both directions."""
    held_out: int = 1000
    """Others, for the test."""
    features: int = 64
    """The length of every vector in the network."""
    epochs: int = 10
    """How often every pair is used."""
    batch_size: int = 64
    """How many pairs a step uses."""
    learning_rate: float = 2e-3
    """The largest learning rate."""
    seed: int = 0
    """Draws the sentences, the initial parameters and the order of the pairs."""
    output: Path | None = None
    """The folder to make; runs/translation_NETWORK unless given."""


def main(arguments: list[str]) -> None:
    """Train, translate the held-out sentences, draw what the decoder looked at."""
    options = parse_options(Options, "translation", arguments)
    for name in ("sentences", "held_out", "features", "epochs", "batch_size"):
        require_positive_integer("translation", name, getattr(options, name))
    training, held_out = make_translations(options.sentences, options.held_out, options.seed)
    network = network_for(training.pairs, options)
    run = new_run(f"translation_{options.network}", options.output)
    print(
        f"{options.network}: {options.sentences} sentences both ways, "
        f"{len(training.pairs.alphabet)} words and characters"
    )
    state = fit(network, training.pairs, options, run)
    right = exact(network, state, held_out.pairs)
    scores = shares(held_out, right)
    run.append({"test": scores})
    for direction, kinds in scores.items():
        parts = ", ".join(f"{kind} {share:.2%}" for kind, share in kinds.items())
        print(f"{direction}, right as a whole: {parts}")
    chosen = np.array(
        [
            number + way * len(held_out.sentences)
            for way in range(len(DIRECTIONS))
            for number in _first(held_out, DRAWN)
        ]
    )
    decoded = translate(network, state, taken(held_out.pairs, chosen))
    for place, row in zip(chosen, decoded, strict=True):
        text, written = "".join(held_out.pairs.texts[place]), "".join(held_out.pairs.read(row))
        print(f"  {text} -> {written}")
    figure = draw(network, state, held_out.pairs, chosen, decoded)
    figure.suptitle("attention of the decoder: the translation downwards, the text across")
    picture = style.save(figure, run.folder / "attention.png")
    if not style.FONTS:
        print("Japanese is drawn as boxes: no font for it; apt-get install fonts-noto-cjk")
    print(f"{run.folder}: metrics.jsonl, {picture.name}")


def exact(network: nn.Layer, state: TrainState, pairs: Pairs) -> np.ndarray:
    """[examples], whether greedy decoding gives every token of the target.

    It does where, after the tokens before it, each is the most probable: one pass over the
    target tells, and nothing need be decoded.
    """
    logits = make_predict(network, 100)(state.params, state.state, inputs(pairs))
    return np.asarray((jax.numpy.argmax(logits, -1) == pairs.target).all(1))


def shares(of: Translations, right: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each direction the share that is right, of all sentences and of each kind."""
    kinds = np.array([sentence.kind for sentence in of.sentences])
    halves = right.reshape(len(DIRECTIONS), -1)
    return {
        direction: {
            "all": float(half.mean()),
            **{str(kind): float(half[kinds == kind].mean()) for kind in np.unique(kinds)},
        }
        for direction, half in zip(DIRECTIONS, halves, strict=True)
    }


def taken(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    """Some of the pairs."""
    texts = tuple(pairs.texts[place] for place in chosen)
    source, lengths, target = (part[chosen] for part in (pairs.source, pairs.lengths, pairs.target))
    return Pairs(texts, source, lengths, target, pairs.alphabet, pairs.symbols)


def _first(of: Translations, kinds: tuple[str, ...]) -> list[int]:
    """The place of the first sentence of each kind; of the first of all where there is none."""
    found = [sentence.kind for sentence in of.sentences]
    return [found.index(kind) if kind in found else 0 for kind in kinds]


if __name__ == "__main__":
    run_script(main)
