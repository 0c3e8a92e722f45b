"""The pictures of a training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.support import style

MOST_CLASSES = 30
"""Of how many classes a confusion matrix has names and numbers,"""
MOST_CELLS = 500
"""how many cells it has in a row at most,"""
MOST_PAIRS = 30
"""and how many pairs stand beside one of more classes."""
MOST_PLANES = 8
"""How many channels of an image without colours are drawn."""


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
        values = np.array([r.get(f"validation_{metric}", np.nan) for r in epochs], float)
        percent = metric == "accuracy"
        axes[1].plot(
            numbers, values * (100 if percent else 1), marker=marker, color=style.VERMILLION
        )
        label = {"accuracy": "accuracy (%)", "r2": "R²"}.get(metric, metric)
        axes[1].set(xlabel="epoch", ylabel=label, title="on the validation set")
    return figure


def confusion_matrix(
    labels: np.ndarray, decided: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """How often each class was taken for each other one; ``title`` says in which data.

    Of more than `MOST_CLASSES` classes the picture has the same size as of these, no names at its
    sides, and beside it the pairs that were taken for each other most often.
    """
    size = len(names)
    pairs, counts = np.unique(labels.astype(np.int64) * size + decided, return_counts=True)
    (true, taken), of = np.divmod(pairs, size), np.bincount(labels, minlength=size)
    shares = counts / of[true]
    # A cell of very many classes is a block of them: the largest share, so that none goes unseen.
    block = -(-size // MOST_CELLS)
    cells = np.zeros((-(-size // block),) * 2)
    np.maximum.at(cells, (true // block, taken // block), shares)

    many = size > MOST_CLASSES
    height = 0.42 * min(size, MOST_CLASSES) + 2
    figure, places = style.figure(height=height, columns=1 + many, squeeze=False)
    figure.set_figwidth((1 + many) * max(height + 1, 4.5))  # the matrix is square
    axes = places[0, 0]
    image = axes.imshow(cells, vmin=0, vmax=1)
    axes.grid(False)
    if many:
        axes.set(xticks=[], yticks=[])
        beside = places[0, 1]
        beside.axis("off")
        beside.set_title(f"the most frequent mistakes among {size} classes", loc="left")
        wrong = np.flatnonzero(true != taken)
        for line, k in enumerate(wrong[np.argsort(-counts[wrong], kind="stable")][:MOST_PAIRS], 1):
            pair = " taken for ".join(
                style.shown(names[int(label)]) for label in (true[k], taken[k])
            )
            text = f"{counts[k]} of {of[true[k]]}: {pair}"
            beside.text(0, 1 - line / (MOST_PAIRS + 1), text, fontsize=8, va="center")
    else:
        for row, column, count, share in zip(true, taken, counts, shares, strict=True):
            colour = "white" if share < 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
        shown = [style.shown(name) for name in names]
        rotation = {"rotation": 45, "ha": "right"} if max(map(len, shown)) > 4 else {}
        axes.set_xticks(range(size), shown, **rotation)
        axes.set_yticks(range(size), shown)
    correct = counts[true == taken].sum() / max(len(labels), 1)
    title = f"{style.shown(title, 60)}, {len(labels)} examples, {100 * correct:.1f} % correct"
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
    rows = -(-len(shown) // 8)
    columns = -(-len(shown) // rows)
    figure, axes = style.figure(rows, columns, height=1.35, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, index in zip(axes.flat, shown, strict=False):
        _draw_image(place, images[index])
        pair = labels[index], decided[index]
        true, taken = (style.shown(names[int(label)], 16) for label in pair)
        place.set_title(f"{true}\ntaken for {taken}", fontsize=7)
    shares = f"{len(shown)} of {len(wrong)} mistakes, {len(labels)} examples"
    figure.suptitle(f"{style.shown(title, 60)}: {shares}")
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
    """One row for each layer, of one scale: the first channels of what it returns for an image."""
    figure, axes = style.figure(len(maps) + 1, channels, height=1.15, squeeze=False)
    figure.get_layout_engine().set(h_pad=0.12)
    for place in axes.flat:
        place.axis("off")
    _draw_image(axes[0, 0], image)
    axes[0, 0].set_title("input", fontsize=8)
    for row, (name, output) in zip(axes[1:], maps, strict=True):
        count, low, high = output.shape[-1], float(np.min(output)), float(np.max(output))
        left_out = f": the first {channels} of {count} channels" if count > channels else ""
        title = f"{name}, {'×'.join(map(str, output.shape))}{left_out}"
        # As long as the row, it would push the second channel away from the first.
        above = row[0].text(0, 1.06, title, fontsize=8, transform=row[0].transAxes)
        above.set_in_layout(False)
        for channel, place in enumerate(row[:count]):
            drawn = place.imshow(output[..., channel], vmin=low, vmax=high)
        figure.colorbar(drawn, ax=row, shrink=0.9, pad=0.01).ax.tick_params(labelsize=6)
    return figure


def saliency(images: np.ndarray, slopes: np.ndarray, names: Sequence[str]) -> Figure:
    """Images, and below each the gradient of its strongest output unit by every pixel."""
    figure, axes = style.figure(2, len(images), height=1.5, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    drawn = slopes.sum(-1)
    for column, (image, slope, name) in enumerate(zip(images, drawn, names, strict=True)):
        _draw_image(axes[0, column], image)
        axes[0, column].set_title(style.shown(name, 16), fontsize=8)
        limit = float(np.abs(slope).max()) or 1.0
        drawn = axes[1, column].imshow(slope / limit, cmap=style.DIVERGING, vmin=-1, vmax=1)
        axes[1, column].set_title(f"largest {limit:.2g}", fontsize=7)
    figure.colorbar(drawn, ax=axes[1], label="share of the largest", shrink=0.9, pad=0.01)
    figure.suptitle("the strongest output unit, and its gradient by the pixels")
    return figure


def _draw_image(place: Any, image: np.ndarray) -> None:
    """Grey of one channel, colours of three or four, and of any other number its channels beside
    each other; numbers of any range, the smallest white where it is grey."""
    channels = image.shape[-1]
    if channels in (3, 4):
        low, high = float(np.min(image)), float(np.max(image))
        if low < 0 or high > 1:
            image = (image - low) / ((high - low) or 1.0)
        place.imshow(image)
    else:
        place.imshow(np.concatenate(np.moveaxis(image[..., :MOST_PLANES], -1, 0), 1), cmap="gray_r")
