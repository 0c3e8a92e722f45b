"""Training that compares its gradient with another one's on the coming batch, now and then."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jaxnn.core.checking import Comparison, Report, parameter_names, relative_errors
from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_non_negative, require_positive_integer
from jaxnn.core.value import Value
from jaxnn.sharding import take_examples
from jaxnn.training.drawing import Batches, Draw, drawn, one_after_another
from jaxnn.training.steps import TrainState, take_batches


class Crosscheck(Value):
    """A comparison of the gradient with that of autodiff, while training."""

    every: Annotated[int, require_positive_integer] = 100
    """After how many steps there is another one; it comes before the first step of a program."""
    tolerance: Annotated[float, require_non_negative] = 1e-3
    """The largest norm-wise relative error of a parameter's gradient."""
    against: Callable | None = None
    """The gradient function to compare with; `jaxnn.autodiff` of network and loss unless given."""


class Disagreement(RuntimeError):
    """Two gradients disagree. ``train_state`` is the one they disagree in."""

    def __init__(self, message: str, report: Report, train_state: TrainState):
        super().__init__(message)
        self.report = report
        self.train_state = train_state


def make_checked_epoch(
    crosscheck: Crosscheck,
    network: Layer,
    gradients: dict[str, Callable],
    draw: Draw,
    step: Callable,
    batch_size: int,
    *,
    examples: int,
) -> Callable[..., tuple[TrainState, Any, float | None]]:
    """(train_state, x, target) -> (train_state, values, largest error, or None without a check).

    An epoch in scans of at least ``every`` steps, where it has as many, with checks before them;
    one that finds an error above ``tolerance``, or NaN, raises `Disagreement`.

    The comparison stands between the scans: autodiff of a convolution is many times slower inside
    one on CPU. An epoch too short to be divided stays one program, with the comparison before its
    scan, which spares what it costs to start one more. All are judged when the steps are done.

    ``gradients`` are the two gradient functions, by the names that reports call them.
    """
    every = crosscheck.every
    errors_of, judge = _make_errors(gradients), _make_judge(crosscheck, network, gradients)
    run_whole = draw.make_epoch(step, batch_size, examples=examples)
    run_batches, errors_by_themselves = jax.jit(take_batches(step)), jax.jit(errors_of)
    is_short = all(part.indices.shape[0] < 2 * every for part in draw.shapes(examples, batch_size))
    steps_since_check = every

    @jax.jit
    def check_and_run_whole(train_state: TrainState, x: Any, target: Any):
        # The same order as in the epoch, which the compiler computes once.
        first, *_ = draw.of_epoch(train_state, examples, batch_size)
        errors = errors_of(train_state, x, target, first)
        return *run_whole(train_state, x, target), errors

    def check_and_run_batches(train_state: TrainState, x: Any, target: Any, *batches: Any):
        (first,) = Batches(*batches).between([0, 1])
        errors = errors_by_themselves(train_state, x, target, first)
        return *run_batches(train_state, x, target, *batches), errors

    def go_on(plain: Callable, checked: Callable, train_state: TrainState, *arguments: Any):
        """The next train state, the values and, where a check was due, the largest error."""
        nonlocal steps_since_check
        if steps_since_check < every:
            after, values = plain(train_state, *arguments)
            steps_since_check += len(jax.tree.leaves(values)[0])
            return after, values, None
        after, values, errors = checked(train_state, *arguments)
        steps_since_check = len(jax.tree.leaves(values)[0])
        return after, values, judge(errors, train_state)

    def epoch(train_state: TrainState, x: Any, target: Any):
        if is_short:
            return go_on(run_whole, check_and_run_whole, train_state, x, target)
        values, worst = [], []
        for part in drawn(draw, train_state, examples, batch_size):
            steps = len(part.indices)
            # Pieces as even as possible: at most two lengths have to be compiled.
            count = max(steps // every, 1)
            for batches in part.between([steps * i // count for i in range(count + 1)]):
                train_state, own, error = go_on(
                    run_batches, check_and_run_batches, train_state, x, target, *batches
                )
                values.append(own)
                worst += [] if error is None else [error]
        return train_state, one_after_another(values), max(worst, default=None)

    return epoch


def _make_errors(gradients: dict[str, Callable]) -> Callable:
    """(train_state, x, target, batches) -> how far the gradients of the first batch are from each
    other, for each parameter."""

    def errors_of(train_state: TrainState, x: Any, target: Any, batches: Batches):
        key = jax.random.fold_in(train_state.key, train_state.step)
        indices, weights = jax.tree.map(lambda a: a[0], batches)
        x, target = take_examples((x, target), indices)
        arguments = (train_state.params, train_state.state, x, target, key, weights)
        found, reference = (gradient(*arguments)[1] for gradient in gradients.values())
        return jnp.asarray(relative_errors(jax.tree.leaves(found), jax.tree.leaves(reference)))

    return errors_of


def _make_judge(crosscheck: Crosscheck, network: Layer, gradients: dict[str, Callable]) -> Callable:
    """(errors, train_state) -> the largest of them; raises `Disagreement`."""
    found, reference = gradients

    def judge(errors: jax.Array, train_state: TrainState):
        values = errors.tolist()
        if all(error <= crosscheck.tolerance for error in values):  # NaN is not
            return max(values, default=0.0)
        names = parameter_names(network, train_state.params)
        methods = f"{found} against {reference}"
        rows = zip(names, values, strict=True)
        report = Report([Comparison(name, methods, e, crosscheck.tolerance) for name, e in rows])
        failed = ", ".join(c.quantity for c in report.comparisons if not c.passed)
        raise Disagreement(
            f"training: {found} and {reference} disagree at step {int(train_state.step)} in "
            f"{failed}\n{report}",
            report,
            train_state,
        )

    return judge
