"""Does the noise of the gradient foretell how large a batch is worth its examples?

python -m experiments.critical_batch_size --output pictures

A network is trained to the same loss with batches of many sizes, each at its best learning rate of
a grid. The steps S and the examples E = B S that this takes are held against

    (S / S_min − 1) (E / E_min − 1) = 1, that is S = S_min (1 + B_crit / B),

whose B_crit, the batch at which both are twice their minimum, McCandlish et al. (2018) predict to
be about the gradient noise scale tr(Σ) / |G|², which is measured along one of the trainings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.optimize import curve_fit

import jaxnn as nn
from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.comparisons import report
from experiments.support.config import DataConfig
from jaxnn import statistics
from jaxnn.core.validation import require_number, require_positive_integer

RATES = tuple(2.0**k for k in range(-6, 2))
PROBED, MOST_EXAMPLES = 4000, 600_000
"""Training examples that the loss and the noise are measured on; when a training is given up."""


@dataclass(frozen=True)
class Options:
    """Count the steps to a loss for many batch sizes, beside the gradient noise scale."""

    output: Path
    """The folder for the figure and its numbers."""
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    """The batch sizes."""
    target: float = 0.45
    """The training loss to reach."""
    data: str = "fashion_mnist"
    """The data: classes of images or feature vectors."""
    overwrite: bool = False
    """Whether results that exist are replaced."""


def make_network(classes: int) -> nn.Layer:
    """One hidden layer."""
    return nn.serial(nn.dense(64), nn.relu(), nn.dense(classes))


def main(arguments: list[str]) -> None:
    """Train, print and draw."""
    options = parse_options(Options, "critical_batch_size", arguments)
    require_number("critical_batch_size", "target", options.target, minimum=0, open_minimum=True)
    for size in options.batch_sizes:
        require_positive_integer("critical_batch_size", "every batch size", size)
    report(
        "critical_batch_size",
        options.output,
        partial(measure, options),
        draw,
        overwrite=options.overwrite,
    )


def measure(options: Options) -> dict[str, Any]:
    """Steps for every batch size, the fit, and the noise scale by loss."""
    train = DataConfig(options.data, standardize="all").load().train
    network, loss = make_network(len(train.class_names)), nn.softmax_cross_entropy()
    x, target = jnp.asarray(train.x), jnp.asarray(train.target)
    params, state = network.init(jax.random.key(0), x[:1])
    start = (params, state, x, target)
    steps, rates, grid = {}, {}, RATES
    for size in sorted(options.batch_sizes):
        most = MOST_EXAMPLES // size
        for rate in grid:
            count = _steps_to(network, loss, start, size, rate, options.target, most)
            if count is not None:  # fewer than all before
                steps[size], rates[size], most = count, rate, count - 1
        if size in steps:
            print(f"batch {size}: {steps[size]} steps at rate {rates[size]:g}", flush=True)
            # The best rate grows with the batch, at most as fast as it.
            grid = [rate for rate in RATES if rates[size] / 2 <= rate <= 4 * rates[size]]
    if len(steps) < 3:
        raise ValueError(
            f"critical_batch_size: expected a loss of {options.target} to be reached with at least "
            f"3 batch sizes, got {len(steps)}"
        )
    sizes, counts = np.array(list(steps)), np.array(list(steps.values()))
    (least, critical), _ = curve_fit(
        lambda b, least, critical: np.log(least) + np.log1p(critical / b),
        sizes,
        np.log(counts),
        p0=(counts.min(), 100.0),
        bounds=(1e-3, np.inf),
    )
    middle = int(sizes[len(sizes) // 2])
    noise = _noise_along(network, loss, start, middle, rates[middle], steps[middle])
    print(f"critical batch size {critical:.0f}; noise scale {[round(n) for _, n in noise]}")
    return {
        "target": options.target,
        "steps": {str(size): count for size, count in steps.items()},
        "rates": {str(size): rate for size, rate in rates.items()},
        "least_steps": float(least),
        "critical_batch_size": float(critical),
        "noise_scale": noise,
    }


def _walk(
    network: nn.Layer, loss: nn.Loss, start: tuple, size: int, rate: float, most: int
) -> Iterator[tuple[int, Any, float]]:
    """(steps taken, params, loss on the first examples) now and then in ``most`` steps of SGD."""
    every = _every(size)
    params, state, x, target = start
    gradient = nn.backprop(network, loss)
    walk = _compiled(network, gradient, loss, size, every)
    key = jax.random.key(1)
    for steps in range(every, most + 1, every):
        key, own = jax.random.split(key)
        params, value = walk(params, state, x, target, own, jnp.float32(rate))
        yield steps, params, float(value)


_programs: dict[tuple, Any] = {}


def _compiled(network: nn.Layer, gradient: Any, loss: nn.Loss, size: int, every: int) -> Any:
    """One program for a batch size, whatever the rate."""

    @jax.jit
    def walk(params, state, x, target, key, rate):
        def step(params, key):
            batch = jax.random.randint(key, (size,), 0, x.shape[0])
            _, gradients = gradient(params, state, x[batch], target[batch])
            return jax.tree.map(lambda p, g: p - rate * g, params, gradients), None

        params, _ = jax.lax.scan(step, params, jax.random.split(key, every))
        values = loss.value(network.predict(params, state, x[:PROBED]), target[:PROBED])
        return params, jnp.mean(values)

    return _programs.setdefault((network, size, every), walk)


def _steps_to(
    network: nn.Layer,
    loss: nn.Loss,
    start: tuple,
    size: int,
    rate: float,
    target: float,
    most: int,
) -> int | None:
    """Steps until the loss is ``target``; None where ``most`` are too few or training diverges."""
    for steps, _, value in _walk(network, loss, start, size, rate, most):
        if value <= target:
            return steps
        if not np.isfinite(value):
            return None
    return None


def _every(size: int) -> int:
    """Steps between two looks at the loss: a few thousand examples, and fine enough to count."""
    return max(1, min(64, 1024 // size))


def _noise_along(
    network: nn.Layer, loss: nn.Loss, start: tuple, size: int, rate: float, steps: int
) -> list[tuple[float, float]]:
    """(loss, noise scale) at about ten times along the training, each over all probed examples."""
    _, state, *data = start
    x, target = (a[:PROBED] for a in data)
    scale = jax.jit(statistics.gradient_noise_scale(network, loss))
    looks = steps // _every(size)
    found = []
    walk = _walk(network, loss, start, size, rate, steps)
    for index, (_, params, value) in enumerate(walk):
        if index % max(looks // 10, 1) == 0 or index == looks - 1:
            found.append((value, float(scale(params, state, x, target))))
    return found


def draw(results: dict[str, Any]) -> Figure:
    """Steps and examples against each other, and the noise scale as the loss falls."""
    figure, (left, right) = style.figure(columns=2)
    sizes = np.array([int(size) for size in results["steps"]])
    steps = np.array(list(results["steps"].values()))
    left.plot(sizes * steps, steps, "o", label="measured")
    for size, count in zip(sizes, steps, strict=True):
        left.annotate(
            f"{size}", (size * count, count), fontsize=7, xytext=(4, 3), textcoords="offset points"
        )
    smooth = np.geomspace(sizes.min() / 2, sizes.max() * 2, 100)
    critical = results["critical_batch_size"]
    fitted = results["least_steps"] * (1 + critical / smooth)
    left.plot(smooth * fitted, fitted, label=f"fit, critical batch size {critical:.0f}")
    left.set(xscale="log", yscale="log", xlabel="examples", ylabel="steps")
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_title(f"to a training loss of {results['target']:g}, by batch size")
    left.legend()
    losses, noise = zip(*results["noise_scale"], strict=True)
    right.plot(losses, noise, "o", label="gradient noise scale")
    right.axhline(critical, color=style.GREY, ls="--", label="critical batch size of the fit")
    right.invert_xaxis()
    right.set(xlabel="training loss", ylabel="examples", yscale="log", title="along one training")
    right.legend()
    return figure


if __name__ == "__main__":
    run_script(main)
