"""The outer loop: epochs of training, evaluated, watched, and stopped when there is a reason to."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backprop
from jaxnn.core.task import Task
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.core.validation import require_positive_integer
from jaxnn.core.value import checked
from jaxnn.losses.weighting import weighted_examples
from jaxnn.rewrites.precision import adjust_scale
from jaxnn.sharding import Staged, mesh_of, on_mesh, require_divisible, unstaged
from jaxnn.statistics import Quantity, measuring
from jaxnn.training.arguments import (
    epochs_seen,
    require_batches,
    require_gradient,
    require_patience,
    require_step,
    require_steps,
    require_values,
)
from jaxnn.training.crosschecking import Crosscheck, compared, make_checked_epoch
from jaxnn.training.divergence import Diverged, explain_divergence, finite_elements
from jaxnn.training.drawing import Draw, drawn, shuffled
from jaxnn.training.evaluation import make_predict, metrics_of
from jaxnn.training.metrics import Outcome, kind_of, named_metrics
from jaxnn.training.placement import gather_params, keep_layout
from jaxnn.training.staging import by_stages, require_staged_gradient
from jaxnn.training.steps import Step, TrainState, at_evaluation, make_step


class Epoch(NamedTuple):
    """What is known after an epoch."""

    number: int
    """How many epochs the train state has seen, this one included."""
    train_state: TrainState
    losses: np.ndarray
    """The loss of every step, before the step."""
    validation: dict[str, Any]
    """Metrics on the validation set; empty without one."""
    seconds: float
    """Wall time of the steps alone; that of the first epoch includes compilation."""
    examples_per_second: float
    disagreement: float | None
    """The largest relative error of the crosschecks in this epoch; None where there was none."""
    measures: dict[str, Any]
    """What ``measure`` asked for: arrays [steps, …], or trees of them; empty without it."""


def train(
    network: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation | Step,
    train_state: TrainState,
    x: Any,
    target: Any,
    *,
    epochs: int,
    batch_size: int,
    gradient: Callable | None = None,
    draw: Draw = shuffled,
    validation: tuple[Any, Any, Task] | None = None,
    crosscheck: Crosscheck | None = Crosscheck(),  # noqa: B008
    measure: Mapping[str, Quantity] | None = None,
    patience: int | None = None,
    past_validation_losses: Sequence[float] = (),
    metrics: Iterable[str] | Mapping[str, Callable[[Outcome], Any]] = (),
) -> Iterator[Epoch]:
    """Train until ``epochs`` epochs have been seen, yielding after each.

    A train state that has seen some epochs goes on with the next one, with the same numbers as if
    it had never stopped. One that `jaxnn.training.place` has put on a mesh is trained on its
    devices, over which the data are then split; an epoch's last step, if it cannot be split evenly,
    is taken on each of them. So is one that `jaxnn.training.place_on_stages` has laid out, with the
    `jaxnn.sharding.pipelined` gradient of it.

    Args:
        network: The network.
        loss: The loss, whose weighted mean over the batch is minimised.
        optimizer: An optax transformation; or a `Step`, such as `update_in_backward`, which is
            taken of this network and loss.
        train_state: From `create_state`, or one saved after an epoch.
        x: The training inputs, an array or a tuple of arrays, batch first.
        target: Their targets, in the form that the loss takes.
        epochs: The number of epochs that the train state has seen at the end; none is trained
            where it has seen them already.
        batch_size: Examples in a step; an epoch's last step takes what is left.
        gradient: The gradient function, `jaxnn.backprop` of network and loss unless given: such as
            `jaxnn.autodiff`'s; `jaxnn.accumulate`'s, for a batch in the memory of a smaller one; or
            `jaxnn.learning.privacy.private`'s, whose promise is that of Poisson samples.
        draw: How batches are drawn: `shuffled`, `poisson`, both from data on the devices, an epoch
            being one compiled program; `streamed`, from arrays that stay where they are, on disk
            for one, where the train state may be from the middle of an epoch; or a `Draw` of
            your own.
        validation: Inputs, targets and the task (from `task_of`) to evaluate after every epoch.
            With a loss of `weighted_examples` the targets have weights, which metrics take too.
        crosscheck: When the hand-derived gradient is compared with autodiff's on the coming batch;
            never where it is None.
        measure: Quantities of `jaxnn.statistics` by name, of the captures that backprop computes
            anyway; see `jaxnn.statistics.measuring`.
        patience: Stop after this many epochs in a row without a smaller validation loss.
        past_validation_losses: Those of the epochs that the train state has seen, for ``patience``:
            where it has run out, nothing is trained.
        metrics: What else to evaluate on the validation set, as of `metrics_of`.

    Raises:
        Diverged: The loss or a parameter became NaN or infinite; names the step and the layer.
        Disagreement: Crosscheck found a gradient outside of the tolerance; names the layer.
        ValueError, TypeError: An argument is not as described, or what is measured has not the same
            shape in every step; raised at once, not at the first epoch.
    """
    require_positive_integer("train", "epochs", epochs)
    require_positive_integer("train", "batch_size", batch_size)
    checked("train", "draw", draw, Draw)
    checked("train", "crosscheck", crosscheck, Crosscheck | None)
    require_gradient(gradient, measure, draw)
    require_step(optimizer, train_state, gradient, measure)
    require_staged_gradient(train_state, gradient)
    require_patience(patience, validation)
    examples = batch_size_of("train", x)
    shapes = require_batches(draw, train_state, examples, batch_size)
    seen = epochs_seen(train_state, epochs, draw, shapes)
    mesh = mesh_of(train_state)
    require_divisible("train", "batch_size", batch_size, mesh)
    gradient = gradient or backprop(network, loss)
    compute = adjust_scale(measuring(network, loss, **measure) if measure else gradient)
    require_values(compute, train_state, (x, target), shapes, measure or ())
    if mesh is not None:
        compute = gather_params(compute, train_state)
    if isinstance(optimizer, Step):
        step = optimizer.of(network, loss)
        on_mesh(mesh, require_steps)(step, train_state, (x, target), shapes)
    else:
        if isinstance(train_state.params, Staged):
            optimizer = by_stages(gradient, optimizer)  # pyright: ignore[reportArgumentType]
        step = make_step(compute, optimizer)
    if mesh is not None:
        step = keep_layout(step, train_state)

    x, target = draw.place((x, target), mesh)
    pair = compared(crosscheck, gradient, network, loss) if crosscheck is not None else {}
    if crosscheck is not None and pair:
        run_epoch = make_checked_epoch(
            crosscheck, network, pair, draw, step, batch_size, examples=examples, mesh=mesh
        )
    else:
        # `before` is kept: nothing is donated.
        plain_epoch = draw.make_epoch(step, batch_size, examples=examples, mesh=mesh)

        def run_epoch(*arguments: Any) -> tuple[TrainState, Any, float | None]:
            return *plain_epoch(*arguments), None

    run_epoch = on_mesh(mesh, run_epoch)
    are_finite = jax.jit(lambda params: jnp.array([f.all() for f in finite_elements(params)]).all())
    score = _make_score(network, loss, validation, metrics)

    def explain(before: TrainState) -> str:
        batches, take = drawn(draw, before, examples, batch_size), partial(draw.take, (x, target))
        return explain_divergence(network, gradient, step, before, batches, take)

    def run(train_state: TrainState) -> Iterator[Epoch]:
        validation_losses = list(past_validation_losses)
        for number in range(seen + 1, epochs + 1):
            if patience is not None and _waited(validation_losses) >= patience:
                return
            before = train_state
            start = time.perf_counter()
            train_state, values, disagreement = run_epoch(before, x, target)
            losses, measures = values if measure else (values, {})
            losses = np.asarray(losses)
            seconds = time.perf_counter() - start
            if not (np.isfinite(losses).all() and are_finite(train_state.params)):
                raise Diverged(on_mesh(mesh, explain)(before), before)
            scores, speed = score(at_evaluation(unstaged(train_state))), examples / seconds
            measures = jax.tree.map(np.asarray, measures)
            yield Epoch(number, train_state, losses, scores, seconds, speed, disagreement, measures)
            validation_losses.append(float(np.nan_to_num(scores.get("loss", np.inf), nan=np.inf)))

    # A generator by itself would check its arguments only when the first epoch is asked for.
    return run(train_state)


def _waited(validation_losses: list[float]) -> int:
    """How many epochs have gone by since the one with the smallest validation loss."""
    return len(validation_losses) - 1 - int(np.argmin(validation_losses or [0.0]))


def _make_score(network: Layer, loss: Loss, validation: tuple | None, metrics: Any) -> Callable:
    """(train_state) -> the metrics on the validation set."""
    if validation is None:
        return lambda train_state: {}
    x, target = jax.tree.map(jnp.asarray, validation[:2])
    predict, task, weights = make_predict(network), validation[2], None
    if isinstance(loss, weighted_examples):
        loss, (target, weights) = loss.loss, target
    named_metrics(metrics, kind_of(task))  # which refuses names that are none

    def score(train_state: TrainState) -> dict[str, Any]:
        prediction = predict(train_state.params, train_state.state, x)
        return metrics_of(loss, task, prediction, target, metrics, weights)

    return score
