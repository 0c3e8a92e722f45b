"""Many trainings at once: of every seed with every setting, in one compiled program.

A small network leaves a processor idle: its products are too small to fill it, and most of the time
goes into starting the next operation. Trainings side by side in one `vmap` share every start. Those
of one seed see the same examples in the same order, so that they also share the shuffling, the
batches, and one product for the first layers of all. Their parameters should stay in the cache
together: `TOGETHER` run side by side, the others after them, and every device has its own share.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxnn.gradients import backprop
from jaxnn.layer import Layer, Loss
from jaxnn.precision import adjust_scale
from jaxnn.training.steps import TrainState, create_state, make_epoch, make_step, require_batch_fits
from jaxnn.validation import batch_size as batch_size_of
from jaxnn.validation import require_integer, require_positive_integer

TOGETHER = 8


class Trials(NamedTuple):
    """What became of every seed with every setting; arrays are [seeds, settings, ...]."""

    params: Any
    """At the end."""
    state: Any
    """Of the layers, at the end."""
    losses: Array
    """[seeds, settings, epochs], the mean of the losses before the steps of an epoch."""
    measures: dict[str, Array]
    """[seeds, settings, epochs], what ``measure`` returned after every epoch."""


def train_many(
    network: Layer,
    loss: Loss,
    make_optimizer: Callable[[Mapping[str, Array]], optax.GradientTransformation],
    x: Any,
    target: Any,
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Sequence[float]],
    epochs: int,
    batch_size: int,
    measure: Callable[[Any, Any], dict[str, Array]] = lambda params, state: {},
    devices: Sequence[jax.Device] | None = None,
) -> Trials:
    """Train by backprop once for every seed with every setting, all at once.

    A seed draws the initial parameters, the order of the examples and all noise, as it does for a
    training by itself, whose result each of these is, to rounding.

    Args:
        network: The network.
        loss: The loss.
        make_optimizer: (settings of one training) -> the optimiser. The numbers are traced: what is
            made of them must not ask for their values.
        x: The training inputs, an array or a tuple of arrays, batch first.
        target: Their targets.
        seeds: Those of the trainings.
        settings: The numbers of each setting by name, as many for every name: the first setting has
            the first number of each.
        epochs: How often every example is used.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        measure: (params, state) -> numbers by name, after every epoch.
        devices: Among which the trainings are divided; all devices unless given.

    Raises:
        ValueError, TypeError: an argument is not as described.
    """
    require_positive_integer("train_many", "epochs", epochs)
    require_positive_integer("train_many", "batch_size", batch_size)
    require_batch_fits(batch_size, batch_size_of("train_many", x))
    for seed in seeds:
        require_integer("train_many", "every seed", seed, 0)
    counts = {name: len(values) for name, values in settings.items()}
    if not seeds or len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(
            "train_many: expected at least one seed, and at least one number for each setting, as "
            f"many for each, got {len(seeds)} seeds and {counts or 'no settings'}"
        )
    x, target = jax.tree.map(jnp.asarray, (x, target))

    def train_one(seed: Array, chosen: Mapping[str, Array]) -> Trials:
        optimizer = make_optimizer(chosen)
        step = make_step(adjust_scale(backprop(network, loss)), optimizer)
        run_epoch = make_epoch(step, batch_size, donate=False)

        def epoch(train_state: TrainState, _: None):
            train_state, losses = run_epoch(train_state, x, target)
            return train_state, (jnp.mean(losses), measure(train_state.params, train_state.state))

        one = jax.tree.map(lambda a: a[:1], x)
        train_state = create_state(network, optimizer, jax.random.key(seed), one)
        train_state, records = jax.lax.scan(epoch, train_state, length=epochs)
        return Trials(train_state.params, train_state.state, *records)

    def train_all(seeds: Array, settings: Mapping[str, Array]) -> Trials:
        side_by_side = max(TOGETHER // len(jax.tree.leaves(settings)[0]), 1)
        of_seed = jax.vmap(train_one, in_axes=(None, 0))
        return jax.lax.map(lambda seed: of_seed(seed, settings), seeds, batch_size=side_by_side)

    numbers = {name: np.asarray(values, np.float32) for name, values in settings.items()}
    return _on_devices(train_all, np.asarray(seeds, np.uint32), numbers, devices or jax.devices())


def _on_devices(run: Callable, seeds: Any, settings: Any, devices: Sequence[jax.Device]) -> Trials:
    """``run``, with the seeds or the settings divided among the devices."""
    sizes = len(seeds), len(jax.tree.leaves(settings)[0])
    by_settings = _idle(sizes[1], len(devices)) < _idle(sizes[0], len(devices))
    # What cannot be divided evenly is filled up with repetitions, which are cut off again.
    padded = [
        jax.tree.map(lambda a, missing=missing: np.pad(a, (0, missing), mode="edge"), tree)
        for tree, missing in (
            (seeds, 0 if by_settings else -len(seeds) % len(devices)),
            (settings, -sizes[1] % len(devices) if by_settings else 0),
        )
    ]
    seed_axis, setting_axis = (None, "trials") if by_settings else ("trials", None)
    divided = jax.shard_map(
        run,
        mesh=Mesh(np.asarray(devices), ("trials",)),
        in_specs=(P(seed_axis), P(setting_axis)),
        out_specs=P(seed_axis, setting_axis),
        check_vma=False,
    )
    trials = jax.jit(divided)(*padded)
    return jax.tree.map(lambda a: np.asarray(a)[: sizes[0], : sizes[1]], trials)


def _idle(count: int, devices: int) -> float:
    """The share of the devices' time that padding takes."""
    return -count % devices / count
