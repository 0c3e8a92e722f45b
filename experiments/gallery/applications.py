"""Applications: wine, house prices, diabetes, advertisement clicks, and an image with a radar.

Wine: p = softmax(z) gives each class a probability, Σₖ pₖ = 1; the gradient of −log p_t by z is
p − onehot(t).

Regression: y = w·x + b with the mean of (y − t)², gradient 2 (y − t) by y. Descent on standardised
features ends in the least-squares solution (XᵀX) w = Xᵀt.

Click: the id k of an advertisement has a vector E[k], learned; ∂L/∂E[k] is the sum of the deltas of
the examples that showed k. With the cross-entropy −t log p − (1−t) log(1−p) the best prediction is
the probability itself: its mean over t ~ Bernoulli(q) is least at p = q.

Two inputs: y = f(g(image), h(signal)). The delta of the joined features is cut in two, and each
part goes back through its own branch: a camera sees the direction θ and a radar the range r of a
target, and only both together tell its position (r sin θ, r cos θ).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style
from experiments.support.calling import command
from jaxnn.data import load
from jaxnn.training import create_state, make_epoch, make_step, steps_per_epoch

FORMULAS = (
    r"p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \quad \sum_k p_k = 1",
    r"y = w \cdot x + b, \quad X^\top X\, w = X^\top t",
    r"\frac{\partial L}{\partial E[k]} = \sum_{n : \text{id}_n = k} \delta_n",
)

WINE_INPUTS = ("alcohol", "color_intensity", "flavanoids", "proline")
ADVERTISEMENTS = 20
SIDE, SAMPLES = 12, 32
SENSORS = {"camera and radar": (1, 1), "camera only": (1, 0), "radar only": (0, 1)}


SEQUENCES = [
    (source, target, by, command(name))
    for source, target, by, name in (
        ("tones", "symbols", "LSTM and CTC", "tones"),
        ("synthesised voices", "English sentences", "LSTM and CTC", "speech"),
        ("dates in ten languages", "ISO dates", "encoder, decoder, attention", "dates"),
        ("English or Japanese", "the other", "encoder, decoder, attention", "translation"),
        ("your own WAV files", "their transcripts", "LSTM and CTC", "sounds"),
    )
]


def trainer(
    network: nn.Layer,
    loss: nn.Loss,
    x: Any,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float = 0.01,
) -> Callable:
    """(x, target) -> (params, state) after training by Adam: one compiled program.

    ``x`` are inputs of the shapes that will be trained on.
    """
    steps = epochs * steps_per_epoch(len(jax.tree.leaves(x)[0]), batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    step = make_step(nn.backprop(network, loss), optimizer)
    run_epoch = make_epoch(step, batch_size, donate=False)
    start = create_state(network, optimizer, jax.random.key(0), x)

    @jax.jit
    def run(x, target):
        def body(train_state, _):
            return run_epoch(train_state, x, target)

        end, _ = jax.lax.scan(body, start, length=epochs)
        return end.params, end.state

    return run


def wine(classes: int = 3, inputs: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities [test examples, classes] of scikit-learn's wines, and their classes.

    Args:
        classes: How many of the three growers' wines.
        inputs: The measurements used; all 13 unless given.
    """
    splits = load("wine", standardize="features")
    names = splits.train.feature_names
    columns = [names.index(name) for name in inputs or names]
    (x, target), (test_x, labels) = (
        (part.x[part.target < classes][:, columns], part.target[part.target < classes])
        for part in (splits.train, splits.test)
    )
    logits = nn.serial(nn.dense(8), nn.tanh(), nn.dense(classes))
    train = trainer(logits, nn.softmax_cross_entropy(), x, epochs=60, batch_size=len(x))
    params, state = train(x, target)
    probabilities = nn.serial(logits, nn.softmax())
    return np.asarray(probabilities.predict((params, ()), (state, ()), jnp.asarray(test_x))), labels


