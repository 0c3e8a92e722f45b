"""A trained network on held-out data: metrics, and pictures of what it gets wrong."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.support import figures, style
from experiments.support.config import Config
from jaxnn.core.validation import listed
from jaxnn.data import Dataset, Splits
from jaxnn.data.files import read_file
from jaxnn.training import TrainState, make_predict, metrics_of


def evaluate_on(
    config: Config, splits: Splits, train_state: TrainState, dataset: Dataset
) -> tuple[dict[str, float], np.ndarray]:
    """Metrics on a data set and the predictions for it.

    A regression's mean absolute error is in the original units of the target.
    """
    task = config.task(splits)
    predict = make_predict(config.layers)
    prediction = predict(train_state.params, train_state.state, jnp.asarray(dataset.x))
    target = jnp.asarray(task.prepare(dataset.target))
    deviation = splits.target_standardization.deviation
    metrics = metrics_of(config.loss_function, task, prediction, target, deviation)
    return metrics, np.asarray(prediction)


def save_mistakes(
    config: Config,
    splits: Splits,
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
    decide = config.task(splits).decide
    if decide is None:
        return []
    decided = np.asarray(decide(jnp.asarray(prediction)))
    names = dataset.class_names
    pictures: dict[str, Figure | None] = {
        "confusion_matrix.png": figures.confusion_matrix(dataset.target, decided, names, title)
    }
    images = as_images(config, splits, dataset.x)
    if images is not None:
        pictures["mistakes.png"] = figures.mistakes(images, dataset.target, decided, names, title)
    return [
        style.save(figure, folder / name, overwrite=overwrite)
        for name, figure in pictures.items()
        if figure is not None
    ]


def as_images(config: Config, splits: Splits, x: np.ndarray) -> np.ndarray | None:
    """x as images [n, height, width, channels] in its original units, if it holds images."""
    if splits.train.feature_names:
        return None
    x = splits.standardization.invert(x)
    if x.ndim == 4:
        return x
    side = round(x.shape[-1] ** 0.5)
    is_square = x.ndim == 2 and side * side == x.shape[-1]
    return x.reshape(-1, side, side, 1) if is_square else None


def read_dataset(file: str, target: str | None, splits: Splits) -> Dataset:
    """All examples of a file with targets, in the form of the data that the network knows.

    Raises:
        ValueError: The file's features or classes are not those of the network's data.
    """
    known = splits.train
    task = "classification" if known.class_names else "regression"
    names = known.feature_names or None
    dataset = read_file(Path(file), target, names if file.endswith(".csv") else None, task)
    if dataset.x[0].size != known.x[0].size:
        raise ValueError(
            f"expected examples of shape {known.x.shape[1:]} in {file}, got {dataset.x.shape[1:]}"
        )
    x = splits.standardization.apply(dataset.x.reshape(-1, *known.x.shape[1:]))
    if not known.class_names:
        return known._replace(x=x, target=splits.target_standardization.apply(dataset.target))
    unknown = [name for name in dataset.class_names if name not in known.class_names]
    if unknown:
        raise ValueError(
            f"expected the classes in {file} to be among {listed(known.class_names)}, "
            f"got {listed(unknown)}"
        )
    labels = np.array([known.class_names.index(name) for name in dataset.class_names], np.int32)
    return known._replace(x=x, target=labels[dataset.target])


def describe(metrics: dict[str, Any]) -> str:
    """Metrics in one line for people."""
    shown = {"accuracy": lambda v: f"accuracy {100 * v:.2f} %", "r2": lambda v: f"R² {v:.4f}"}
    return ", ".join(
        shown.get(name, lambda v, n=name: f"{n} {v:.4g}")(value) for name, value in metrics.items()
    )
