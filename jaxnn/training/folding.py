"""Cross-validation: the networks of all folds trained side by side, in one compiled program."""

from collections.abc import Callable, Sequence
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
from jaxnn.core.mixing import mixing_layers
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_integer, require_positive_integer
from jaxnn.rewrites.precision import adjust_scale
from jaxnn.training.drawing import epoch_order, in_batches, one_after_another
from jaxnn.training.steps import (
    TrainState,
    at_evaluation,
    create_state,
    make_step,
    require_batch_fits,
    take_batches,
)
from jaxnn.training.sweeping import UNROLL


class Folds(NamedTuple):
    """What became of every fold; arrays are [folds, ...]."""

    params: Any
    """Of the best epoch; of the last where nothing says which is the best."""
    state: Any
    """Of the layers, likewise."""
    epochs: Array
    """[folds], which epoch that is, from 1."""
    losses: Array
    """[folds, epochs], the mean of the losses before the steps of an epoch."""
    scores: Array
    """[folds, epochs], what ``score`` returned after each; 0 without it."""


def stack_folds(arrays: Sequence[Any]) -> Any:
    """Trees of arrays, examples first, of several lengths as one tree [folds, longest, ...]; zeros
    stand at the end of the shorter ones."""

    def stack(*of_folds: Any) -> np.ndarray:
        longest = max(len(a) for a in of_folds)
        stacked = np.zeros((len(of_folds), longest, *of_folds[0].shape[1:]), of_folds[0].dtype)
        for row, array in zip(stacked, of_folds, strict=True):
            row[: len(array)] = array
        return stacked

    return jax.tree.map(stack, *arrays)


def train_folds(
    network: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Sequence[tuple[Any, Any]],
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    score: Callable[[Any, Any, Any], Array] | None = None,
    held_out: Any = None,
    devices: Sequence[Any] | None = None,
) -> Folds:
    """Train a network anew on each of several data sets of about one size, by backprop.

    The longest data set gives exactly what a training by itself gives, to rounding. In the others,
    which are filled up to its length by what has the weight 0, all real examples come first in an
    epoch, in another order than they would have by themselves, and a step without any changes
    nothing. A network that mixes the examples of a batch (batch normalisation) would see these
    fillers: of such a one only the folds of one length are trained together, so that each is exact.

    Args:
        network: The network.
        loss: The loss.
        optimizer: An optax transformation, for as many steps as the longest data set takes.
        data: The (inputs, targets) of each fold, arrays or trees of them, examples first.
        epochs: How often every example is used.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        seed: Draws initial parameters, orders and noise; the same for each fold.
        score: (params, state, held out of one fold) -> a number after each epoch, of which the
            smallest makes an epoch the best.
        held_out: A tree of arrays [folds, ...], for ``score``.
        devices: Among which the folds are divided; all devices unless given.

    Raises:
        ValueError, TypeError: an argument is not as described.
    """
    require_positive_integer("folds", "epochs", epochs)
    require_positive_integer("folds", "batch_size", batch_size)
    require_integer("folds", "seed", seed, 0)
    counts = np.array([batch_size_of("folds", x) for x, _ in data], np.int32)
    require_batch_fits(batch_size, int(counts.min()))
    one = jax.tree.map(lambda a: a[:1], data[0][0])
    lengths = np.unique(counts)
    if len(lengths) > 1 and _mixes(network, one):
        groups = [np.flatnonzero(counts == length) for length in lengths]
        options = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "score": score}
        found = [
            train_folds(
                network,
                loss,
                optimizer,
                [data[int(fold)] for fold in group],
                held_out=jax.tree.map(lambda a, group=group: a[group], held_out),
                devices=devices,
                **options,
            )
            for group in groups
        ]
        places = np.argsort(np.concatenate(groups))
        return jax.tree.map(lambda *a: jnp.asarray(np.concatenate(a)[places]), *found)
    longest, uneven = int(lengths[-1]), len(lengths) > 1
    step = _guarded(make_step(adjust_scale(backprop(network, loss)), optimizer))
    run = take_batches(step, UNROLL)

    def run_epoch(train_state: TrainState, count: Array, x: Any, target: Any):
        order = epoch_order(train_state, longest, batch_size)
        if uneven:
            order = order[jnp.argsort(order >= count, stable=True)]
        values, real = [], []
        for indices, _ in in_batches(order, batch_size):
            weights = (indices < count).astype(jnp.float32) if uneven else None
            train_state, own = run(train_state, x, target, indices, weights)
            values.append(own)
            real.append(jnp.ones(own.shape) if weights is None else weights.any(1) * 1.0)
        return train_state, jnp.average(one_after_another(values), weights=one_after_another(real))

    def train_one(count: Array, x: Any, target: Any, held_out: Any) -> Folds:
        def epoch(carry: tuple, number: Array):
            train_state, best = carry
            train_state, mean = run_epoch(train_state, count, x, target)
            own = at_evaluation(train_state)
            found = jnp.zeros(()) if score is None else score(own.params, own.state, held_out)
            is_best = (number == 1) | (found < best[0]) | (score is None)
            new = found, number, own.params, own.state
            best = jax.tree.map(lambda a, b: jnp.where(is_best, a, b), new, best)
            return (train_state, best), (mean, found)

        one = jax.tree.map(lambda a: a[:1], x)
        train_state = create_state(network, optimizer, jax.random.key(seed), one)
        own = at_evaluation(train_state)
        found = jnp.zeros(()) if score is None else score(own.params, own.state, held_out)
        start = jnp.full_like(found, jnp.inf), jnp.int32(0), own.params, own.state
        numbers = jnp.arange(1, epochs + 1, dtype=jnp.int32)
        (_, (_, best, params, state)), records = jax.lax.scan(epoch, (train_state, start), numbers)
        return Folds(params, state, best, *records)

    places = np.asarray(jax.devices() if devices is None else devices)[: len(counts)]
    together = jax.shard_map(
        jax.vmap(train_one),
        mesh=Mesh(places, ("folds",)),
        in_specs=P("folds"),
        out_specs=P("folds"),
        check_vma=False,
    )
    idle = -len(counts) % len(places)

    def fill(a: Any) -> np.ndarray:
        return np.pad(a, [(0, idle), *[(0, 0)] * (np.ndim(a) - 1)], mode="edge")

    arguments = jax.tree.map(fill, (counts, *stack_folds(data), held_out))
    return jax.tree.map(lambda a: a[: len(counts)], jax.jit(together)(*arguments))


def _mixes(network: Layer, one: Any) -> bool:
    key = jax.random.key(0)
    params, state = jax.eval_shape(network.init, key, one)
    return bool(mixing_layers(network, params, state, one, key))


def _guarded(step: Callable) -> Callable:
    """The step, which does nothing but count where no example of its batch has a weight."""

    def run(train_state: TrainState, x: Any, target: Any, weights: Array | None = None):
        if weights is None:
            return step(train_state, x, target)
        after, value = step(train_state, x, target, weights)
        some = weights.any()
        kept = train_state._replace(step=after.step)
        # A key is what it was in either case.
        leaves, tree = jax.tree.flatten(after)
        chosen = [
            a if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else jnp.where(some, a, b)
            for a, b in zip(leaves, jax.tree.leaves(kept), strict=True)
        ]
        return jax.tree.unflatten(tree, chosen), jnp.where(some, value, 0)

    return run
