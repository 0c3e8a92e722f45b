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
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.support import style
from experiments.support.calling import waiting
from experiments.support.command_line import parse_options, run_script
from experiments.support.runs import Run, new_run
from jaxnn.data.dates import make_dates
from jaxnn.data.pairs import Pairs
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


def transformer(characters: int, symbols: int, features: int) -> nn.Layer:
    """(text, lengths, characters so far) -> logits of the next ones."""
    encoder = nn.serial(
        nn.select(0, 1), nn.repeat(nn.transformer_block(features, 4, mask=True), 2), nn.select(0)
    )
    decoder = nn.transformer_block(features, 4, memory=True, mask=True, causal=True)
    return nn.serial(
        nn.on(0, nn.serial(nn.embedding(characters + 1, features), nn.positional_embedding())),
        nn.on(2, nn.serial(nn.embedding(symbols + 1, features), nn.positional_embedding())),
        nn.fork(nn.select(2), encoder, nn.select(1)),
        nn.repeat(decoder, 2),
        nn.select(0),
        nn.layer_norm(),
        nn.dense(symbols),
    )


def lstm(characters: int, symbols: int, features: int) -> nn.Layer:
    """The same with recurrent encoder and decoder and one attention between them."""
    both_ways = nn.bidirectional(nn.lstm(features), nn.lstm(features, reverse=True))
    return nn.serial(
        nn.on(0, nn.embedding(characters + 1, features)),
        nn.on(2, nn.serial(nn.embedding(symbols + 1, features), nn.lstm(2 * features))),
        nn.fork(nn.select(2), nn.serial(nn.select(0, 1), both_ways, nn.select(0)), nn.select(1)),
        nn.fork(nn.select(0), nn.attention(1)),
        nn.concatenate(),
        nn.dense(2 * features),
        nn.tanh(),
        nn.dense(symbols),
    )


NETWORKS = {"transformer": transformer, "lstm": lstm}


def main(arguments: list[str]) -> None:
    """Train, decode the held-out dates, draw what the decoder looked at."""
    options = parse_options(Options, "dates", arguments)
    training, held_out = make_dates(options.examples, options.held_out, options.seed)
    network = network_for(training, options)
    run = new_run(f"dates_{options.network}", options.output)
    print(f"{options.network}: {len(training.texts)} dates, {len(training.alphabet)} characters")
    state = fit(network, training, options, run)
    decoded = translate(network, state, held_out)
    right = (decoded == held_out.target).all(1)
    by_beam = (translate(network, state, held_out, width=3) == held_out.target).all(1)
    scores = {"exact": float(right.mean()), "exact_beam_3": float(by_beam.mean())}
    run.append({"test": scores})
    print(f"held-out days: {json.dumps(scores)}")
    for i in [*range(5), *np.flatnonzero(~right)[:5]]:
        shown = "".join(held_out.read(decoded[i]))
        print(f"  {held_out.texts[i]!r} -> {shown}{'' if right[i] else '  (wrong)'}")
    by_length = np.argsort(held_out.lengths, kind="stable")
    chosen = by_length[[len(by_length) * part // 8 for part in (1, 3, 5, 7)]]
    figure = draw(network, state, held_out, chosen, decoded[chosen])
    figure.suptitle("attention of the decoder: the date written downwards, the text read across")
    picture = style.save(figure, run.folder / "attention.png")
    print(f"{run.folder}: metrics.jsonl, {picture.name}")


def network_for(pairs: Pairs, options: Any) -> nn.Layer:
    """The one that the options network and features name, for these pairs."""
    return NETWORKS[options.network](len(pairs.alphabet), len(pairs.symbols), options.features)


def inputs(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network is given."""
    return pairs.source, pairs.lengths, pairs.given


def fit(network: nn.Layer, pairs: Pairs, options: Any, run: Run) -> TrainState:
    """Train to write each character of the target after those before it.

    Args:
        network: What `network_for` returns.
        pairs: To train on.
        options: epochs, batch_size, learning_rate and seed.
        run: Where the metrics of the epochs go.
    """
    steps = options.epochs * -(-len(pairs.texts) // options.batch_size)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, min(200, steps // 10), steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    x = inputs(pairs)
    state = create_state(
        network, optimizer, jax.random.key(options.seed), jax.tree.map(lambda a: a[:1], x)
    )
    waiting("compiling")
    for epoch in train(
        network,
        nn.softmax_cross_entropy(),
        optimizer,
        state,
        x,
        pairs.target,
        epochs=options.epochs,
        batch_size=options.batch_size,
    ):
        state = epoch.train_state
        mean = float(np.mean(epoch.losses))
        run.append({"epoch": epoch.number, "loss": mean, "seconds": epoch.seconds})
        print(f"epoch {epoch.number}: loss {mean:.5f}, {epoch.seconds:.1f} s", flush=True)
    return state


def translate(
    network: nn.Layer, state: TrainState, pairs: Pairs, width: int = 1, batch_size: int = 500
) -> np.ndarray:
    """[examples, longest], the decoded characters: greedily, or the best of a beam."""

    @jax.jit
    def decode(source: jax.Array, lengths: jax.Array):
        def predict(tokens: jax.Array):
            copies = tokens.shape[0] // source.shape[0]
            text = (jnp.repeat(a, copies, 0) for a in (source, lengths))
            return network.predict(state.params, state.state, (*text, tokens))

        prompt = jnp.full((source.shape[0], 1), pairs.start)
        length = pairs.target.shape[1]
        arguments = (*from_sequence(predict, prompt, length), length)
        if width == 1:
            return greedy(*arguments)
        return beam(*arguments, width=width).tokens[:, 0]

    parts = [
        decode(pairs.source[i : i + batch_size], pairs.lengths[i : i + batch_size])
        for i in range(0, len(pairs.texts), batch_size)
    ]
    return np.concatenate(parts)


def draw(
    network: nn.Layer, state: TrainState, pairs: Pairs, chosen: np.ndarray, decoded: np.ndarray
) -> Figure:
    """Where the decoder looked while it wrote: its last attention, the mean over the heads.

    Args:
        network: What was trained.
        state: Its parameters and state.
        pairs: Of which some are drawn.
        chosen: Four places in them.
        decoded: What the decoder wrote for these.
    """
    given = pairs._replace(target=decoded).given
    x = (pairs.source[chosen], pairs.lengths[chosen], given)
    alone = nn.in_inference_mode(network)
    _, _, residuals = jax.jit(alone.forward)(state.params, state.state, x, None)
    last = attention_maps(residuals)[-1]
    weights = np.asarray(last.reshape(-1, *last.shape[-4:])[-1].mean(1))
    lines = [pairs.read(target) for target in decoded]
    # A token beside its row of tiles takes a sixth of an inch.
    heights = [max(2.6, 0.9 + max(map(len, two)) / 6) for two in (lines[:2], lines[2:])]
    figure, axes = style.figure(2, 2, height=sum(heights) / 2, height_ratios=heights)
    for ax, example, written, row in zip(axes.flat, chosen, lines, weights, strict=True):
        text = pairs.texts[example]
        ax.imshow(row[: len(written), : len(text)], aspect="auto", vmin=0)
        rotation = 60 if max(map(len, text)) > 1 else 0
        ax.set_xticks(range(len(text)), list(text), rotation=rotation)
        ax.set_yticks(range(len(written)), list(written))
        ax.grid(False)
    return figure


if __name__ == "__main__":
    run_script(main)
