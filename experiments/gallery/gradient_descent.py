"""Gradient descent: the walk, the learning rate, local minima, noise, and optimisers.

The update is  w ← w − η f'(w).  On the parabola f = ½ c (w − m)² each update multiplies the
distance to m by 1 − ηc: for ηc near 0 it hardly moves, at ηc = 1 it arrives at once, between 1 and
2 it jumps across m and still converges, above 2 it diverges.

The walk of the notes has slope 3 at w = 3 and, after η = 0.5, slope −1 at w = 1.5. The parabola
with these slopes is  f = 4/3 w² − 5w.

f(w) = w⁴/4 − 2w² + w/2 has two minima, the right one local. Written as the mean over examples of
fᵢ(w) = f(w) + aᵢ w with Σ aᵢ = 0, a mini-batch sees the slope f'(w) + mean of its aᵢ: right on
average, noisy at each step. Indices are shuffled once an epoch and taken k at a time, so that
every epoch uses each example once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gallery.descent import descend
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"w \leftarrow w - \eta\, f'(w)",
    r"f(w) = \frac{c}{2} (w - m)^2, \quad w - m \leftarrow (1 - \eta c)\,(w - m)",
)

REGIMES = {"too small": 0.02, "right": 0.9, "large": 1.85, "too large": 2.1}
"""Learning rates on f = ½ w²."""
OPTIMIZERS = {
    "SGD": optax.sgd(0.0195),
    "momentum": optax.sgd(0.03, momentum=0.7),
    "Nesterov": optax.sgd(0.01, momentum=0.8, nesterov=True),
    "AdaGrad": optax.adagrad(1.5),
    "RMSprop": optax.rmsprop(0.15),
    "Adam": optax.adam(0.4),
}
EXAMPLES, BATCH = 1024, 4


def one_step(w: float, slope: float, rate: float) -> float:
    """w − η · slope, by the optimiser that trains everything else."""
    sgd, start = optax.sgd(rate), jnp.float32(w)
    updates, _ = sgd.update(jnp.float32(slope), sgd.init(start))
    return float(jnp.asarray(optax.apply_updates(start, updates)))


def walk(updates: int = 6) -> np.ndarray:
    """The notes' walk on 4/3 w² − 5w from w = 3 with the rate 0.5."""
    return np.asarray(
        descend(lambda w: (4 / 3 * w**2 - 5 * w, 8 / 3 * w - 5), optax.sgd(0.5), 3.0, updates)[0]
    )


def regimes(updates: int = 40) -> dict[str, np.ndarray]:
    """w by update on f = ½ w² from w = 4 for each learning rate."""
    return {
        name: np.asarray(descend(lambda w: (w**2 / 2, w), optax.sgd(rate), 4.0, updates)[0])
        for name, rate in REGIMES.items()
    }


def curve(w):
    """The curve with two minima."""
    return w**4 / 4 - 2 * w**2 + w / 2


def slope(w):
    """Its derivative."""
    return w**3 - 4 * w + 0.5


def epoch_batches(key: jax.Array) -> jax.Array:
    """[batches, BATCH] indices: every example once, in random order."""
    return jax.random.permutation(key, EXAMPLES).reshape(-1, BATCH)


EPOCHS = 6


