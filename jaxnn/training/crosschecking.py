"""Training that compares its hand-derived gradient with autodiff's on the coming batch, now and
then.

The comparison is a program of its own beside the epoch's, begun when the epoch's steps have been
handed to the device: what it costs to compile, the first step does not wait for.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnn.core.checking import Comparison, Report, parameter_names, relative_errors
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import autodiff, backprop, numerical
from jaxnn.core.networks import plain
from jaxnn.core.validation import require_non_negative, require_positive_integer
from jaxnn.core.value import Value
from jaxnn.learning.accumulation import SummedGradient, accumulate
from jaxnn.learning.local_losses import local_losses
from jaxnn.rewrites.precision import at_full_precision
from jaxnn.sharding import pipelined
from jaxnn.sharding.stages import whole_of
from jaxnn.training.drawing import Batches, Draw, drawn, one_after_another
from jaxnn.training.steps import TrainState, take_batches


class Crosscheck(Value):
    """A comparison of the hand-derived gradient with that of autodiff, while training.

    Where a gradient differs from that of the loss by intent, what is hand-derived in it is compared
    alone: under a rule of feedback, or local losses, the true gradient of the same network, under a
    policy of precision that of its parameters, in private training the gradient before it is
    clipped and noisy. Training by `jaxnn.autodiff` has nothing to compare.
    """

    every: Annotated[int, require_positive_integer] = 500
    """After how many steps there is another one, at the next beginning of a program: of an epoch,
    and of parts of it that are at least so long."""
    tolerance: Annotated[float, require_non_negative] = 1e-3
    """The largest norm-wise relative error of a parameter's gradient."""
    against: Callable | None = None
    """The gradient function to compare the one trained with to, in place of all this."""


class Disagreement(RuntimeError):
    """Two gradients disagree. ``train_state`` is the one they disagree in."""

    def __init__(self, message: str, report: Report, train_state: TrainState):
        super().__init__(message)
        self.report = report
        self.train_state = train_state


def compared(
    crosscheck: Crosscheck, gradient: Callable, network: Layer, loss: Loss
) -> dict[str, Callable]:
    """The two gradient functions that are compared, by the names that reports call them; empty
    where nothing hand-derived is trained with."""
    if crosscheck.against is not None:
        return {_name_of(gradient): gradient, "the one to compare with": crosscheck.against}
    true = at_full_precision(plain(network))
    of = "" if true is network else " of the plain network"
    by_hand, reference = backprop(true, loss), autodiff(true, loss)
    match gradient:
        case autodiff() | numerical() | accumulate(gradient=autodiff() | numerical()):
            return {}
        case accumulate(gradient=SummedGradient()) | backprop() | local_losses() | SummedGradient():
            return {f"backprop{of}": by_hand, "autodiff": reference}
        case accumulate(gradient=backprop()):
            # A micro-batch has random numbers of its own, which both sides must draw.
            make = dataclasses.replace
            return {
                f"accumulated backprop{of}": make(gradient, gradient=by_hand, network=true),
                "autodiff": make(gradient, gradient=reference, network=true),
            }
        case pipelined():
            m = gradient.order.micro_batches
            return {
                "pipelined backprop": gradient,
                "autodiff": accumulate(autodiff(network, loss), m, network=network),
            }
    return {_name_of(gradient): gradient, "autodiff": autodiff(network, loss)}


def _name_of(gradient: Callable) -> str:
    return "backprop" if isinstance(gradient, backprop) else "the gradient given"


def make_checked_epoch(
    crosscheck: Crosscheck,
    network: Layer,
    gradients: dict[str, Callable],
    draw: Draw,
    step: Callable,
    batch_size: int,
    *,
    examples: int,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Any, float | None]]:
    """(train_state, x, target) -> (train_state, values, largest error, or None without a check).

    An epoch as ``draw`` makes it, or, where it lies in memory and has as many, in scans of at least
    ``every`` steps. One with an error above ``tolerance`` raises `Disagreement` when its steps are
    done. ``gradients`` are those of `compared`.
    """
    every = crosscheck.every
    compare = _make_compare(crosscheck, network, gradients)
    run_whole = draw.make_epoch(step, batch_size, examples=examples, mesh=mesh)
    run_batches = jax.jit(take_batches(step))
    longest = max(part.indices.shape[0] for part in draw.shapes(examples, batch_size))
    is_cut = draw.in_memory and longest >= 2 * every
    steps_since_check = every

    def go_on(run: Callable, first: Callable | None, before: TrainState, *data: Any):
        """What ``run`` returns, and the error where a check was due on the ``first`` batch."""
        nonlocal steps_since_check
        after, values = run(before, *data)
        steps = len(jax.tree.leaves(values)[0])
        if first is None or steps_since_check < every:
            steps_since_check += steps
            return after, values, None
        steps_since_check = steps
        indices, weights = first()
        return after, values, compare(before, *draw.take(data, indices), weights)

    def first_of_all(before: TrainState) -> Batches:
        parts = drawn(draw, before, examples, batch_size)
        # An epoch from disk may have been begun before.
        begun = int(before.step) % sum(len(part.indices) for part in parts)
        return _batch(parts, begun)

    def in_pieces(train_state: TrainState, *data: Any):
        values, errors = [], []
        parts = drawn(draw, train_state, examples, batch_size)
        for piece in _pieces(parts, every):
            run = partial(run_batches, batches=piece.indices, weights=piece.weights)
            # The few examples left over at the end would be one more program to compile.
            is_left_over = piece.indices.shape[1] < parts[0].indices.shape[1]
            first = None if is_left_over else partial(_batch, [piece], 0)
            train_state, own, error = go_on(run, first, train_state, *data)
            values.append(own)
            errors += [] if error is None else [error]
        return train_state, one_after_another(values), max(errors, default=None)

    def in_one_piece(train_state: TrainState, *data: Any):
        return go_on(run_whole, partial(first_of_all, train_state), train_state, *data)

    return in_pieces if is_cut else in_one_piece


