"""Tones to symbols: a bidirectional LSTM that is never told which frame belongs to which symbol.

python -m experiments.tones
python -m experiments.tones --features 32 --epochs 10 --output runs/small_tones

Sounds of 1 to 8 tones in noise are read frame by frame; the CTC loss sums over all alignments.
Prints the share of symbols that greedy decoding gets right on held-out sounds, 1 − (edits needed) /
(symbols), and draws the loss and one sound with what the network makes of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.support import style
from experiments.support.calling import waiting
from experiments.support.command_line import parse_options, run_script
from experiments.support.runs import Run, new_run
from jaxnn.core.validation import require_positive_integer
from jaxnn.data.tones import BINS, FRAME, PITCHES, RATE, Tones, make_tones
from jaxnn.losses.ctc import best_path
from jaxnn.training import TrainState, create_state, make_predict, train


@dataclass(frozen=True)
class Options:
    """Train a bidirectional LSTM with CTC to read tones."""

    features: int = 48
    """Of each direction."""
    examples: int = 2000
    """Sounds to train on; 500 others are held out."""
    epochs: int = 15
    """How often every sound is used."""
    batch_size: int = 32
    """How many sounds a step uses."""
    learning_rate: float = 5e-3
    """The largest learning rate."""
    seed: int = 0
    """Draws the initial parameters and the order of the sounds."""
    output: Path | None = None
    """The folder to make; runs/tones unless given."""


def make_network(features: int, symbols: int = len(PITCHES)) -> nn.Layer:
    """(spectra, lengths) -> logits of every frame: the blank, then the symbols."""
    return nn.serial(
        nn.bidirectional(nn.lstm(features), nn.lstm(features, reverse=True)),
        nn.select(0),
        nn.dense(symbols + 1),
    )


def main(arguments: list[str]) -> None:
    """Train, test, draw."""
    options = parse_options(Options, "tones", arguments)
    for name in ("features", "examples", "epochs", "batch_size"):
        require_positive_integer("tones", name, getattr(options, name))
    training, held_out = make_tones(options.examples, seed=0), make_tones(500, seed=1)
    x, target = as_batch(training)
    network = make_network(options.features)
    run = new_run("tones", options.output)
    print(f"{options.examples} sounds of up to {x[0].shape[1]} frames, 500 held out")
    state, losses = fit(network, x, target, options, run)

    x, _ = as_batch(held_out)
    logits = make_predict(network, 100)(state.params, state.state, x)
    read = np.asarray(best_path(logits, x[1]))
    accuracy = symbol_accuracy(read, held_out.symbols)
    run.append({"test": {"symbol_accuracy": accuracy}})
    print(f"test: {100 * accuracy:.2f} % of {int((held_out.symbols > 0).sum())} symbols")
    figure = draw(losses, held_out, np.asarray(jax.nn.softmax(logits)), read)
    style.save(figure, run.folder / "tones.png")
    print(f"{run.folder}: tones.png, metrics.jsonl")


def fit(
    network: nn.Layer, x: Any, target: Any, options: Any, run: Run
) -> tuple[TrainState, list[float]]:
    """Train by CTC; the train state, and the loss of every epoch.

    Args:
        network: What `make_network` returns.
        x: What it takes.
        target: What the loss takes.
        options: epochs, batch_size, learning_rate and seed.
        run: Where the metrics of the epochs go.
    """
    count = len(x[1])
    batch_size = min(options.batch_size, count)
    rate = optax.cosine_decay_schedule(
        options.learning_rate, options.epochs * -(-count // batch_size)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    state = create_state(network, optimizer, jax.random.key(options.seed), x)
    losses = []
    waiting("compiling")
    for epoch in train(
        network,
        nn.ctc(),
        optimizer,
        state,
        x,
        target,
        epochs=options.epochs,
        batch_size=batch_size,
    ):
        state = epoch.train_state
        losses.append(float(np.mean(epoch.losses)))
        run.append({"epoch": epoch.number, "loss": losses[-1], "seconds": epoch.seconds})
        print(f"epoch {epoch.number}: loss {losses[-1]:.4f}, {epoch.seconds:.1f} s", flush=True)
    return state, losses


def as_batch(tones: Tones) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """What the network takes and what the loss takes. Spectra are brought to about unit size."""
    return (tones.x / 4, tones.lengths), (tones.symbols, tones.lengths)


def symbol_accuracy(read: np.ndarray, symbols: np.ndarray) -> float:
    """1 − (edits from what was read to what was said) / (symbols said)."""
    pairs = [(a[a >= 0], b[b >= 0]) for a, b in zip(read, symbols, strict=True)]
    return 1 - sum(edit_distance(a, b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def edit_distance(a: np.ndarray, b: np.ndarray) -> int:
    """The least number of insertions, deletions and substitutions (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for i, symbol in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (symbol != other))
            diagonal, row[j] = row[j], best
    return row[-1]


def draw(losses: list[float], tones: Tones, probabilities: np.ndarray, read: np.ndarray) -> Figure:
    """The loss; the sound with the most symbols, and the probability of each symbol over time."""
    figure, (curve, sound, symbols) = style.figure(3, height=2.2)
    curve.plot(np.arange(1, len(losses) + 1), losses, marker="o")
    curve.set(xlabel="epoch", ylabel="−log P (nats)", yscale="log", title="loss on training sounds")
    example = int(np.argmax((tones.symbols > 0).sum(1)))
    frames = tones.lengths[example]
    seconds = frames * FRAME / RATE
    step = RATE / FRAME
    sound.imshow(
        tones.x[example, :frames].T,
        aspect="auto",
        origin="lower",
        extent=(0, seconds, step / 2, (BINS + 0.5) * step),
    )
    said = " ".join(str(k) for k in tones.symbols[example] if k > 0)
    sound.set(ylabel="Hz", title=f"a held-out sound, log power; it says {said}")
    sound.grid(False)
    times = (np.arange(frames) + 0.5) * FRAME / RATE
    for symbol in range(1, probabilities.shape[-1]):
        line = probabilities[example, :frames, symbol]
        (drawn,) = symbols.plot(times, line)
        for peak in np.flatnonzero(
            (line > 0.5) & (line >= np.roll(line, 1)) & (line > np.roll(line, -1))
        ):
            symbols.annotate(str(symbol), (times[peak], 1.03), ha="center", color=drawn.get_color())
    symbols.plot(times, probabilities[example, :frames, 0], color=style.GREY, lw=0.8, ls="--")
    heard = " ".join(str(k) for k in read[example] if k > 0)
    symbols.set(
        xlim=(0, seconds),
        ylim=(0, 1.15),
        xlabel="seconds",
        ylabel="probability",
        title=f"of each symbol (blank: grey, dashed); read as {heard}",
    )
    return figure


if __name__ == "__main__":
    run_script(main)
