"""What the chapters draw: the arrays that go through a layer and come back."""

import io
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import SVG
from matplotlib.figure import Figure

import jaxnn as nn
from experiments.support import style


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


def drawn(figure: Figure) -> SVG:
    """The figure, for the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return SVG(buffer.getvalue())
