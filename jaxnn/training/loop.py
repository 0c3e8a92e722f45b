"""The outer loop: epochs of training, evaluated, watched, and stopped when there is a reason to."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn.core.gradients import autodiff, backprop
from jaxnn.core.layer import Layer, Loss
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_number, require_positive_integer, unknown_name
from jaxnn.learning.accumulation import accumulate
from jaxnn.learning.privacy import Privacy, private
from jaxnn.rewrites.precision import adjust_scale
from jaxnn.sharding import mesh_of, on_mesh, place_examples, require_divisible, take_examples
from jaxnn.training.crosschecking import make_checked_epoch
from jaxnn.training.divergence import ADVICE, Diverged, explain_divergence, finite_elements
from jaxnn.training.evaluation import Task, make_predict, metrics_of
from jaxnn.training.placement import gather_params, keep_layout
from jaxnn.training.steps import (
    TrainState,
    make_epoch,
    make_poisson_epoch,
    make_step,
    require_batch_fits,
    steps_per_epoch,
)
from jaxnn.training.streaming import make_streamed_epoch, read_examples

GRADIENTS = ("manual", "autodiff", "crosscheck", "private")
"""Gradient modes: crosscheck trains by backprop and compares it with autodiff now and then."""


class Epoch(NamedTuple):
    """What is known after an epoch."""

    number: int
    """How many epochs the train state has seen, this one included."""
    train_state: TrainState
    losses: np.ndarray
    """The loss of every step, before the step."""
    validation: dict[str, float]
    """Metrics on the validation set; empty without one."""
    seconds: float
    """Wall time of the steps alone; that of the first epoch includes compilation."""
    examples_per_second: float
    disagreement: float | None = None
    """The largest relative error of the crosschecks in this epoch; None where there was none."""


def train(
    network: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    train_state: TrainState,
    x: Any,
    target: Any,
    *,
    epochs: int,
    batch_size: int,
    validation: tuple[Any, Any, Task] | None = None,
    gradient: str = "manual",
    micro_batches: int = 1,
    crosscheck_every: int = 100,
    crosscheck_tolerance: float = 1e-3,
    privacy: Privacy | None = None,
    patience: int | None = None,
    past_validation_losses: Sequence[float] = (),
    stream: bool = False,
) -> Iterator[Epoch]:
    """Train until ``epochs`` epochs have been seen, yielding after each.

    The data lie on the device, and an epoch is one compiled program. A train state that has seen
    some epochs goes on with the next one, with the same numbers as if it had never stopped. One
    that `jaxnn.training.place` has put on a mesh is trained on its devices, over which the data
    are then split; an epoch's last step, if it cannot be split evenly, is taken on each of them.

    Args:
        network: The network.
        loss: The loss, whose weighted mean over the batch is minimised.
        optimizer: An optax transformation.
        train_state: From `create_state`, or one saved after an epoch.
        x: The training inputs, an array or a tuple of arrays, batch first.
        target: Their targets, in the form that the loss takes.
        epochs: The number of epochs that the train state has seen at the end; none is trained
            where it has seen them already.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        validation: Inputs, targets and the task (from `task_of`) to evaluate after every epoch.
        gradient: ``manual`` (hand-derived), ``autodiff``, ``crosscheck``: manual, compared with
            autodiff on the coming batch every ``crosscheck_every`` steps, or ``private``: manual,
            clipped and noisy, on Poisson samples of ``batch_size`` expected examples (see
            `jaxnn.privacy`; `jaxnn.privacy.epsilon_spent` says what it cost).
        micro_batches: Into how many parts a batch is cut that go through the network one after the
            other, in less memory (see `jaxnn.accumulate`); 1 where ``gradient`` is ``private``.
        crosscheck_every: See above.
        crosscheck_tolerance: The largest norm-wise relative error of a parameter's gradient.
        privacy: Clip norm, noise and δ, for ``private`` alone.
        patience: Stop after this many epochs in a row without a smaller validation loss.
        past_validation_losses: Those of the epochs that the train state has seen, for ``patience``.
        stream: Whether x and target stay where they are, arrays on disk for one, and batches are
            read as they are needed, with the same numbers (see `make_streamed_epoch`); for
            ``manual`` and ``autodiff``. The train state may then be from the middle of an epoch.

    Raises:
        Diverged: The loss or a parameter became NaN or infinite; names the step and the layer.
        Disagreement: Crosscheck found a gradient outside of the tolerance; names the layer.
        ValueError, TypeError: An argument is not as described; raised at once, not at the first
            epoch.
    """
    if gradient not in GRADIENTS:
        raise ValueError(unknown_name("gradient mode", gradient, GRADIENTS))
    require_positive_integer("train", "epochs", epochs)
    require_positive_integer("train", "batch_size", batch_size)
    require_positive_integer("train", "micro_batches", micro_batches)
    require_positive_integer("train", "crosscheck_every", crosscheck_every)
    require_number("train", "crosscheck_tolerance", crosscheck_tolerance, minimum=0)
    if patience is not None:
        require_positive_integer("train", "patience", patience)
        if validation is None:
            raise ValueError("train: expected validation data where patience is given, got none")
    if (privacy is not None) != (gradient == "private"):
        given = "none" if privacy is None else f"them and gradient={gradient!r}"
        raise ValueError(
            f"train: expected privacy to be given where gradient is 'private' and there alone, "
            f"got {given}"
        )
    if privacy is not None and micro_batches > 1:
        raise ValueError(
            "train: expected micro_batches to be 1 where gradient is 'private', whose noise is "
            f"drawn once for a batch, got {micro_batches}"
        )
    examples = batch_size_of("train", x)
    require_batch_fits(batch_size, examples)

    mesh = mesh_of(train_state)
    require_divisible("train", "batch_size", batch_size, mesh)
    one = jax.tree.map(lambda a: jnp.asarray(a[:1]), (x, target))
    if stream:
        if gradient not in ("manual", "autodiff"):
            raise ValueError(
                "train: expected gradient manual or autodiff where data are streamed, "
                f"got {gradient}"
            )
    elif mesh is None:
        x, target = jax.tree.map(jnp.asarray, (x, target))
    else:
        x, target = place_examples((x, target), mesh)
    if validation is not None:
        validation = (*jax.tree.map(jnp.asarray, validation[:2]), validation[2])
    seen = int(train_state.step) // steps_per_epoch(examples, batch_size)
    if not stream and int(train_state.step) % steps_per_epoch(examples, batch_size):
        raise ValueError(
            "train: expected a train state from the end of an epoch, got one from the middle of "
            f"epoch {seen + 1}; where data are streamed it can go on there"
        )
    if seen > epochs:
        raise ValueError(
            f"train: expected epochs to be at least the {seen} that train_state has seen, "
            f"got {epochs}"
        )
    if privacy is None:
        make_scanned = make_epoch
        gradient_function = (autodiff if gradient == "autodiff" else backprop)(network, loss)
        if micro_batches > 1:
            gradient_function = accumulate(gradient_function, micro_batches, network=network)
        gradient_function = adjust_scale(gradient_function)
    else:
        make_scanned = make_poisson_epoch
        gradient_function = _private(network, loss, privacy, batch_size)
    # What a gradient function refuses (layers that mix examples) is refused now.
    params, state, _, key, _ = train_state
    jax.eval_shape(gradient_function, params, state, *one, key)
    if mesh is not None:
        gradient_function = gather_params(gradient_function, train_state)
    step = make_step(gradient_function, optimizer)
    if mesh is not None:
        step = keep_layout(step, train_state)
    if stream:
        take = read_examples
        scan_epoch = make_streamed_epoch(step, batch_size, mesh=mesh)
    else:
        take = jax.jit(take_examples)
        # `before` is kept.
        scan_epoch = make_scanned(step, batch_size, donate=False, examples=examples)
    if gradient == "crosscheck":
        run_epoch = make_checked_epoch(
            network,
            loss,
            step,
            batch_size,
            every=crosscheck_every,
            tolerance=crosscheck_tolerance,
            examples=examples,
        )
    else:

        def run_epoch(*arguments: Any) -> tuple[TrainState, jax.Array, float | None]:
            return *scan_epoch(*arguments), None

    run_epoch = on_mesh(mesh, run_epoch)
    explain = on_mesh(mesh, explain_divergence)
    predict = make_predict(network)
    are_finite = jax.jit(lambda params: jnp.array([f.all() for f in finite_elements(params)]).all())

    def run(train_state: TrainState) -> Iterator[Epoch]:
        validation_losses = list(past_validation_losses)
        for number in range(seen + 1, epochs + 1):
            before = train_state
            start = time.perf_counter()
            train_state, losses, disagreement = run_epoch(train_state, x, target)
            losses = np.asarray(losses)
            seconds = time.perf_counter() - start
            if not (np.isfinite(losses).all() and are_finite(train_state.params)):
                if privacy is None:
                    take_batch = partial(take, (x, target))
                    message = explain(network, loss, step, before, take_batch, batch_size, examples)
                else:
                    message = f"private training diverged in epoch {number}. {ADVICE}"
                raise Diverged(message, before)
            scores = {}
            if validation is not None:
                inputs, targets, task = validation
                prediction = predict(train_state.params, train_state.state, inputs)
                scores = metrics_of(loss, task, prediction, targets)
            speed = examples / seconds
            yield Epoch(number, train_state, losses, scores, seconds, speed, disagreement)
            if patience is not None:
                validation_losses.append(scores["loss"])
                if len(validation_losses) - 1 - int(np.argmin(validation_losses)) >= patience:
                    return

    # A generator by itself would check its arguments only when the first epoch is asked for.
    return run(train_state)


def _private(network: Layer, loss: Loss, privacy: Privacy, batch_size: int) -> Callable:
    clip_norm, noise_multiplier, _ = privacy.require_valid()
    return private(
        network,
        loss,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        batch_size=batch_size,
    )