def _pieces(parts: Sequence[Batches], every: int) -> Iterator[Batches]:
    """As even as possible: at most two lengths have to be compiled."""
    for part in parts:
        steps = len(part.indices)
        count = max(steps // every, 1)
        yield from part.between([steps * i // count for i in range(count + 1)])


def _batch(parts: Sequence[Batches], step: int) -> Batches:
    """What the step of this number takes."""
    part, *others = parts
    if step >= len(part.indices):
        return _batch(others, step - len(part.indices))
    return jax.tree.map(lambda a: a[step], part)


def _make_compare(
    crosscheck: Crosscheck, network: Layer, gradients: dict[str, Callable]
) -> Callable[..., float]:
    """(train_state, x, target, weights) -> the largest error; raises `Disagreement`."""
    found_name, reference_name = gradients
    givens = [
        (lambda params: params) if isinstance(gradient, pipelined) else whole_of
        for gradient in gradients.values()
    ]

    @jax.jit
    def errors_of(train_state: TrainState, x: Any, target: Any, weights: Any):
        key = jax.random.fold_in(train_state.key, train_state.step)
        arguments = (train_state.state, x, target, key, weights)
        found, reference = (
            # A gradient by stages is compared as a whole; another one takes the whole parameters.
            jax.tree.leaves(whole_of(gradient(of_params(train_state.params), *arguments)[1]))
            for gradient, of_params in zip(gradients.values(), givens, strict=True)
        )
        errors = relative_errors(found, reference)
        # Where both have overflowed they do not disagree: the run has diverged.
        broken = (_is_broken(a) & _is_broken(b) for a, b in zip(found, reference, strict=True))
        return [jnp.where(b, 0, e) for b, e in zip(broken, errors, strict=True)]

    def compare(train_state: TrainState, *batch: Any) -> float:
        errors = [float(error) for error in errors_of(train_state, *batch)]
        if _pass(errors):
            return max(errors, default=0.0)
        confirmed = _in_float64(errors_of, train_state, *batch)
        if _pass(confirmed):
            return max(confirmed)
        names = parameter_names(network, whole_of(train_state.params))
        methods = f"{found_name} against {reference_name}"
        rows = zip(names, errors, strict=True)
        report = Report([Comparison(name, methods, e, crosscheck.tolerance) for name, e in rows])
        failed = ", ".join(c.quantity for c in report.comparisons if not c.passed)
        raise Disagreement(
            f"training: {found_name} and {reference_name} disagree at step "
            f"{int(train_state.step)} in {failed}\n{report}\n"
            "where the difference is meant, train with crosscheck=None",
            report,
            train_state,
        )

    def _pass(errors: Sequence[float]) -> bool:
        return all(error <= crosscheck.tolerance for error in errors)  # NaN is not

    return compare


def _is_broken(gradient: jax.Array) -> jax.Array:
    return ~jnp.isfinite(gradient).all()


def _in_float64(errors_of: Callable, *arguments: Any) -> list[float]:
    """The errors once more, of arguments in float64: late in training, when deltas are no larger
    than rounding, two right gradients may differ by all that they are. Infinite where a layer
    cannot be run in float64."""

    def widened(a: Any) -> Any:
        is_floating = jnp.issubdtype(jnp.result_type(a), jnp.floating)
        return jnp.asarray(a, jnp.float64) if is_floating else a

    with jax.enable_x64(True):
        try:
            errors = errors_of(*jax.tree.map(widened, arguments))
        except (TypeError, ValueError):
            return [np.inf]
        return [float(error) for error in errors]
