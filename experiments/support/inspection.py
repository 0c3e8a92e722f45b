"""The page of `experiments.inspect`: its numbers, and how they are drawn."""

import textwrap
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.support import style

SHOWN = 8
"""How many of the hardest and of the easiest examples."""


EXPLAINED = (
    "What each layer puts out (left), and the deltas that come back to it (right): a delta is the "
    "derivative of an example's loss by an output: the sizes on the right say how fast that layer "
    "can learn. Distributions that move left from layer to layer are gradients that vanish.",
    "A unit is dead if its slope is 0 for all examples: no delta passes it. It is saturated for an "
    "example if its slope is below 5 % of the largest that the activation has: hardly any passes. "
    "Of a ReLU that means inactive, which half of the units are at first, and is no fault.",
    "The gradient is the mean over examples; its noise is how far an example's own gradient lies "
    "from that mean. Where the noise is much larger than the norm, a step of few examples goes "
    "mostly by chance, and larger batches pay.",
    "The norm of an example's gradient says how much it would move the parameters by itself: large "
    "for examples that are wrong, mislabelled or rare. The order is by that norm, which the loss "
    "below a picture mostly follows.",
    "Along an eigenvector of the Hessian the loss curves by its eigenvalue: steps larger than 2 / "
    "the largest diverge, and many near 0 are directions that hardly matter. Ritz values are the "
    "eigenvalues that a few products of the matrix with vectors find, largest and smallest first.",
)
"""What there is to see in each row."""


class Page(NamedTuple):
    """What is on it; see `experiments.inspect`."""

    over_training: list[tuple[int, dict[str, tuple[float, float]]]]
    """(epoch, {layer: (‖mean gradient‖, √ trace of the covariance of the examples' gradients)})."""
    activations: dict[str, np.ndarray]
    deltas: dict[str, np.ndarray]
    dead: dict[str, float]
    saturated: dict[str, float]
    norms: np.ndarray
    """[examples], the norm of each example's gradient."""
    captions: list[str]
    """Of the examples."""
    images: np.ndarray | None
    """The examples [n, height, width, channels], where they are images."""
    spectra: dict[str, tuple[np.ndarray, np.ndarray]]
    """{matrix: (Ritz values, shares)}."""


def draw(name: str, page: Page) -> Figure:
    """The page."""
    figure = Figure(figsize=(style.WIDTH, 15.5), layout="constrained")
    figure.suptitle(f"{name}: what flows through it, and what it learns from")
    rows: Any = figure.subfigures(5, 1, height_ratios=(4.4, 3.0, 3.0, 3.2, 3.0))
    for row, text in zip(rows, EXPLAINED, strict=True):
        row.suptitle("\n".join(textwrap.wrap(text, 150)), fontsize=7.5, x=0.01, ha="left")
    left, right = rows[0].subplots(1, 2, sharey=True)
    _histograms(left, page.activations, "activations", symmetric=True)
    _histograms(right, page.deltas, "log₁₀ |delta| of one example", symmetric=False)
    _units(rows[1].subplots(), page)
    _over_training(rows[2].subplots(1, 2, sharey=True), page)
    _hardness(rows[3], page)
    _spectra(rows[4].subplots(1, len(page.spectra)), page)
    return figure


def _histograms(axes: Any, values: dict[str, np.ndarray], title: str, *, symmetric: bool) -> None:
    """One histogram above the other, the first layer at the top, each with a height of its own.

    Heights are square roots of counts: the zeros of a ReLU would flatten everything else.
    """
    names = list(values)
    colours = matplotlib.colormaps[style.SEQUENTIAL](np.linspace(0.1, 0.8, len(names)))
    for place, (name, colour) in enumerate(zip(reversed(names), colours, strict=True)):
        flat = values[name].astype(float).ravel()
        if symmetric:
            low, high = np.quantile(flat, (0.001, 0.999))
            flat = flat[(flat >= low) & (flat <= high)]
        else:
            flat = np.log10(np.abs(flat[flat != 0]))
        if flat.size == 0 or flat.min() == flat.max():
            continue
        counts, edges = np.histogram(flat, bins=60)
        middles = (edges[1:] + edges[:-1]) / 2
        heights = place + 0.9 * np.sqrt(counts / counts.max())
        axes.fill_between(middles, place, heights, color=colour, alpha=0.7, lw=0, step="mid")
    axes.set_yticks(range(len(names)), reversed(names), fontsize=7)
    axes.set(title=title, ylim=(-0.1, len(names) + 0.1))
    if symmetric:
        axes.set_xscale("symlog", linthresh=1.0)


