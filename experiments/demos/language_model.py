"""A language model of single characters, trained on a text: your own, or that of Python's help().

python -m experiments.language_model
python -m experiments.language_model --text poems.txt --network lstm --epochs 5
python -m experiments.language_model --run runs/poems --prompt "The sea" --temperature 0.5
python -m experiments.language_model --run runs/poems --text other.txt

Prints the bits that a held-out character takes, and what the model writes after a prompt. The run
folder has the model with its alphabet: it writes on, and is evaluated on another text, by --run.
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
from experiments.support.calling import waiting
from experiments.support.command_line import parse_options, run_script
from experiments.support.kept import Kept, keep, restore
from experiments.support.runs import new_run
from jaxnn.core.validation import printable
from jaxnn.data.text import Text, encode_text, python_topics, read_text, split_text, windows_of
from jaxnn.decoding import from_sequence, greedy, sample
from jaxnn.training import create_state, make_predict, train

KIND = "text"
PROMPT = 16
"""How many characters of the held-out text are gone on from, unless others are given."""


@dataclass(frozen=True)
class Options:
    """Train a character-level language model and let it write."""

    text: Path | None = None
    """A file of text, whose end is held out; with --run, one to be evaluated on."""
    encoding: str = "utf-8"
    """Of the file."""
    held_out: float = 0.05
    """The share at the end of the text that is kept for the test."""
    run: Path | None = None
    """A run folder, whose model writes and is evaluated; nothing is trained."""
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
    prompt: str | None = None
    """What the model goes on from; unless given, how the held-out text begins."""
    characters: int = 300
    """How many it writes."""
    temperature: float = 0.7
    """Of the sample; see jaxnn.decoding."""
    seed: int = 0
    """Draws the initial parameters, the order of the windows and the sample."""
    output: Path | None = None
    """The folder to make; runs/language_model_NETWORK, or runs/TEXT, unless given."""


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
    if options.run is not None:
        _use(options)
        return
    if options.text is None:
        training, held_out = python_topics(options.length, options.held_out)
    else:
        text = read_text(options.text, options.encoding)
        training, held_out = split_text(text, options.length, options.held_out, str(options.text))
    prompt = _prompt(options, training.alphabet, held_out)
    network = NETWORKS[options.network](len(training.alphabet), options.features)
    steps = options.epochs * -(-len(training.x) // options.batch_size)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, min(100, steps // 10), steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    state = create_state(network, optimizer, jax.random.key(options.seed), training.x[:1])
    name = f"language_model_{options.network}" if options.text is None else options.text.stem
    run = new_run(name, options.output)
    waiting("compiling")
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
        batch_size=min(options.batch_size, len(training.x)),
    ):
        state = epoch.train_state
        bits = float(np.mean(epoch.losses)) / math.log(2)
        run.append({"epoch": epoch.number, "bits": bits, "seconds": epoch.seconds})
        print(f"epoch {epoch.number}: {bits:.3f} bits, {epoch.seconds:.1f} s", flush=True)
    facts = {"alphabet": training.alphabet, "length": options.length, "prompt": prompt}
    kept = Kept(network, state, facts)
    keep(run.folder, KIND, kept)
    bits = bits_of(kept, held_out)
    run.append({"test": {"bits": bits}})
    print(f"held-out text: {bits:.3f} bits a character")
    for title, written in write(kept, prompt, options).items():
        print(f"\n{title}:\n{printable(written)}")
        run.append({"sample": title, "text": written})
    print(f"\n{run.folder}: {json.dumps({'bits': round(bits, 3)})}, metrics.jsonl")


def _use(options: Options) -> None:
    """Write with a model that has been trained, and evaluate it on another text."""
    assert options.run is not None
    kept = restore(options.run, KIND, lambda facts: jnp.zeros((1, int(facts["length"])), jnp.int32))
    alphabet, length = str(kept.facts["alphabet"]), int(kept.facts["length"])
    if options.text is not None:
        where = str(options.text)
        other = windows_of(read_text(options.text, options.encoding), length, alphabet, where)
        print(f"{where}: {bits_of(kept, other):.3f} bits a character")
    prompt = _prompt(options, alphabet, None) if options.prompt else str(kept.facts["prompt"])
    for title, written in write(kept, prompt, options).items():
        print(f"\n{title}:\n{printable(written)}")


def _prompt(options: Options, alphabet: str, held_out: Text | None) -> str:
    """What is to be gone on from, once its characters are found to be known."""
    prompt = options.prompt
    if prompt is None and held_out is not None:
        prompt = held_out.decode(held_out.x[0, :PROMPT])
    if not prompt:
        raise ValueError("language_model: expected prompt to hold characters of the text, got none")
    encode_text(prompt, alphabet, "language_model: prompt")
    return prompt


def bits_of(kept: Kept, text: Text) -> float:
    """How many bits a character of a text takes."""
    state = kept.train_state
    logits = make_predict(kept.network, 64)(state.params, state.state, text.x)
    loss = nn.softmax_cross_entropy().value(logits, jnp.asarray(text.target))
    return float(jnp.mean(loss)) / math.log(2)


def write(kept: Kept, prompt: str, options: Options) -> dict[str, str]:
    """What the network writes after the prompt: the most probable, and a sample."""
    state, alphabet = kept.train_state, kept.facts["alphabet"]
    ids = jnp.asarray(encode_text(prompt, alphabet))[None]
    key = jax.random.key(options.seed)

    def predict(tokens: jax.Array):
        return kept.network.predict(state.params, state.state, tokens)

    @jax.jit
    def decode():
        start = from_sequence(predict, ids, options.characters, window=kept.facts["length"])
        drawn = sample(*start, options.characters, key, temperature=options.temperature)
        return greedy(*start, options.characters), drawn

    names = ("greedy", f"temperature {options.temperature:g}")
    rows = (np.asarray(tokens)[0] for tokens in decode())
    written = ("".join(alphabet[i] for i in row) for row in rows)
    return {name: prompt + text for name, text in zip(names, written, strict=True)}


if __name__ == "__main__":
    run_script(main)
