"""A language model of single characters, trained on the texts of Python's help().

python -m experiments.language_model
python -m experiments.language_model --network lstm --epochs 5 --temperature 0.5

Prints the bits that a held-out character takes, and what the model writes after a prompt.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.support.command_line import parse_options, run_script
from experiments.support.runs import new_run
from jaxnn.data.text import Text, python_topics
from jaxnn.decoding import from_sequence, greedy, sample
from jaxnn.training import create_state, make_predict, train


@dataclass(frozen=True)
class Options:
    """Train a character-level language model and let it write."""

    network: Literal["transformer", "lstm"] = "transformer"
    """Which network."""
    length: int = 128
    """The characters of one window."""
    features: int = 128
    """The length of every vector in the network."""
    epochs: int = 6
    """How often every window is used."""
    batch_size: int = 16
    """How many windows a step uses."""
    learning_rate: float = 2e-3
    """The largest learning rate."""
    prompt: str = "The statement "
    """What the model goes on from."""
    characters: int = 300
    """How many it writes."""
    temperature: float = 0.7
    """Of the sample; see jaxnn.decoding."""
    seed: int = 0
    """Draws the initial parameters, the order of the windows and the sample."""
    output: Path | None = None
    """The folder to make; runs/language_model_NETWORK unless given."""


def transformer(characters: int, features: int) -> nn.Layer:
    """Two causal blocks with rotary positions."""
    block = nn.transformer_block(features, 4, norm="rms_norm", causal=True, rotary=True)
    return nn.serial(
        nn.embedding(characters, features, weight_init="normal(0.1)"),
        nn.repeat(block, 2),
        nn.rms_norm(),
        nn.dense(characters),
    )


def lstm(characters: int, features: int) -> nn.Layer:
    """One recurrent layer with twice as many features."""
    return nn.serial(
        nn.embedding(characters, features, weight_init="normal(0.1)"),
        nn.lstm(2 * features),
        nn.dense(characters),
    )


NETWORKS: dict[str, Callable[[int, int], nn.Layer]] = {"transformer": transformer, "lstm": lstm}


def main(arguments: list[str]) -> None:
    """Train, test, write."""
    options = parse_options(Options, "language_model", arguments)
    training, held_out = python_topics(options.length)
    unknown = sorted(set(options.prompt) - set(training.alphabet))
    if unknown or not options.prompt:
        raise ValueError(
            f"expected prompt to hold characters of the text, at least one, got {options.prompt!r}"
        )
    network = NETWORKS[options.network](len(training.alphabet), options.features)
    steps = options.epochs * -(-len(training.x) // options.batch_size)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, min(100, steps // 10), steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    state = create_state(network, optimizer, jax.random.key(options.seed), training.x[:1])
    run = new_run(f"language_model_{options.network}", options.output)
    print(f"{options.network}: {training.x.size} characters, {len(training.alphabet)} different")
    loss = nn.softmax_cross_entropy()
    for epoch in train(
        network,
        loss,
        optimizer,
        state,
        training.x,
        training.target,
        epochs=options.epochs,
        batch_size=options.batch_size,
    ):
        state = epoch.train_state
        bits = float(np.mean(epoch.losses)) / math.log(2)
        run.append({"epoch": epoch.number, "bits": bits, "seconds": epoch.seconds})
        print(f"epoch {epoch.number}: {bits:.3f} bits, {epoch.seconds:.1f} s", flush=True)
    logits = make_predict(network, 64)(state.params, state.state, held_out.x)
    bits = float(jnp.mean(loss.value(logits, jnp.asarray(held_out.target)))) / math.log(2)
    run.append({"test": {"bits": bits}})
    print(f"held-out text: {bits:.3f} bits a character")

    def predict(tokens: jax.Array):
        return network.predict(state.params, state.state, tokens)

    for name, text in write(predict, training, options).items():
        print(f"\n{name}:\n{text}")
        run.append({"sample": name, "text": text})
    print(f"\n{run.folder}: {json.dumps({'bits': round(bits, 3)})}, metrics.jsonl")


def write(predict: Callable, text: Text, options: Options) -> dict[str, str]:
    """What the network writes after the prompt: the most probable, and a sample."""
    prompt = jnp.array([[text.alphabet.index(c) for c in options.prompt]])
    key = jax.random.key(options.seed)

    @jax.jit
    def decode():
        start = from_sequence(predict, prompt, options.characters, window=options.length)
        drawn = sample(*start, options.characters, key, temperature=options.temperature)
        return greedy(*start, options.characters), drawn

    names = ("greedy", f"temperature {options.temperature:g}")
    rows = (np.asarray(tokens)[0] for tokens in decode())
    return {name: options.prompt + text.decode(row) for name, row in zip(names, rows, strict=True)}


if __name__ == "__main__":
    run_script(main)