def houses(examples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """x [examples, 2], size in square feet and rooms, and prices [examples, 1] in thousands.

    price = 24.4 + 0.15 size + 20 rooms + noise of standard deviation 10: 2104 ft² and 3 rooms are
    worth 400 on average.
    """
    rng = np.random.default_rng(0)
    rooms = rng.integers(1, 7, examples)
    size = 500 * rooms + rng.uniform(200, 1500, examples)
    price = 24.4 + 0.15 * size + 20 * rooms + rng.normal(0, 10, examples)
    return np.stack([size, rooms], 1).astype(np.float32), price[:, None].astype(np.float32)


def house_price() -> dict[str, tuple[float, float, float, float]]:
    """(constant, per square foot, per room, price of 2104 ft² with 3 rooms), by each method."""
    x, price = houses()
    mean, deviation = x.mean(0), x.std(0)
    target_mean, target_deviation = price.mean(), price.std()
    network = nn.dense(1)
    z, t = (x - mean) / deviation, (price - target_mean) / target_deviation
    options = {"epochs": 1000, "batch_size": len(z), "learning_rate": 0.1}
    train = trainer(network, nn.mean_squared_error(), z, **options)
    params, _ = train(z, t)
    weight = np.asarray(params["weight"])[:, 0] * target_deviation / deviation
    bias = float(params["bias"][0]) * target_deviation + target_mean - weight @ mean
    solved = np.linalg.lstsq(np.insert(x, 0, 1, 1).astype(np.float64), price[:, 0], rcond=None)[0]
    rows = {"descent": (bias, *weight), "least squares": solved, "the rule": (24.4, 0.15, 20.0)}
    return {
        name: (float(b), float(w), float(r), float(b + 2104 * w + 3 * r))
        for name, (b, w, r) in rows.items()
    }


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true progression of the test patients, in the units of the data set."""
    splits = load("diabetes", standardize="features", standardize_target=True)
    network = nn.dense(1)
    train, test = splits.train, splits.test
    run = trainer(network, nn.mean_squared_error(), train.x, epochs=500, batch_size=len(train.x))
    params, state = run(train.x, train.target)
    prediction = np.asarray(network.predict(params, state, jnp.asarray(test.x)))
    scale = splits.target_standardization
    return scale.invert(prediction)[:, 0], scale.invert(test.target)[:, 0]


def determination(prediction: np.ndarray, target: np.ndarray) -> float:
    """R² = 1 − Σ (t − y)² / Σ (t − mean t)²."""
    return float(1 - np.sum((target - prediction) ** 2) / np.sum((target - target.mean()) ** 2))


def advertisements(examples: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """((ids, features), clicks, true probabilities) by a known rule, features standardised.

    An advertisement pleases at most at an age of its own, mₖ:
    q = σ(aₖ − ((age − mₖ) / 12)² + 0.1 (pages seen − 10)), with 18 ≤ age ≤ 70 and 0 to 20 pages.
    """
    rng = np.random.default_rng(0)
    attraction = rng.uniform(-1, 2, ADVERTISEMENTS)
    best_age = rng.uniform(20, 65, ADVERTISEMENTS)
    ids = rng.integers(0, ADVERTISEMENTS, examples)
    age, pages = rng.uniform(18, 70, examples), rng.uniform(0, 20, examples)
    z = attraction[ids] - ((age - best_age[ids]) / 12) ** 2 + 0.1 * (pages - 10)
    probability = 1 / (1 + np.exp(-z))
    clicks = rng.random(examples) < probability
    features = np.stack([(age - 44) / 15, (pages - 10) / 6], 1)
    inputs = (ids.astype(np.int32), features.astype(np.float32))
    return inputs, clicks[:, None].astype(np.float32), probability


def click(examples: int = 20_000, epochs: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(learned, true probabilities, clicks) of a fifth of the examples, not trained on."""
    network = nn.serial(
        nn.parallel(nn.embedding(ADVERTISEMENTS, 4), nn.identity()),
        nn.concatenate(),
        nn.dense(32),
        nn.tanh(),
        nn.dense(1),
    )
    x, clicks, true = advertisements(examples)
    held_out = examples // 5
    train_x, test_x = (tuple(a[s] for a in x) for s in (slice(held_out, None), slice(held_out)))
    loss = nn.sigmoid_binary_cross_entropy()
    run = trainer(network, loss, train_x, epochs=epochs, batch_size=100)
    logits = jax.jit(network.predict)(*run(train_x, clicks[held_out:]), test_x)
    return np.asarray(jax.nn.sigmoid(logits))[:, 0], true[:held_out], clicks[:held_out, 0]


def cross_entropy(probability: np.ndarray, clicks: np.ndarray) -> float:
    """The mean of −log of the probability of what happened."""
    return float(-np.mean(np.log(np.where(clicks == 1, probability, 1 - probability))))


def targets(examples: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """((images, signals), positions [examples, 2]) of a target seen by a camera and a radar.

    The image [SIDE, SIDE, 1] has a spot whose column shows the direction, −45° to 45° from side to
    side; its row, the height, is of no use. The signal [SAMPLES, 1] has an echo whose delay shows
    the range, 1 to 10 km. Both are noisy. A position is (r sin θ, r cos θ) in km.
    """
    rng = np.random.default_rng(0)
    direction = rng.uniform(-np.pi / 4, np.pi / 4, examples)
    distance = rng.uniform(1, 10, examples)
    column = (direction / (np.pi / 2) + 0.5) * (SIDE - 1)
    row = rng.uniform(0, SIDE - 1, examples)
    delay = distance / 11 * (SAMPLES - 1)
    places = np.arange(SIDE)
    across = np.exp(-((places - column[:, None]) ** 2) / 2)
    down = np.exp(-((places - row[:, None]) ** 2) / 2)
    images = down[:, :, None] * across[:, None, :] + rng.normal(0, 0.05, (examples, SIDE, SIDE))
    signals = np.exp(-((np.arange(SAMPLES) - delay[:, None]) ** 2) / 4)
    signals += rng.normal(0, 0.05, signals.shape)
    positions = distance[:, None] * np.stack([np.sin(direction), np.cos(direction)], 1)
    inputs = (images[..., None].astype(np.float32), signals[..., None].astype(np.float32))
    return inputs, positions.astype(np.float32)


def locate(examples: int = 2500, epochs: int = 20) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(predicted, true positions) of a fifth of the targets, with both sensors and without one.

    A sensor that is off gives zeros, in training and afterwards.
    """
    network = nn.serial(
        nn.parallel(
            nn.serial(nn.conv(4, 3, strides=2), nn.relu(), nn.flatten(), nn.dense(16)),
            nn.serial(nn.conv(4, 5, strides=2), nn.relu(), nn.flatten(), nn.dense(16)),
        ),
        nn.concatenate(),
        nn.dense(32),
        nn.tanh(),
        nn.dense(2),
    )
    x, positions = targets(examples)
    held_out = examples // 5
    scale = float(positions.std())
    train_x, test_x = (tuple(a[s] for a in x) for s in (slice(held_out, None), slice(held_out)))
    run = trainer(network, nn.mean_squared_error(), train_x, epochs=epochs, batch_size=50)
    predict = jax.jit(network.predict)
    results = {}
    for name, switches in SENSORS.items():
        seen, unseen = (
            tuple(a * np.float32(on) for a, on in zip(inputs, switches, strict=True))
            for inputs in (train_x, test_x)
        )
        fitted = run(seen, positions[held_out:] / scale)
        results[name] = (scale * np.asarray(predict(*fitted, unseen)), positions[:held_out])
    return results


def distances(located: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The median distance between predicted and true position, in km, for each set of sensors."""
    return {
        name: float(np.median(np.linalg.norm(prediction - true, axis=1)))
        for name, (prediction, true) in located.items()
    }


def draw_wine(probabilities: np.ndarray, labels: np.ndarray) -> Picture:
    """Stacked probabilities of the test wines, sorted by true class."""
    order = np.argsort(labels, kind="stable")
    figure, axes = style.figure(height=2.8)
    bottom = np.zeros(len(order))
    for label, column in enumerate(probabilities[order].T):
        axes.bar(range(len(order)), column, 0.9, bottom, label=f"grower {label + 1}")
        bottom += column
    for boundary in np.flatnonzero(np.diff(labels[order])):
        axes.axvline(boundary + 0.5, color=style.BLACK)
    axes.set(xlabel="test wine, sorted by its true grower (lines between)", ylabel="probability")
    wrong = np.flatnonzero(probabilities[order].argmax(1) != labels[order])
    axes.plot(wrong, np.full(len(wrong), 0.5), "x", color=style.BLACK, markersize=8)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3)
    mistakes = f"Wrong: {len(wrong)} of {len(order)} (crosses)"
    caption = f"The probabilities of each test wine's grower; every bar is 1 high. {mistakes}."
    return Picture("wine", caption, figure)


def draw_regression(line: Sequence[float], prediction: np.ndarray, target: np.ndarray) -> Picture:
    """House prices over size, and predicted against true progression of diabetes."""
    figure, (left, right) = style.figure(columns=2, height=3.4)
    x, price = houses()
    constant, per_foot, per_room, worth = line
    for rooms, colour in zip((1, 3, 5), style.COLOURS, strict=False):
        chosen = x[:, 1] == rooms
        size = np.sort(x[chosen, 0])
        left.plot(x[chosen, 0], price[chosen, 0], ".", color=colour)
        prices = constant + per_foot * size + per_room * rooms
        left.plot(size, prices, color=colour, label=f"rooms: {rooms}")
    left.plot(2104, worth, "k*", markersize=10)
    left.set(title="house prices", xlabel="size [ft²]", ylabel="price [thousand $]")
    left.legend()
    right.plot(target, prediction, ".")
    right.plot([25, 346], [25, 346], color=style.GREY, linewidth=1)
    right.set(title="diabetes, test patients", aspect="equal")
    right.set(xlabel="true progression [points]", ylabel="predicted progression [points]")
    return Picture(
        "regression",
        "Left: prices of houses with 1, 3 and 5 rooms and the learned lines; the star is 2104 ft² "
        "with 3 rooms. Right: predicted against true progression of diabetes a year later, in the "
        "points of the study's own scale.",
        figure,
    )


def draw_click(learned: np.ndarray, true: np.ndarray, clicks: np.ndarray) -> Picture:
    """Learned against true probabilities, and how often was clicked where p was predicted."""
    figure, (left, right) = style.figure(columns=2, height=3.4, sharex=True, sharey=True)
    left.plot(true[:1500], learned[:1500], ".", markersize=3)
    left.set(title="1500 held-out examples", ylabel="learned probability")
    left.set(xlabel="true probability", aspect="equal")
    bins = np.minimum((learned * 10).astype(int), 9)
    present = np.unique(bins)
    means = [[a[bins == b].mean() for b in present] for a in (learned, clicks)]
    right.plot(*means, "o-", color=style.VERMILLION)
    right.set(title="calibration in ten bins", xlabel="learned probability, mean of the bin")
    right.set(ylabel="share that clicked", aspect="equal")
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, zorder=0)
        axes.tick_params(labelleft=True)
    return Picture(
        "click", "Clicks: learned against true probabilities, and against what happened.", figure
    )


