"""Training by backprop that compares it with autodiff on the coming batch, now and then."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.checking import Comparison, Report, parameter_names, relative_errors
from jaxnn.core.gradients import autodiff, backprop
from jaxnn.core.layer import Layer, Loss
from jaxnn.sharding import take_examples
from jaxnn.training.steps import TrainState, epoch_order, make_epoch, split_order, take_batches


class Disagreement(RuntimeError):
    """Backprop and autodiff disagree. ``train_state`` is the one they disagree in."""

    def __init__(self, message: str, report: Report, train_state: TrainState):
        super().__init__(message)
        self.report = report
        self.train_state = train_state


def make_checked_epoch(
    network: Layer,
    loss: Loss,
    step: Callable,
    batch_size: int,
    *,
    every: int,
    tolerance: float,
    examples: int,
) -> Callable[..., tuple[TrainState, jax.Array, float | None]]:
    """(train_state, x, target) -> (train_state, values, largest error, or None without a check).

    An epoch in scans of at least ``every`` steps, where it has as many, with checks before them;
    one that finds an error above ``tolerance``, or NaN, raises `Disagreement`.

    The comparison stands between the scans: autodiff of a convolution is many times slower inside
    one on CPU. An epoch too short to be divided stays one program, with the comparison before its
    scan, which spares what it costs to start one more. All are judged when the steps are done.
    """
    errors_of, judge = _make_errors(network, loss), _make_judge(network, tolerance)
    run_whole = make_epoch(step, batch_size, donate=False, examples=examples)
    run_batches, errors_by_themselves = jax.jit(take_batches(step)), jax.jit(errors_of)
    order_of = jax.jit(epoch_order, static_argnums=(1, 2))
    steps_since_check = every

    @jax.jit
    def check_and_run_whole(train_state: TrainState, x: Any, target: Any):
        # The same order as in the epoch, which the compiler computes once.
        first = epoch_order(train_state, examples, batch_size)[:batch_size]
        errors = errors_of(train_state, x, target, first)
        return *run_whole(train_state, x, target), errors

    def check_and_run_batches(train_state: TrainState, x: Any, target: Any, batches: Any):
        errors = errors_by_themselves(train_state, x, target, batches[0])
        return *run_batches(train_state, x, target, batches), errors

    def go_on(plain: Callable, checked: Callable, train_state: TrainState, *arguments: Any):
        """The next train state, the losses and, where a check was due, the largest error."""
        nonlocal steps_since_check
        if steps_since_check < every:
            after, losses = plain(train_state, *arguments)
            steps_since_check += len(losses)
            return after, losses, None
        after, losses, errors = checked(train_state, *arguments)
        steps_since_check = len(losses)
        return after, losses, judge(errors, train_state)

    def epoch(train_state: TrainState, x: Any, target: Any):
        parts = max(examples // batch_size // every, 1)
        if parts == 1:
            return go_on(run_whole, check_and_run_whole, train_state, x, target)
        order = np.asarray(order_of(train_state, examples, batch_size))
        full, rest = split_order(order, batch_size)
        values, worst = [], []
        # Parts as even as possible: at most two lengths have to be compiled.
        for batches in [*np.array_split(full, parts), *([rest] if rest.size else [])]:
            train_state, losses, error = go_on(
                run_batches, check_and_run_batches, train_state, x, target, batches
            )
            values.append(losses)
            worst += [] if error is None else [error]
        return train_state, jnp.concatenate(values), max(worst, default=None)

    return epoch


def _make_errors(network: Layer, loss: Loss) -> Callable:
    """(train_state, x, target, batch) -> how far backprop is from autodiff, for each parameter."""

    def errors_of(train_state: TrainState, x: Any, target: Any, batch: Any):
        key = jax.random.fold_in(train_state.key, train_state.step)
        x, target = take_examples((x, target), batch)
        arguments = (train_state.params, train_state.state, x, target, key)
        gradients, reference = (g(network, loss)(*arguments)[1] for g in (backprop, autodiff))
        errors = relative_errors(jax.tree.leaves(gradients), jax.tree.leaves(reference))
        return jnp.asarray(errors)

    return errors_of


def _make_judge(network: Layer, tolerance: float) -> Callable:
    """(errors, train_state) -> the largest of them; raises `Disagreement`."""

    def judge(errors: jax.Array, train_state: TrainState):
        values = errors.tolist()
        if all(error <= tolerance for error in values):  # NaN is not
            return max(values, default=0.0)
        names = parameter_names(network, train_state.params)
        methods = "backprop against autodiff"
        rows = zip(names, values, strict=True)
        report = Report([Comparison(name, methods, e, tolerance) for name, e in rows])
        failed = ", ".join(c.quantity for c in report.comparisons if not c.passed)
        raise Disagreement(
            f"training: backprop and autodiff disagree at step {int(train_state.step)} in "
            f"{failed}\n{report}",
            report,
            train_state,
        )

    return judge
