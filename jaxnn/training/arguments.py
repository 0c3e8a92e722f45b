"""What `jaxnn.training.train` refuses, before the first epoch is asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.validation import brief, require_positive_integer, require_range
from jaxnn.learning.accumulation import accumulate
from jaxnn.learning.privacy import private
from jaxnn.training.drawing import Batches, Draw, drawn
from jaxnn.training.optimizers import is_evaluated_elsewhere
from jaxnn.training.steps import Step, TrainState, require_batch_fits


def require_gradient(gradient: Any, measure: Any, draw: Draw) -> None:
    """Raise unless these are a gradient function or quantities by name, not both, and one that is
    private is given Poisson samples."""
    if gradient is not None and not callable(gradient):
        raise TypeError(
            "train: expected gradient to be a gradient function, such as jaxnn.autodiff(network, "
            f"loss), or None for backprop, got {brief(gradient)}; to compare the two give "
            "crosscheck=Crosscheck(), for privacy private(…) and draw=poisson"
        )
    if measure is not None and not isinstance(measure, Mapping):
        raise TypeError(
            "train: expected measure to be quantities of jaxnn.statistics by name, "
            f"got {brief(measure)}"
        )
    if gradient is not None and measure:
        raise ValueError(
            "train: expected gradient to be None where something is measured, which is done of the "
            f"captures of backprop, got {brief(gradient)}"
        )
    inner = gradient.gradient if isinstance(gradient, accumulate) else gradient
    if isinstance(inner, private) and not draw.is_poisson:
        raise ValueError(
            "train: expected draw=poisson with a private gradient, whose promise is that of "
            f"Poisson samples, got {brief(draw)}; a Draw of your own may say is_poisson = True"
        )


def require_step(optimizer: Any, train_state: TrainState, gradient: Any, measure: Any) -> None:
    """Raise where a `Step` is trained with, which has a gradient of its own, and something is asked
    of the gradient; or where its optimiser is evaluated at other parameters than it trains."""
    if not isinstance(optimizer, Step):
        return
    for name, given in (("gradient", gradient), ("measure", measure)):
        if given:
            raise ValueError(
                f"train: expected {name} to be None with {optimizer.name}, which computes its own "
                f"gradient, got {brief(given)}"
            )
    if is_evaluated_elsewhere(train_state.optimizer_state):
        raise ValueError(
            f"train: expected an optimiser that is evaluated at the parameters it trains with "
            f"{optimizer.name}, got schedule_free"
        )


def require_steps(
    step: Step, train_state: TrainState, data: Any, shapes: Sequence[Batches]
) -> None:
    """Raise what a `Step` refuses, of the train state and of each size of batch."""
    for part in shapes:
        jax.eval_shape(step, train_state, *_batch_of(data, part))


def require_patience(patience: Any, validation: Any) -> None:
    """Raise unless patience is None, or positive and something to be patient with is there."""
    if patience is not None:
        require_positive_integer("train", "patience", patience)
        if validation is None:
            raise ValueError("train: expected validation data where patience is given, got none")


def require_batches(
    draw: Draw, train_state: TrainState, examples: int, batch_size: int
) -> Sequence[Batches]:
    """The shapes of an epoch's batches; raises unless they can be taken."""
    require_batch_fits(batch_size, examples)
    shapes = draw.shapes(examples, batch_size)
    for part in shapes:
        if not isinstance(part, Batches) or not _are_steps(*part):
            raise ValueError(
                f"{draw.name}: expected batches to return Batches, with integers [steps, places] "
                "as indices, and as many floating-point numbers as weights or None, got "
                f"{brief(part)}"
            )
    if not sum(part.indices.size for part in shapes):
        raise ValueError(f"{draw.name}: expected batches to return at least one, got none")
    if not draw.in_range:
        for part in drawn(draw, train_state, examples, batch_size):
            require_range(draw.name, "indices of batches", part.indices, 0, examples - 1)
    return shapes


def _are_steps(indices: Any, weights: Any) -> bool:
    if len(indices.shape) != 2 or not jnp.issubdtype(indices.dtype, jnp.integer):
        return False
    return weights is None or (
        weights.shape == indices.shape and jnp.issubdtype(weights.dtype, jnp.floating)
    )


def epochs_seen(train_state: TrainState, epochs: int, draw: Draw, shapes: Sequence[Batches]) -> int:
    """How many epochs of these batches are behind the train state; raises where they are too many,
    or it is from the middle of one that cannot be gone on with."""
    seen, begun = divmod(int(train_state.step), sum(part.indices.shape[0] for part in shapes))
    if begun and draw.in_memory:
        raise ValueError(
            "train: expected a train state from the end of an epoch, got one from the middle of "
            f"epoch {seen + 1}; where data are streamed it can go on there"
        )
    if seen > epochs:
        raise ValueError(
            f"train: expected epochs to be at least the {seen} that train_state has seen, "
            f"got {epochs}"
        )
    return seen


def require_values(
    compute: Callable,
    train_state: TrainState,
    data: Any,
    shapes: Sequence[Batches],
    measured: Iterable[str],
) -> None:
    """Raise what a gradient function refuses, such as layers that mix examples, and unless its
    values can be held: a number, or with it measures of one shape in every step."""
    params, state, _, key, _ = train_state

    def value_of(part: Batches) -> Any:
        *batch, counted = _batch_of(data, part)
        return jax.eval_shape(compute, params, state, *batch, key, counted)[0][0]

    values = [value_of(part) for part in (shapes if measured else shapes[:1])]
    if not (measured or (isinstance(values[0], jax.ShapeDtypeStruct) and values[0].shape == ())):
        raise ValueError(
            "train: expected gradient to return one number as value, the mean of the losses, "
            f"got {brief(values[0])}"
        )
    for name in measured:
        forms = [jax.tree.map(lambda a: a.shape, value.measures[name]) for value in values]
        if any(form != forms[0] for form in forms):
            sizes = [part.indices.shape[1] for part in shapes]
            raise ValueError(
                f"train: expected {name} to have one shape in every step, got {brief(forms)} in "
                f"steps of {sizes} examples: measure something of the batch as a whole, or take a "
                "batch_size that divides the examples"
            )


def _batch_of(data: Any, part: Batches) -> tuple:
    """(x, target, weights), as shapes."""
    size, weights = part.indices.shape[1:], part.weights
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((*size, *a.shape[1:]), jnp.result_type(a.dtype)), data
    )
    return (*batch, None if weights is None else jax.ShapeDtypeStruct(size, weights.dtype))