def draw_positions(located: dict[str, tuple[np.ndarray, np.ndarray]]) -> Picture:
    """One image and signal, and true and predicted positions for each set of sensors."""
    (images, signals), _ = targets(1)
    figure, axes = style.figure(1, 2 + len(located), height=2.6)
    axes[0].imshow(images[0, :, :, 0])
    axes[0].grid(False)
    axes[0].set(title="image", xlabel="column", ylabel="row")
    axes[1].plot(signals[0, :, 0])
    axes[1].set(title="radar", xlabel="sample", ylabel="echo")
    for place, (name, (prediction, true)) in zip(axes[2:], located.items(), strict=True):
        for a, b in zip(true[:60], prediction[:60], strict=True):
            place.plot(*zip(a, b, strict=True), color=style.GREY, linewidth=0.7)
        place.plot(*true[:60].T, ".", label="true", markersize=4)
        place.plot(*prediction[:60].T, ".", label="predicted", markersize=4)
        place.set(title=name, xlabel="x [km]", xlim=(-8, 8), ylim=(0, 10.5))
    axes[2].set(ylabel="y [km]")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return Picture(
        "positions",
        "An image and a radar signal of one target, and positions by networks that are given both "
        "or one of the two; grey lines join what belongs together.",
        figure,
    )