def _units(axes: Any, page: Page) -> None:
    names = list(page.dead)
    if not names:
        axes.axis("off")
        axes.set_title("no pointwise activations")
        return
    places = np.arange(len(names))
    axes.bar(places - 0.2, [100 * float(page.dead[n]) for n in names], 0.4, label="dead units")
    shares = [100 * float(page.saturated[n]) for n in names]
    axes.bar(places + 0.2, shares, 0.4, label="slopes below 5 % of the largest")
    axes.set_xticks(places, names, fontsize=7)
    axes.set(ylabel="share (%)", title="dead and saturated units", ylim=(0, 115))
    axes.legend()


def _over_training(axes: Any, page: Page) -> None:
    epochs = [epoch for epoch, _ in page.over_training]
    titles = ("norm of the mean gradient, by layer", "its noise: deviation of one example")
    for place, (panel, title) in enumerate(zip(axes, titles, strict=True)):
        for name in page.over_training[0][1]:
            values = [by_layer[name][place] for _, by_layer in page.over_training]
            panel.plot(epochs, values, marker=".", label=name)
        panel.set(yscale="log", xlabel="epoch", title=title)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(fontsize=7, ncols=2)


def _hardness(row: Any, page: Page) -> None:
    """Examples by the norm of their gradients, and the outermost of them."""
    order = np.argsort(-page.norms)
    ranked = page.norms[order]
    if page.images is None:
        axes = row.subplots()
    else:
        curve, pictures = row.subfigures(1, 2, width_ratios=(1, 2))
        axes = curve.subplots()
        # The easiest at the end of the second line.
        chosen = [*order[:SHOWN], *order[-SHOWN:]]
        grid = pictures.subplots(2, SHOWN, squeeze=False)
        for place in grid.flat:
            place.axis("off")
        for place, index in zip(grid.flat, chosen, strict=False):
            image = page.images[index]
            place.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray_r")
            place.set_title(page.captions[index], fontsize=5.5)
        pictures.suptitle("largest gradients (above) and smallest (below)", fontsize=9)
    axes.plot(np.arange(1, len(ranked) + 1), np.maximum(ranked, 1e-12))
    axes.set(yscale="log", xlabel="rank", ylabel="gradient norm", title="hardness of examples")
    if page.images is None:
        for rank in range(min(SHOWN, len(order))):
            caption = page.captions[order[rank]].replace("\n", ", ")
            text = f"{rank + 1}: example {order[rank]}, {caption}"
            axes.text(0.45, 0.95 - 0.1 * rank, text, transform=axes.transAxes, fontsize=7, va="top")


def _spectra(axes: Any, page: Page) -> None:
    for panel, (name, (values, shares)) in zip(
        np.atleast_1d(axes), page.spectra.items(), strict=True
    ):
        panel.vlines(values, 1e-9, np.maximum(shares, 1e-9), color=style.BLUE, lw=1)
        panel.plot(values, np.maximum(shares, 1e-9), "o", ms=3)
        largest = np.abs(values).max()
        threshold = max(largest * 1e-3, 1e-12)
        panel.set_xscale("symlog", linthresh=threshold)
        # Outside of the linear part alone, where the labels of the decades do not overlap.
        low, high = np.log10([threshold, max(largest, threshold)])
        apart = 2 if values.min() < -threshold else 1
        decades = 10 ** np.arange(np.ceil(low), high, apart)
        panel.set_xticks([*-decades[decades <= -values.min()], 0, *decades])
        panel.set(yscale="log", ylim=(1e-8, 2), xlabel="eigenvalue (Ritz value)")
        panel.set_ylabel("share of the spectrum")
        panel.set_title(f"{name}: largest {values.max():.3g}, smallest {values.min():.2g}")