def many_starts(noise: float, starts: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Mini-batch descent from many starts at once; the rate falls to zero over `EPOCHS`.

    Args:
        noise: The deviation of the examples' slopes aᵢ; 0 is plain descent.
        starts: How many, evenly over −3 … 3.

    Returns:
        The starts and where each of them ends.
    """
    tilt = jax.random.normal(jax.random.key(1), (EXAMPLES,))
    tilt = noise * (tilt - tilt.mean()) / tilt.std()
    begin = jnp.linspace(-3, 3, starts)
    ends = noisy_descent(begin, jax.random.split(jax.random.key(2), starts), tilt)
    return np.asarray(begin), np.asarray(ends)


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def noisy_descent(w: jax.Array, key: jax.Array, tilt: jax.Array) -> jax.Array:
    """Where descent by mini-batches of the examples' slopes f'(w) + aᵢ ends."""
    batches = jax.vmap(epoch_batches)(jax.random.split(key, EPOCHS)).reshape(-1, BATCH)
    rates = 0.06 * (1 - jnp.arange(len(batches)) / len(batches))

    def update(w, step):
        batch, rate = step
        return w - rate * (slope(w) + tilt[batch].mean()), None

    return jax.lax.scan(update, w, (batches, rates))[0]


def valley(p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """½ (w₁² + 100 w₂²): a valley a hundred times steeper across than along, and its slope."""
    curvature = jnp.array([1.0, 100.0])
    return jnp.sum(curvature * p**2) / 2, curvature * p


def races(updates: int = 60) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The path and the values of each optimiser in the valley, from (−7, 2)."""
    start = jnp.array([-7.0, 2.0])
    return {
        name: jax.tree.map(np.asarray, descend(valley, optimizer, start, updates))
        for name, optimizer in OPTIMIZERS.items()
    }


def draw_rates() -> Picture:
    """The walk, and four regimes of the learning rate."""
    figure, axes = style.figure(rows=2, columns=3, height=2.4)
    w = np.linspace(0.5, 3.3, 100)
    panel, path = axes[0, 0], walk()
    panel.plot(w, 4 / 3 * w**2 - 5 * w, color=style.GREY)
    panel.plot(path, 4 / 3 * path**2 - 5 * path, "o", markersize=4)
    for at in path[:2]:
        _tangent(panel, at, 4 / 3 * at**2 - 5 * at, 8 / 3 * at - 5, 0.4)
    panel.set(title="the walk: 3 → 1.5 → 2 → …", xlabel="w", ylabel="f(w)")
    w = np.linspace(-6, 6, 100)
    paths = regimes()
    for panel, (name, path) in zip(axes.flat[1:], paths.items(), strict=False):
        shown = path[np.abs(path) <= 6][:40]
        panel.plot(w, w**2 / 2, color=style.GREY)
        panel.plot(shown, shown**2 / 2, "o-", markersize=3, linewidth=1)
        _tangent(panel, path[0], path[0] ** 2 / 2, path[0], 1.1)
        panel.set(title=f"{name}: η = {REGIMES[name]:g}", xlabel="w", ylabel="f(w)", ylim=(-2, 19))
        if len(shown) < min(len(path), 40):
            panel.set(xlabel=f"w (off the picture after {len(shown) - 1} updates)")
    for name, path in paths.items():
        axes[1, 2].semilogy(np.maximum(path**2 / 2, 1e-9), label=name)
    axes[1, 2].set(title="all four", xlabel="update", ylabel="f(w)", ylim=(1e-8, 1e9))
    axes[1, 2].legend(fontsize=7, loc="upper right", ncols=2, columnspacing=0.8)
    caption = (
        "The walk of the notes, and four learning rates on f = ½ w². The short lines are tangents: "
        "their slope, times the rate, is the length of the next step."
    )
    return Picture("rates", caption, figure)


def _tangent(axes: Any, w: float, value: float, slope: float, reach: float) -> None:
    ends = np.array([w - reach, w + reach])
    axes.plot(ends, value + slope * (ends - w), color=style.VERMILLION, linewidth=1.2)


def draw_minima(ends: dict) -> Picture:
    """Where starts end, without and with noise."""
    figure, row = style.figure(columns=2, height=3.0, sharey=True)
    w = np.linspace(-3, 3, 300)
    for axes, (name, (begin, end)) in zip(row, ends.items(), strict=True):
        axes.plot(w, curve(w), color=style.GREY, linewidth=1)
        for side, colour, place in (
            (end < 0, style.BLUE, "left, global"),
            (end >= 0, style.VERMILLION, "right, local"),
        ):
            label = f"{np.mean(side):.0%} end {place}"
            # Above the curve or below it by where they end, so that none hides another.
            away = 0.25 if place.startswith("left") else -0.25
            axes.scatter(begin[side], curve(begin[side]) + away, 5, colour, label=label)
            axes.plot(end[side].mean(), curve(end[side].mean()), "v", color=colour, markersize=9)
        axes.set(title=name, xlabel="start w")
        axes.legend(loc="upper center")
    row[0].set(ylabel="f(w)")
    caption = (
        "Each dot is a start, drawn a little above the curve if it ends on the left and below it "
        "if on the right; triangles stand at the mean of where they end. Plain descent goes down "
        "the side it starts on; noise lets many walks leave the local minimum."
    )
    return Picture("minima", caption, figure)


def draw_valley(paths: dict) -> Picture:
    """The paths of the optimisers over the valley, and their values."""
    figure, axes = style.figure(rows=2, columns=4, height=2.3)
    reach = 1.1 * max(np.abs(path[:, 1]).max() for path, _ in paths.values())
    x, y = np.linspace(-8, 4, 120), np.linspace(-reach, reach, 120)
    height = (x[None] ** 2 + 100 * y[:, None] ** 2) / 2
    for panel, (name, (path, _)) in zip(axes[:, :3].flat, paths.items(), strict=True):
        panel.contour(
            x, y, height, np.geomspace(0.1, 400, 8), linewidths=0.6, cmap=style.SEQUENTIAL
        )
        panel.plot(*path.T, ".-", color=style.VERMILLION, linewidth=1, markersize=3)
        panel.set(title=name, xlabel="w₁", ylabel="w₂", xlim=(-8, 4), ylim=(-reach, reach))
    figure.delaxes(axes[1, 3])
    for name, (_, values) in paths.items():
        axes[0, 3].semilogy(values, label=name, linewidth=1.2)
    axes[0, 3].set(title="value", xlabel="update")
    handles = axes[0, 3].get_legend_handles_labels()
    figure.legend(*handles, loc="lower right", bbox_to_anchor=(0.97, 0.12))
    caption = (
        "Six optimisers on f = ½ (w₁² + 100 w₂²) from (−7, 2). Each rate is set by hand to show "
        "how the optimiser moves: the values do not rank them."
    )
    return Picture("valley", caption, figure)


def run() -> Result:
    """Walk, learning rates, minima and optimisers."""
    paths = regimes()
    near = {name: np.flatnonzero(np.abs(path) < 0.01) for name, path in paths.items()}
    ends = {
        "plain descent": many_starts(0.0),
        "mini-batches of 4, noisy slopes": many_starts(12.0),
    }
    race = races()
    return Result(
        "The learning rate decides everything on a parabola: too small hardly moves, too large "
        "diverges, and between them a large one wastes updates by jumping across. Where there are "
        "two minima, plain descent ends in the one below its start; the noise of mini-batches "
        "lets walks leave the local one. In a narrow valley momentum and adaptive rates help.",
        [draw_rates(), draw_minima(ends), draw_valley(race)],
        [
            Table(
                "The walk of the notes, rate 0.5",
                ("w", "slope", "next w"),
                [(w, s, one_step(w, s, 0.5)) for w, s in ((3.0, 3.0), (1.5, -1.0))],
            ),
            Table(
                "Four learning rates on ½ w² from w = 4",
                ("regime", "rate", "updates to |w| < 0.01", "w after 40"),
                [
                    (
                        name,
                        rate,
                        str(near[name][0]) if near[name].size else "never",
                        paths[name][-1],
                    )
                    for name, rate in REGIMES.items()
                ],
            ),
            Table(
                "Where 400 starts over −3 … 3 end",
                ("way", "global minimum", "local minimum"),
                [
                    (name, f"{np.mean(end < 0):.1%}", f"{np.mean(end >= 0):.1%}")
                    for name, (_, end) in ends.items()
                ],
            ),
            Table(
                "The valley after 60 updates",
                ("optimiser", "value"),
                [(name, values[-1]) for name, (_, values) in race.items()],
            ),
        ],
    )


if __name__ == "__main__":
    alone("gradient_descent")
