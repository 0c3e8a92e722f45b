"""A trained network on held-out data: metrics, and pictures of what it gets wrong."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.support.config import Config, task_on
from jaxnn.core.validation import printable
from jaxnn.data import Dataset, Preparation
from jaxnn.training import TrainState, make_predict
from jaxnn.training.evaluation import scores_of

_MOST_SHOWN = 20


def evaluate_on(
    config: Config, preparation: Preparation, train_state: TrainState, dataset: Dataset
) -> tuple[dict[str, Any], np.ndarray]:
    """Metrics on a data set and the predictions for it; errors in the units of the target.

    With them, as "undefined", why some have no value, where that is so.
    """
    task = task_on(config.loss_function, preparation)
    predict = make_predict(config.layers)
    x = jax.tree.map(jnp.asarray, dataset.x)
    prediction = predict(train_state.params, train_state.state, x)
    target = jnp.asarray(task.prepare(dataset.target))
    loss, names = config.loss_function, config.all_metrics
    metrics, reasons = scores_of(loss, task, prediction, target, names, dataset.weights)
    if reasons:
        metrics["undefined"] = reasons
    return metrics, np.asarray(prediction)


def save_mistakes(
    config: Config,
    preparation: Preparation,
    prediction: np.ndarray,
    dataset: Dataset,
    folder: Path,
    title: str,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """The confusion matrix of a classifier and, for images, the examples that it got wrong.

    The pictures go to ``folder``, and ``title`` says which data they are about.
    """
    decide = task_on(config.loss_function, preparation).decide
    if decide is None or not preparation.class_names:
        return []
    from experiments.support import figures, style  # matplotlib, where something is drawn

    decided = np.asarray(decide(jnp.asarray(prediction)))
    names = dataset.class_names
    about = dataset.target, decided, names, title
    pictures: dict[str, Callable[[], Any]] = {
        "confusion_matrix.png": lambda: figures.confusion_matrix(*about)
    }
    images = as_images(preparation, dataset.x)
    if images is not None:
        pictures["mistakes.png"] = lambda: figures.mistakes(images, *about)
    paths = [style.draw(folder / name, of, overwrite=overwrite) for name, of in pictures.items()]
    return [path for path in paths if path is not None]


def as_images(preparation: Preparation, x: np.ndarray) -> np.ndarray | None:
    """x as images [n, height, width, channels] in its original units, if it holds images."""
    if preparation.feature_names or preparation.encoders:
        return None
    x = preparation.standardization.invert(np.asarray(x)).reshape(-1, *preparation.shape)
    if x.ndim == 4:
        return x if preparation.images is None else x / 255
    side = round(x.shape[-1] ** 0.5)
    is_square = x.ndim == 2 and side * side == x.shape[-1]
    return x.reshape(-1, side, side, 1) if is_square else None


def describe(metrics: dict[str, Any]) -> str:
    """Metrics in one line for people."""
    shown = {"accuracy": lambda v: f"accuracy {100 * v:.2f} %", "r2": lambda v: f"R² {v:.4f}"}
    line = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            continue
        if math.isnan(value):
            line.append(f"{name} –")
        else:
            line.append(shown.get(name, lambda v, n=name: f"{n} {v:.4g}")(value))
    return ", ".join(line)


def describe_all(metrics: dict[str, Any]) -> str:
    """Below that line, those of every class or output, and why some are not defined."""
    reasons, below = metrics.get("undefined", {}), []
    for name, value in metrics.items():
        if isinstance(value, dict) and name != "undefined":
            of = [f"{key} {_number(number)}" for key, number in [*value.items()][:_MOST_SHOWN]]
            left = [f"… and {len(value) - _MOST_SHOWN} more"] * (len(value) > _MOST_SHOWN)
            below.append(f"  {name}: {', '.join(map(printable, of + left))}")
    below += [f"  {name} is not defined: {printable(reason)}" for name, reason in reasons.items()]
    return "\n".join([describe(metrics), *below])


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
