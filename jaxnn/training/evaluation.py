"""What a loss asks of a data set, predictions over a whole set, and metrics."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import weighted_mean
from jaxnn.core.task import Task
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.kernels.products import sum_dtype
from jaxnn.sharding import mesh_of, on_mesh, split_batch, whole
from jaxnn.training.metrics import Outcome, kind_of, named_metrics, outcome_of, score


def task_of(loss: Loss, classes: int) -> Task:
    """The task of a loss on data with this many classes (0 for regression).

    Categorical losses take the labels, one output for each class. Binary ones take them as numbers
    [n, 1], one output. Losses of an error take numbers, and labels one-hot.

    Raises:
        ValueError: The loss cannot be used on such data.
    """
    return loss.task(classes)


def make_predict(network: Layer, batch_size: int = 1000) -> Callable:
    """(params, state, x) -> the predictions for all of x, computed batch by batch.

    Those of parameters on a mesh are computed by all of its devices, and returned whole on the
    first one of each process.
    """

    @jax.jit
    def predict(params: Any, state: Any, x: Any):
        return whole(network.predict(params, state, split_batch(x)))

    def run(params: Any, state: Any, x: Any):
        mesh = mesh_of((params, state))
        starts = range(0, max(batch_size_of("predict", x), 1), batch_size)
        batches = (jax.tree.map(lambda a, i=i: a[i : i + batch_size], x) for i in starts)
        parts = [on_mesh(mesh, predict)(params, state, batch) for batch in batches]
        if mesh is not None:
            parts = jax.tree.map(lambda y: y.addressable_data(0), parts)
        return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)

    return run


def metrics_of(
    loss: Loss,
    task: Task,
    prediction: Array,
    target: Any,
    metrics: Iterable[str] | Mapping[str, Callable[[Outcome], Any]] = (),
    weights: Any = None,
) -> dict[str, Any]:
    """The numbers of `measures`, and those of ``metrics``; NaN where one is not defined.

    Args:
        loss: The loss.
        task: From `task_of`.
        prediction: What the network returned, [n, outputs].
        target: What the loss takes, from ``task.prepare``.
        metrics: Names of `jaxnn.training.METRICS`, or functions of an `Outcome` by names of one's
            own, such as ``{"f2": lambda o: fbeta_score(o.truth, o.answer, beta=2)}``. They return a
            number, or an array or dict of one for each class or output.
        weights: [n], what each example counts, as scikit-learn's sample_weight; all the same unless
            given.

    Raises:
        ValueError: A name is that of no metric of such a task.
        TypeError: A function returns no number.
    """
    return scores_of(loss, task, prediction, target, metrics, weights)[0]


def scores_of(
    loss: Loss,
    task: Task,
    prediction: Array,
    target: Any,
    metrics: Any = (),
    weights: Any = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """`metrics_of`, and of each metric that is not defined on these examples why it is not."""
    functions = named_metrics(metrics, kind_of(task))
    found = measures(loss, task, prediction, target, weights)
    found = {name: float(value) for name, value in found.items()}
    reasons = {}
    if not np.isfinite(found.get("r2", 0.0)):
        found["r2"] = float("nan")
        reasons["r2"] = "all examples have the same target, or an error is not finite"
    if functions:
        values, others = score(functions, outcome_of(task, prediction, target, weights))
        found, reasons = found | values, reasons | others
    return found, reasons


def measures(
    loss: Loss, task: Task, prediction: Array, target: Any, weights: Any = None
) -> dict[str, Array]:
    """The mean ``loss``, and with it ``accuracy`` (classes) or ``r2`` and ``mae`` (regression).

    Args:
        loss: The loss.
        task: From `task_of`.
        prediction: What the network returned, [n, outputs].
        target: What the loss takes, from ``task.prepare``.
        weights: [n], what each example counts: every mean and sum over them is weighted.

    ``r2`` is 1 − Σ (t − y)² / Σ (t − mean t)², the coefficient of determination, and ``mae`` the
    mean of deviation · |t − y|, both over all examples and outputs; the deviation is that of the
    task, by which a standardised target was divided.

    Raises:
        ValueError: The task's deviation has another shape than an output.
    """
    target = jnp.asarray(target)

    def mean(values: Array) -> Array:
        own = jnp.mean(values, range(1, values.ndim))
        return weighted_mean(own, None if weights is None else jnp.asarray(weights, jnp.float32))

    found = {"loss": mean(loss.value(prediction, target))}
    if task.decide is None:
        if np.shape(task.deviation) not in ((), prediction.shape[1:]):
            raise ValueError(
                f"metrics: expected deviation to be a number or one for each output, shape "
                f"{prediction.shape[1:]}, got shape {np.shape(task.deviation)}"
            )
        target, prediction = (a.astype(sum_dtype(a.dtype)) for a in (target, prediction))
        error = target - task.numbers(prediction)
        center = jnp.mean(target, 0) if weights is None else jnp.average(target, 0, weights)
        found["r2"] = 1 - mean(error**2) / mean((target - center) ** 2)
        found["mae"] = mean(task.deviation * jnp.abs(error))
    else:
        is_labels = jnp.issubdtype(target.dtype, jnp.integer)
        labels = target if is_labels else task.decide(target)
        found["accuracy"] = mean((task.decide(prediction) == labels).astype(jnp.float32))
    return found
