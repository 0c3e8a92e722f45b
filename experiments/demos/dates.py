"""Translate dates as people write them, in ten languages, to ISO dates.

python -m experiments.dates
python -m experiments.dates --network lstm --epochs 5 --output runs/dates_lstm

An encoder reads the characters of the text, a decoder writes the ten of the ISO date one after the
other and looks at the text through attention. What counts is the share of held-out dates, of days
that no training example has, that come out right in all ten characters.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.runs import new_run
from jaxnn.data.dates import DIGITS, START, Dates, make_dates
from jaxnn.decoding import beam, from_sequence, greedy
from jaxnn.layers.attention import attention_maps
from jaxnn.training import create_state, train
from jaxnn.training.steps import TrainState


@dataclass(frozen=True)
class Options:
    """Translate human-written dates to ISO dates."""

    network: Literal["transformer", "lstm"] = "transformer"
    """Which encoder-decoder."""
    examples: int = 20_000
    """For training."""
    held_out: int = 2_000
    """On other days, for the test."""
    features: int = 64
    """The length of every vector in the network."""
    epochs: int = 10
    """How often every training example is used."""
    batch_size: int = 64
    """How many examples a step uses."""
    learning_rate: float = 2e-3
    """The largest learning rate."""
    seed: int = 0
    """Draws the dates, the initial parameters and the order of the examples."""
    output: Path | None = None
    """The folder to make; runs/dates_NETWORK unless given."""


def transformer(characters: int, features: int) -> nn.Layer:
    """(text, lengths, characters so far) -> logits of the next ones."""
    encoder = nn.serial(
        nn.select(0, 1), nn.repeat(nn.transformer_block(features, 4, mask=True), 2), nn.select(0)
    )
    decoder = nn.transformer_block(features, 4, memory=True, mask=True, causal=True)
    return nn.serial(
        nn.on(0, nn.serial(nn.embedding(characters + 1, features), nn.positional_embedding())),
        nn.on(2, nn.serial(nn.embedding(START + 1, features), nn.positional_embedding())),
        nn.fork(nn.select(2), encoder, nn.select(1)),
        nn.repeat(decoder, 2),
        nn.select(0),
        nn.layer_norm(),
        nn.dense(len(DIGITS)),
    )


def lstm(characters: int, features: int) -> nn.Layer:
    """The same with recurrent encoder and decoder and one attention between them."""
    both_ways = nn.bidirectional(nn.lstm(features), nn.lstm(features, reverse=True))
    return nn.serial(
        nn.on(0, nn.embedding(characters + 1, features)),
        nn.on(2, nn.serial(nn.embedding(START + 1, features), nn.lstm(2 * features))),
        nn.fork(nn.select(2), nn.serial(nn.select(0, 1), both_ways, nn.select(0)), nn.select(1)),
        nn.fork(nn.select(0), nn.attention(1)),
        nn.concatenate(),
        nn.dense(2 * features),
        nn.tanh(),
        nn.dense(len(DIGITS)),
    )


NETWORKS = {"transformer": transformer, "lstm": lstm}


def main(arguments: list[str]) -> None:
    """Train, decode the held-out dates, draw what the decoder looked at."""
    options = parse_options(Options, "dates", arguments)
    training, held_out = make_dates(options.examples, options.held_out, options.seed)
    network = NETWORKS[options.network](len(training.alphabet), options.features)
    steps = options.epochs * -(-options.examples // options.batch_size)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, min(200, steps // 10), steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    x = inputs(training)
    start = create_state(
        network, optimizer, jax.random.key(options.seed), jax.tree.map(lambda a: a[:1], x)
    )
    run = new_run(f"dates_{options.network}", options.output)
    print(f"{options.network}: {len(training.texts)} dates, {len(training.alphabet)} characters")
    loss, state = nn.softmax_cross_entropy(), start
    for epoch in train(
        network,
        loss,
        optimizer,
        start,
        x,
        training.target,
        epochs=options.epochs,
        batch_size=options.batch_size,
    ):
        state = epoch.train_state
        mean = float(np.mean(epoch.losses))
        record = {"epoch": epoch.number, "loss": mean, "seconds": epoch.seconds}
        run.append(record)
        print(f"epoch {epoch.number}: loss {mean:.5f}, {epoch.seconds:.1f} s", flush=True)
    decoded = translate(network, state, held_out)
    right = (decoded == held_out.target).all(1)
    by_beam = (translate(network, state, held_out, width=3) == held_out.target).all(1)
    scores = {"exact": float(right.mean()), "exact_beam_3": float(by_beam.mean())}
    run.append({"test": scores})
    print(f"held-out days: {json.dumps(scores)}")
    for i in [*range(5), *np.flatnonzero(~right)[:5]]:
        shown = "".join(DIGITS[c] for c in decoded[i])
        print(f"  {held_out.texts[i]!r} -> {shown}{'' if right[i] else '  (wrong)'}")
    picture = style.save(draw(network, state, held_out, decoded), run.folder / "attention.png")
    print(f"{run.folder}: metrics.jsonl, {picture.name}")


def inputs(dates: Dates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network is given."""
    return dates.source, dates.lengths, dates.given


def translate(
    network: nn.Layer, state: TrainState, dates: Dates, width: int = 1, batch_size: int = 500
) -> np.ndarray:
    """[examples, 10], the decoded characters: greedily, or the best of a beam."""

    @jax.jit
    def decode(source: jax.Array, lengths: jax.Array):
        def predict(tokens: jax.Array):
            copies = tokens.shape[0] // source.shape[0]
            text = (jnp.repeat(a, copies, 0) for a in (source, lengths))
            return network.predict(state.params, state.state, (*text, tokens))

        prompt = jnp.full((source.shape[0], 1), START)
        length = dates.target.shape[1]
        arguments = (*from_sequence(predict, prompt, length), length)
        if width == 1:
            return greedy(*arguments)
        return beam(*arguments, width=width).tokens[:, 0]

    parts = [
        decode(dates.source[i : i + batch_size], dates.lengths[i : i + batch_size])
        for i in range(0, len(dates.texts), batch_size)
    ]
    return np.concatenate(parts)


def draw(network: nn.Layer, state: TrainState, dates: Dates, decoded: np.ndarray) -> Figure:
    """Where the decoder looked while it wrote: its last attention, the mean over the heads."""
    by_length = np.argsort(dates.lengths, kind="stable")
    chosen = by_length[[len(by_length) * part // 8 for part in (1, 3, 5, 7)]]
    given = dates._replace(target=decoded).given
    x = (dates.source[chosen], dates.lengths[chosen], given[chosen])
    alone = nn.in_inference_mode(network)
    _, _, residuals = jax.jit(alone.forward)(state.params, state.state, x, None)
    last = attention_maps(residuals)[-1]
    weights = np.asarray(last.reshape(-1, *last.shape[-4:])[-1].mean(1))
    figure, axes = style.figure(2, 2, height=2.6)
    for ax, example, row in zip(axes.flat, chosen, weights, strict=True):
        text = dates.texts[example]
        ax.imshow(row[:, : len(text)], aspect="auto", vmin=0)
        ax.set_xticks(range(len(text)), list(text))
        ax.set_yticks(range(row.shape[0]), [DIGITS[c] for c in decoded[example]])
        ax.grid(False)
    figure.suptitle("attention of the decoder: the date written downwards, the text read across")
    return figure


if __name__ == "__main__":
    run_script(main)
