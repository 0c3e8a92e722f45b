"""What the chapters draw: the arrays that go through a layer and come back."""

import io
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import SVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import jaxnn as nn
from experiments.support import style

MOST_WRITTEN = 40
"""The most numbers that are written into a picture."""


def flow(layer: nn.Layer, x: Any, *, dy: Any = None, seed: int = 0) -> SVG:
    """x, y, and below them dx, dy, as the layer's forward and backward pass give them.

    Each is drawn as a matrix, an example a row, in one scale of colours above and one below: purple
    is positive, orange negative.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    params, state = layer.init(keys[0], x)
    y, _, residuals = layer.forward(params, state, x, keys[1])
    dy = jax.random.normal(keys[2], y.shape, y.dtype) if dy is None else jnp.asarray(dy, y.dtype)
    dx, _ = layer.backward(params, residuals, dy)
    return matrices({"x": x, "y": y}, {"dx": dx, "dy": dy})


def matrices(*rows: dict[str, Any]) -> SVG:
    """Arrays by their names, a row of them in one scale of colours."""
    figure = Figure(figsize=(style.WIDTH, 1.6 * len(rows)), layout="constrained")
    for axes, row in zip(
        figure.subplots(len(rows), len(rows[0]), squeeze=False), rows, strict=True
    ):
        limit = max(float(jnp.max(jnp.abs(a))) for a in row.values()) or 1.0
        for one, (name, a) in zip(axes, row.items(), strict=True):
            shown = np.asarray(a, float).reshape(a.shape[0], -1)
            image = one.imshow(shown, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
            one.set_title(f"{name} {list(a.shape)}")
            one.set_xticks([])
            one.set_yticks([])
        figure.colorbar(image, ax=axes, shrink=0.9)
    return drawn(figure)


def curves(*layers: nn.Layer, low: float = -4, high: float = 4) -> SVG:
    """y over x, and beside it the slope y′: what the backward pass makes of a delta of 1."""
    x = jnp.linspace(low, high, 801)
    found = {}
    for layer in layers:
        y, _, residuals = layer.forward((), (), x, None)
        found[layer.name] = y, layer.backward((), residuals, jnp.ones_like(y))[0]
    return _with_slopes(x, found, ("x", "y", "y′"))


def errors(*losses: nn.Loss) -> SVG:
    """Losses of one output over its error, and their gradients."""
    e = jnp.linspace(-3, 3, 601)
    prediction, target = e[:, None], jnp.zeros((len(e), 1))
    found = {
        loss.name: (loss.value(prediction, target), loss.gradient(prediction, target)[:, 0])
        for loss in losses
    }
    return _with_slopes(e, found, ("y − t", "loss", "its gradient, the delta"))


def _with_slopes(x: Any, found: dict[str, tuple], titles: tuple[str, str, str]) -> SVG:
    figure, axes = style.figure(1, 2)
    for (name, pair), dash in zip(found.items(), itertools.cycle(("-", "--", ":", "-."))):
        for one, a in zip(axes, pair, strict=True):
            one.plot(x, a, dash, label=name)
    for one, title in zip(axes, titles[1:], strict=True):
        one.set_xlabel(titles[0])
        one.set_title(title)
    axes[0].legend()
    return drawn(figure)


def images(*rows: dict[str, Any]) -> SVG:
    """Matrices by their titles, row by row, each with its numbers where they are few; purple is
    positive, orange negative."""
    columns = max(map(len, rows))
    figure = Figure(
        figsize=(style.WIDTH, (2.2 if columns > 2 else 3) * len(rows)), layout="constrained"
    )
    for row, axes in zip(rows, figure.subplots(len(rows), columns, squeeze=False), strict=True):
        for one in axes:
            one.axis("off")
        for one, (title, matrix) in zip(axes, row.items(), strict=False):
            matrix = np.asarray(matrix, float)
            limit = np.abs(matrix).max() or 1
            one.imshow(matrix, cmap=style.DIVERGING, vmin=-limit, vmax=limit)
            one.set_title(title)
            if matrix.size <= MOST_WRITTEN:
                for (place, column), value in np.ndenumerate(matrix):
                    text = style.minus(f"{np.round(value, 2) + 0:g}")  # + 0 makes −0 a 0
                    colour = "white" if abs(value) > limit / 2 else "black"
                    one.text(
                        column, place, text, ha="center", va="center", fontsize=8, color=colour
                    )
    return drawn(figure)


def windows_that_meet(layer: nn.Layer, size: int, pixel: tuple[int, int]) -> SVG:
    """The windows of a `conv` with one channel in which a pixel lies, and by which tap of a square
    kernel each of them meets it: each window's delta alone is sent back through a kernel whose taps
    are numbered.
    """
    x = jnp.zeros((1, size, size, 1))
    params, state = layer.init(jax.random.key(0), x)
    taps = jnp.arange(1.0, params["weight"].size + 1).reshape(params["weight"].shape)
    y, _, residuals = layer.forward(params | {"weight": taps}, state, x, None)
    side, out = taps.shape[0], y.shape[1]
    figure = Figure(figsize=(style.WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _grid(left, size, f"x: the windows that meet {pixel}")
    _grid(right, out, "y: by which tap")
    left.add_patch(Rectangle((pixel[1], pixel[0]), 1, 1, facecolor=style.GREY, alpha=0.5))
    meeting = 0
    for window in np.ndindex(out, out):
        one = jnp.zeros_like(y).at[0, *window, 0].set(1)
        dx = np.asarray(layer.backward(params | {"weight": taps}, residuals, one)[0])[0, ..., 0]
        if tap := int(dx[pixel]):
            row, column = np.unravel_index(tap - 1, (side, side))
            colour = style.COLOURS[meeting % len(style.COLOURS)]
            corner = (pixel[1] - column, pixel[0] - row)
            shift = 0.06 * meeting
            left.add_patch(
                Rectangle(
                    (corner[0] + shift, corner[1] + shift),
                    *(side - 2 * shift,) * 2,
                    fill=False,
                    edgecolor=colour,
                    linewidth=2,
                )
            )
            right.add_patch(Rectangle((window[1], window[0]), 1, 1, facecolor=colour, alpha=0.5))
            label = f"W[{row}, {column}]"
            right.text(window[1] + 0.5, window[0] + 0.5, label, ha="center", va="center")
            meeting += 1
    return drawn(figure)


def _grid(axes: Any, size: int, title: str) -> None:
    for place in np.ndindex(size, size):
        axes.add_patch(
            Rectangle((place[1], place[0]), 1, 1, facecolor="none", edgecolor=style.GREY)
        )
    axes.set(xlim=(-1.2, size + 1.2), ylim=(size + 1.2, -1.2), aspect="equal", title=title)
    axes.axis("off")


def drawn(figure: Figure) -> SVG:
    """The figure, for the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return SVG(buffer.getvalue())