def houses_shown(count: int = 5) -> list[tuple[np.ndarray, float]]:
    """The first rows of `houses`."""
    x, price = houses()
    return list(zip(x[:count], price[:count, 0], strict=True))


def clicks_shown(count: int = 5) -> list[tuple[int, str, str, int, float]]:
    """The first rows of `advertisements`, in years and pages."""
    (ids, features), clicks, probability = advertisements(20_000)
    age, pages = (features * [15, 6] + [44, 10]).T
    return [
        (int(ids[i]), f"{age[i]:.0f}", f"{pages[i]:.1f}", int(clicks[i, 0]), float(probability[i]))
        for i in range(count)
    ]


def run() -> Result:
    """All applications on small data."""
    probabilities, labels = wine()
    pairs, pair_labels = wine(2, WINE_INPUTS)
    lines, (prediction, progression) = house_price(), diabetes()
    learned, true, clicks = click()
    located = locate()
    unsure = np.argsort(pairs.max(1))[:4]
    return Result(
        "Five uses of small networks. Softmax gives probabilities of wines; a line learns what a "
        "house is worth, and a part of how diabetes goes on; a table of vectors for advertisements "
        "lets a network learn the probability of a click, which here is known; and a network "
        "with two inputs finds positions that neither of them shows alone.",
        [
            draw_wine(probabilities, labels),
            draw_regression(lines["descent"], prediction, progression),
            draw_click(learned, true, clicks),
            draw_positions(located),
        ],
        [
            Table(
                "Wine: two growers by four inputs (alcohol, colour, flavanoids, proline), the "
                "least certain test wines",
                ("probabilities of the growers", "sum", "true grower"),
                [(pairs[i], float(pairs[i].sum()), int(pair_labels[i]) + 1) for i in unsure],
            ),
            Table(
                "Wine: accuracy on the test wines",
                ("classes", "inputs", "accuracy"),
                [
                    (k, n, f"{100 * np.mean(p.argmax(1) == t):.1f} %")
                    for k, n, p, t in (
                        (2, len(WINE_INPUTS), pairs, pair_labels),
                        (3, 13, probabilities, labels),
                    )
                ],
            ),
            Table(
                "House prices: the first of 400 rows, made by a rule with noise",
                ("size [ft²]", "rooms", "price [thousand $]"),
                [(f"{size:.0f}", int(rooms), f"{t:.1f}") for (size, rooms), t in houses_shown()],
            ),
            Table(
                "House price: constant and slopes, thousand $",
                ("method", "constant", "per ft²", "per room", "2104 ft², 3 rooms"),
                [(name, *(f"{v:.4g}" for v in row)) for name, row in lines.items()],
            ),
            Table(
                "Diabetes", ("quantity", "value"), [("R²", determination(prediction, progression))]
            ),
            Table(
                "Clicks: the first of 20,000 rows, made by a rule and chance",
                ("advertisement", "age", "pages seen", "click", "its true probability"),
                clicks_shown(),
            ),
            Table(
                "Clicks on held-out examples",
                ("quantity", "value"),
                [
                    ("cross-entropy of the learned probabilities", cross_entropy(learned, clicks)),
                    ("cross-entropy of the true probabilities", cross_entropy(true, clicks)),
                    ("mean |learned − true|", float(np.mean(np.abs(learned - true)))),
                ],
            ),
            Table(
                "Positions from two inputs",
                ("sensors", "median error [km]"),
                list(distances(located).items()),
            ),
            Table(
                "Sequences: commands of their own, which take minutes and draw their alignment",
                ("from", "to", "by", "command"),
                SEQUENCES,
            ),
        ],
    )


if __name__ == "__main__":
    alone("applications")
