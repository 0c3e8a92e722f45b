"""What a loss asks of a data set, predictions over a whole set, and metrics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.layer import Layer, Loss
from jaxnn.core.validation import batch_size as batch_size_of
from jaxnn.sharding import mesh_of, on_mesh, split_batch, whole


class Task(NamedTuple):
    """How one loss is used on one kind of data."""

    outputs: int | None
    """The number of outputs that the network must have; None where the data decide."""
    prepare: Callable[[Any], Any]
    """(labels or numbers of the data set) -> the target that the loss takes."""
    decide: Callable[[Array], Array] | None
    """(predictions) -> labels; None for regression."""


# The prediction from which on a binary classifier decides for class 1, and the numbers that stand
# for the classes 0 and 1 in the target.
_BINARY = {
    "sigmoid_binary_cross_entropy": (0.0, (0.0, 1.0)),
    "binary_cross_entropy": (0.5, (0.0, 1.0)),
    "hinge": (0.0, (-1.0, 1.0)),
}
_CATEGORICAL = ("softmax_cross_entropy", "categorical_cross_entropy")


def task_of(loss: Loss, classes: int) -> Task:
    """The task of a loss of `jaxnn.losses` on data with this many classes (0 for regression).

    Categorical losses take the labels, one output for each class. Binary ones take them as numbers
    [n, 1], one output. Losses of an error take numbers, and labels one-hot.

    Raises:
        ValueError: The loss cannot be used on such data.
    """
    if loss.name in _BINARY:
        if classes != 2:
            raise ValueError(f"{loss.name}: expected data with 2 classes, got {classes}")
        threshold, numbers = _BINARY[loss.name]
        return Task(
            outputs=1,
            prepare=lambda labels: np.asarray(numbers, np.float32)[labels][:, None],
            decide=lambda prediction: (prediction[:, 0] > threshold).astype(jnp.int32),
        )
    if loss.name in _CATEGORICAL:
        if classes == 0:
            raise ValueError(f"{loss.name}: expected data with classes, got numbers to regress")
        return Task(classes, lambda labels: labels, lambda prediction: jnp.argmax(prediction, -1))
    if classes == 0:
        return Task(None, lambda numbers: numbers, None)
    return Task(
        classes,
        lambda labels: np.eye(classes, dtype=np.float32)[labels],
        lambda prediction: jnp.argmax(prediction, -1),
    )


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


def metrics_of(loss: Loss, task: Task, prediction: Array, target: Array) -> dict[str, float]:
    """The numbers of `measures`."""
    return {name: float(m) for name, m in measures(loss, task, prediction, target).items()}


def measures(loss: Loss, task: Task, prediction: Array, target: Any) -> dict[str, Array]:
    """The mean ``loss``, and with it ``accuracy`` (classes) or ``r2`` and ``mae`` (regression).

    Args:
        loss: The loss.
        task: From `task_of`.
        prediction: What the network returned, [n, outputs].
        target: What the loss takes, from ``task.prepare``.

    ``r2`` is 1 − Σ (t − y)² / Σ (t − mean t)², the coefficient of determination, and ``mae`` the
    mean of |t − y|, both over all examples and outputs.
    """
    target = jnp.asarray(target)
    found = {"loss": jnp.mean(loss.value(prediction, target))}
    if task.decide is None:
        spread = jnp.sum((target - jnp.mean(target, 0)) ** 2)
        found["r2"] = 1 - jnp.sum((target - prediction) ** 2) / spread
        found["mae"] = jnp.mean(jnp.abs(target - prediction))
    else:
        is_labels = jnp.issubdtype(target.dtype, jnp.integer)
        labels = target if is_labels else task.decide(target)
        found["accuracy"] = jnp.mean(task.decide(prediction) == labels)
    return found
