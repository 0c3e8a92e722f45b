"""Many trainings at once: of every seed with every setting, in one compiled program.

A small network leaves a processor idle: its products are too small to fill it, and most of the time
goes into starting the next operation. Trainings side by side in one `vmap` share every start. Those
of one seed see the same examples in the same order, so that they also share the shuffling, the
batches, and one product for the first layers of all. Their parameters should stay in the cache
together: `TOGETHER` run side by side, the others after them, and every device has its own share.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backprop
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_integer, require_positive_integer
from jaxnn.rewrites.precision import adjust_scale
from jaxnn.training.drawing import make_epoch
from jaxnn.training.steps import (
    TrainState,
    at_evaluation,
    create_state,
    make_step,
    require_batch_fits,
)

TOGETHER, UNROLL = 8, 4
"""How many side by side, and how many steps in the body of a loop: for small networks."""


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


def make_sweep(
    network: Layer,
    loss: Loss,
    make_optimizer: Callable[[Mapping[str, Array]], optax.GradientTransformation],
    x: Any,
    target: Any,
    *,
    epochs: int,
    batch_size: int,
    measure: Callable[[Any, Any], dict[str, Array]] = lambda params, state: {},
    devices: Sequence[Any] | None = None,
) -> Callable[[Sequence[int], Mapping[str, Sequence[float]]], Trials]:
    """(seeds, settings) -> `Trials`: training by backprop, once for every seed with every setting.

    A seed draws the initial parameters, the order of the examples and all noise, as it does for a
    training by itself, whose result each of these is, to rounding. ``settings`` has the numbers of
    each setting by name, as many for every name: the first setting has the first number of each.
    Other numbers, as many, take the same compiled program.

    Args:
        network: The network.
        loss: The loss.
        make_optimizer: (numbers of one setting by name) -> the optimiser. The numbers are traced:
            what is made of them must not ask for their values.
        x: The training inputs, an array or a tuple of arrays, batch first.
        target: Their targets.
        epochs: How often every example is used.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        measure: (params, state) -> numbers by name, after every epoch.
        devices: Among which the trainings are divided; all devices unless given.

    Raises:
        ValueError, TypeError: an argument is not as described; of the function itself also where
            there are no seeds, no settings, or not as many numbers for each name.
    """
    require_positive_integer("sweep", "epochs", epochs)
    require_positive_integer("sweep", "batch_size", batch_size)
    require_batch_fits(batch_size, batch_size_of("sweep", x))
    x, target = jax.tree.map(jnp.asarray, (x, target))
    places = np.asarray(jax.devices() if devices is None else devices)

    def train_one(seed: Array, setting: Mapping[str, Array]) -> Trials:
        optimizer = make_optimizer(setting)
        step = make_step(adjust_scale(backprop(network, loss)), optimizer)
        run_epoch = make_epoch(step, batch_size, donate=False, unroll=UNROLL)

        def epoch(train_state: TrainState, _: None):
            train_state, losses = run_epoch(train_state, x, target)
            own = at_evaluation(train_state)
            return train_state, (jnp.mean(losses), measure(own.params, own.state))

        one = jax.tree.map(lambda a: a[:1], x)
        train_state = create_state(network, optimizer, jax.random.key(seed), one)
        train_state, records = jax.lax.scan(epoch, train_state, length=epochs)
        return Trials(at_evaluation(train_state).params, train_state.state, *records)

    def train_all(seeds: Array, settings: Mapping[str, Array]) -> Trials:
        side_by_side = max(TOGETHER // _count(settings), 1)
        of_seed = jax.vmap(train_one, in_axes=(None, 0))
        return jax.lax.map(lambda seed: of_seed(seed, settings), seeds, batch_size=side_by_side)

    @partial(jax.jit, static_argnames="by_settings")
    def on_devices(seeds: Array, settings: Mapping[str, Array], by_settings: bool) -> Trials:
        over_seeds, over_settings = (None, "sweep") if by_settings else ("sweep", None)
        divided = jax.shard_map(
            train_all,
            mesh=Mesh(places, ("sweep",)),
            in_specs=(P(over_seeds), P(over_settings)),
            out_specs=P(over_seeds, over_settings),
            check_vma=False,
        )
        return divided(seeds, settings)

    def run(seeds: Sequence[int], settings: Mapping[str, Sequence[float]]) -> Trials:
        for seed in seeds:
            require_integer("sweep", "every seed", seed, 0)
        counts = {name: len(values) for name, values in settings.items()}
        if not seeds or len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(
                "sweep: expected at least one seed, and at least one number for each setting, as "
                f"many for each, got {len(seeds)} seeds and {counts or 'no settings'}"
            )
        numbers = {name: np.asarray(values, np.float32) for name, values in settings.items()}
        sizes = len(seeds), _count(numbers)
        idle_seeds, idle_settings = (-size % len(places) for size in sizes)
        by_settings = idle_settings / sizes[1] < idle_seeds / sizes[0]
        trials = on_devices(
            _fill(np.asarray(seeds, np.uint32), 0 if by_settings else idle_seeds),
            _fill(numbers, idle_settings if by_settings else 0),
            by_settings,
        )
        return jax.tree.map(lambda a: a[: sizes[0], : sizes[1]], trials)

    return run


def _count(settings: Mapping[str, Any]) -> int:
    return len(next(iter(settings.values())))


def _fill(tree: Any, count: int) -> Any:
    """So many repetitions of the last more: what devices do that would be idle otherwise."""
    return jax.tree.map(lambda a: np.pad(a, (0, count), mode="edge"), tree)
