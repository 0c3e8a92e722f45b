"""The pictures of a training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.support import style


def learning_curves(epochs: Sequence[dict[str, Any]], metric: str) -> Figure:
    """Loss, and beside it ``metric`` on the validation set, over the epochs."""
    validated = f"validation_{metric}" in epochs[-1]
    figure, axes = style.figure(columns=2 if validated else 1)
    axes = np.atleast_1d(axes)
    numbers = [record["epoch"] for record in epochs]
    marker = "o" if len(numbers) == 1 else None
    axes[0].plot(numbers, [r["loss"] for r in epochs], marker=marker, label="training")
    if "validation_loss" in epochs[-1]:
        losses = [r["validation_loss"] for r in epochs]
        axes[0].plot(numbers, losses, marker=marker, label="validation")
    axes[0].set(xlabel="epoch", ylabel="mean loss", yscale="log", title="loss")
    axes[0].legend()
    if validated:
        values = np.array([r[f"validation_{metric}"] for r in epochs])
        percent = metric == "accuracy"
        axes[1].plot(
            numbers, values * (100 if percent else 1), marker=marker, color=style.VERMILLION
        )
        label = {"accuracy": "accuracy (%)", "r2": "R²"}[metric]
        axes[1].set(xlabel="epoch", ylabel=label, title="on the validation set")
    return figure


def confusion_matrix(
    labels: np.ndarray, decided: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """How often each class was taken for each other one; ``title`` says in which data."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, decided), 1)
    height = 0.42 * len(names) + 2
    figure, axes = style.figure(height=height)
    figure.set_figwidth(max(height + 1, 4.5))  # the matrix is square
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1)
    axes.grid(False)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] < 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    longest = max(map(len, names))
    rotation = {"rotation": 45, "ha": "right"} if longest > 4 else {}
    axes.set_xticks(range(len(names)), names, **rotation)
    axes.set_yticks(range(len(names)), names)
    correct = np.trace(counts) / max(counts.sum(), 1)
    title = f"{title}, {counts.sum()} examples, {100 * correct:.1f} % correct"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, ax=axes, label="share of the true class")
    return figure


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    decided: np.ndarray,
    names: Sequence[str],
    title: str,
    most: int = 24,
) -> Figure | None:
    """Images that were taken for another class, [n, height, width, channels]; None without any."""
    wrong = np.flatnonzero(labels != decided)
    if wrong.size == 0:
        return None
    shown = wrong[:most]
    columns = 8
    rows = -(-len(shown) // columns)
    figure, axes = style.figure(rows, columns, height=1.35, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, index in zip(axes.flat, shown, strict=False):
        _draw_image(place, images[index])
        true, taken = (names[int(label)] for label in (labels[index], decided[index]))
        place.set_title(f"{true}\ntaken for {taken}", fontsize=7)
    shares = f"{len(shown)} of {len(wrong)} mistakes, {len(labels)} examples"
    figure.suptitle(f"{title}: {shares}")
    return figure


def kernels(weight: np.ndarray, most: int = 64) -> Figure:
    """Kernels [height, width, in, out], averaged over the input channels unless there is one."""
    drawn = weight.mean(2)[..., :most]
    limit = float(np.abs(drawn).max())
    columns = min(16, drawn.shape[-1])
    rows = -(-drawn.shape[-1] // columns)
    figure, axes = style.figure(rows, columns, height=0.65, squeeze=False)
    image = None
    for index, place in enumerate(axes.flat):
        place.axis("off")
        if index < drawn.shape[-1]:
            image = place.imshow(drawn[..., index], cmap=style.DIVERGING, vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.8)
    mean = "" if weight.shape[2] == 1 else f", mean over {weight.shape[2]} input channels"
    figure.suptitle(f"kernels of the first convolution{mean}")
    return figure


def feature_maps(
    image: np.ndarray, maps: Sequence[tuple[str, np.ndarray]], channels: int = 8
) -> Figure:
    """One row for each layer: the first channels of what it returns for one image."""
    figure, axes = style.figure(len(maps) + 1, channels, height=1.0, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    _draw_image(axes[0, 0], image)
    axes[0, 0].set_title("input", fontsize=8)
    for row, (name, output) in zip(axes[1:], maps, strict=True):
        row[0].set_title(f"{name}, {'×'.join(map(str, output.shape))}", fontsize=8, loc="left")
        for channel, place in enumerate(row[: output.shape[-1]]):
            place.imshow(output[..., channel])
    return figure


def saliency(images: np.ndarray, slopes: np.ndarray, names: Sequence[str]) -> Figure:
    """Images, and below each the gradient of its strongest output unit by every pixel."""
    figure, axes = style.figure(2, len(images), height=1.5, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    drawn = slopes.sum(-1)
    for column, (image, slope, name) in enumerate(zip(images, drawn, names, strict=True)):
        _draw_image(axes[0, column], image)
        axes[0, column].set_title(name, fontsize=8)
        limit = float(np.abs(slope).max()) or 1.0
        axes[1, column].imshow(slope, cmap=style.DIVERGING, vmin=-limit, vmax=limit)
    figure.suptitle("the strongest output unit, and its gradient by the pixels")
    return figure


def _draw_image(place: Any, image: np.ndarray) -> None:
    place.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray_r")
