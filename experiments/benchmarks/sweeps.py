"""64 small networks trained at once and one after the other, and launched each by itself.

Every contender trains the same networks, 64-64-32-10 on digits in batches of 32 by Adam, with eight
seeds and eight learning rates, and its losses are compared with those of the first before anything
is timed. A unit of work is one network. A network's step is about 1.0 MFLOP of products (forward
0.41, weight gradients 0.41, deltas 0.15) and 0.16 MB of Adam's arrays read and written.

What is launched is a process of its own from start to end, imports and compilation included.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.benchmarks.measuring import Contender, Settings, measure, table
from jaxnn import data
from jaxnn.training import create_state, make_epoch, make_step, make_sweep

SEEDS = range(8)
RATES = tuple(float(rate) for rate in np.geomspace(1e-3, 1e-2, 8).astype(np.float32))
EPOCHS, BATCH_SIZE = 4, 32
LAYERS = ("dense(64)", "relu()", "dense(32)", "relu()", "dense(10)")
LAUNCHED_EPOCHS = 20
ROOT = Path(__file__).parent.parent.parent


def in_one_program() -> dict[str, Contender]:
    """On all devices, on one of them, by a plain vmap, and one after the other."""
    examples = data.load("digits").train
    x, labels = jnp.asarray(examples.x), jnp.asarray(examples.target)
    network = nn.serial(nn.dense(64), nn.relu(), nn.dense(32), nn.relu(), nn.dense(10))
    loss = nn.softmax_cross_entropy()

    def train_one(unroll: int, seed: jax.Array, rate: jax.Array) -> jax.Array:
        optimizer = optax.adam(rate)
        step = make_step(nn.backprop(network, loss), optimizer)
        run = make_epoch(step, BATCH_SIZE, donate=False, unroll=unroll)
        state = create_state(network, optimizer, jax.random.key(seed), x[:1])
        _, losses = jax.lax.scan(lambda s, _: run(s, x, labels), state, length=EPOCHS)
        return jnp.mean(losses, 1)

    pairs = jnp.repeat(jnp.asarray(SEEDS), len(RATES)), jnp.tile(jnp.asarray(RATES), len(SEEDS))

    def serially(seeds: jax.Array, rates: jax.Array, unroll: int) -> jax.Array:
        return jax.lax.map(lambda pair: train_one(unroll, *pair), (seeds, rates))

    def sweep(devices: list[Any]):
        run = make_sweep(
            network,
            loss,
            lambda setting: optax.adam(setting["learning_rate"]),
            x,
            labels,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            devices=devices,
        )
        return lambda: run(SEEDS, {"learning_rate": RATES}).losses.reshape(-1, EPOCHS)

    devices = jax.devices()
    runs = {
        f"at once, {len(devices)} devices": sweep(devices),
        "at once, 1 device": sweep(devices[:1]),
        "plain vmap": partial(jax.jit(jax.vmap(partial(train_one, 1))), *pairs),
        "one after another": partial(jax.jit(partial(serially, unroll=1)), *pairs),
        "one after another, unrolled": partial(jax.jit(partial(serially, unroll=4)), *pairs),
    }
    if len(devices) == 1:
        del runs["at once, 1 device"]
    first = next(iter(runs.values()))()
    for name, run in runs.items():
        # Later, rounding errors have grown.
        if not np.allclose(run()[:, 0], first[:, 0], rtol=1e-3):
            raise AssertionError(f"{name} does not train the same networks")
    work = len(SEEDS) * len(RATES)
    return {
        name: Contender(lambda run=run: jax.block_until_ready(run()), work=work)
        for name, run in runs.items()
    }


def launched() -> dict[str, Contender]:
    """The script for a sweep, and the one for a single network."""
    common = ["digits_mlp", "--network", *LAYERS, "--schedule", "constant()"]
    common += ["--epochs", str(LAUNCHED_EPOCHS), "--gradient", "manual"]
    rates = [str(rate) for rate in RATES]

    def launch(script: str, *options: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", f"experiments.{script}", *common, *options]
            command += ["--output", str(Path(folder) / "run")]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def sweep() -> None:
        launch("sweep", "--seeds", str(len(SEEDS)), "--learning-rate", *rates)

    def one() -> None:
        launch("train", "--learning-rate", rates[0])

    work = len(SEEDS) * len(RATES)
    return {"one sweep": Contender(sweep, work=work), "a launch for each": Contender(one)}


def run(settings: Settings) -> Mapping[str, Any]:
    """Measure both, in one program and with all that a launch takes."""
    workloads = {"64 digits MLPs in one program": in_one_program, "64 launches": launched}
    return measure(workloads, settings, table)
