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
    figure = Figure(figsize=(style.WIDTH, 3.2), layout="constrained")
    for axes, row in zip(
        figure.subplots(2, 2), ((("x", x), ("y", y)), (("dx", dx), ("dy", dy))), strict=True
    ):
        limit = max(float(jnp.max(jnp.abs(a))) for _, a in row) or 1.0
        for one, (name, a) in zip(axes, row, strict=True):
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
    figure, axes = style.figure(1, 2, height=2.8)
    for one, dash in zip(layers, itertools.cycle(("-", "--", ":", "-.")), strict=False):
        y, _, residuals = one.forward((), (), x, None)
        slope, _ = one.backward((), residuals, jnp.ones_like(y))
        axes[0].plot(x, y, dash, label=one.name)
        axes[1].plot(x, slope, dash)
    for one, name in zip(axes, ("y", "y′"), strict=True):
        one.set_xlabel("x")
        one.set_title(name)
    axes[0].legend()
    return drawn(figure)


def drawn(figure: Figure) -> SVG:
    """The figure, for the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return SVG(buffer.getvalue())
