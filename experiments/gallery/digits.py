"""Digits: multilayer perceptrons on images, what they learn, and overfitting with its remedies.

With L hidden layers  h₀ = x,  hₗ = max(0, hₗ₋₁ Wₗ + bₗ),  z = h_L W + b,  p = softmax(z),  the loss
of an image with label t is −log p_t, whose gradient is p − onehot(t) by z and passes down by

    δₗ₋₁ = (δₗ Wₗᵀ) ⊙ 1[hₗ₋₁ > 0],   ∂loss/∂Wₗ = hₗ₋₁ᵀ δₗ   (summed over the batch).

The test images take no part in training. With few training images the network fits what is peculiar
to them: the training loss falls on while that of other images rises. Three remedies:

    weight decay    W ← W − η λ W beside each step: a hidden unit must earn its weights
    dropout         h ← h m / (1 − r) with m = 1 with probability 1 − r, else 0: no unit may rely
                    on the presence of one other
    early stopping  keep the parameters of the epoch with the lowest loss on validation images,
                    which are neither training nor test images
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import figures, style
from jaxnn.data import Dataset, Splits, load
from jaxnn.training import create_state, make_epoch, make_optimizer, make_step

FORMULAS = (
    r"h_l = \max(0, h_{l - 1} W_l + b_l), \quad p = \mathrm{softmax}(h_L W + b)",
    r"\frac{\partial L}{\partial z} = p - \mathrm{onehot}(t), \quad \delta_{l - 1} = "
    r"(\delta_l\, W_l^\top) \odot [h_{l - 1} > 0]",
)

DEPTHS = {"one hidden layer": (64,), "three hidden layers": (64, 64, 64)}
FEW, VALIDATION = 300, 2_000
"""How many training and at most how many validation images show overfitting."""
REMEDIES = {
    "no remedy": {},
    "weight decay": {"weight_decay": 10.0},
    "dropout": {"dropout_rate": 0.7},
}


class Setting(NamedTuple):
    """How one data set is used."""

    title: str
    side: int
    """Pixels in the side of an image."""
    validation_fraction: float
    examples: int
    """How many training images are used at most, so that a training takes seconds."""
    epochs: int


SETTINGS = {
    "digits": Setting("digits", 8, 0.2, 1_100, 40),
    "fashion_mnist": Setting("Fashion-MNIST", 28, 1 / 12, 10_000, 12),
}


PALE = 0.05
"""Weights begin with a deviation of 0.01: one of a unit that has learned is larger than this."""


class Training(NamedTuple):
    """A training, epoch by epoch, all measured without dropout."""

    training_loss: np.ndarray
    held_out_loss: np.ndarray
    held_out_accuracy: np.ndarray
    params: Any
    """After the last epoch."""
    best_params: Any
    """After the epoch with the lowest held-out loss."""
    network: nn.Layer
    state: Any


def perceptron(hidden: Sequence[int], dropout_rate: float = 0.0) -> nn.Layer:
    """A ReLU network with these hidden layers for ten classes, with dropout after each if any."""
    layers = []
    for index, units in enumerate(hidden):
        # The first layer starts small, so that a picture of it shows what was learned.
        weight_init = "normal(0.01)" if index == 0 else "he"
        layers += [nn.dense(units, weight_init=weight_init), nn.relu()]
        layers += [nn.dropout(dropout_rate)] if dropout_rate else []
    return nn.serial(*layers, nn.dense(10))


def fit(
    training: Dataset,
    held_out: Dataset,
    hidden: Sequence[int],
    *,
    epochs: int,
    batch_size: int,
    weight_decay: float = 0.0,
    dropout_rate: float = 0.0,
) -> Training:
    """Train with AdamW, measuring both sets after every epoch, all in one compiled program."""
    network, loss = perceptron(hidden, dropout_rate), nn.softmax_cross_entropy()
    optimizer = make_optimizer("adamw", 1e-3, weight_decay=weight_decay)
    step = make_step(nn.backprop(network, loss), optimizer)
    run_epoch = make_epoch(step, batch_size, donate=False)

    @jax.jit
    def run(start, training, held_out):
        def measure(params, x, target):
            logits = network.predict(params, start.state, x)
            right = jnp.argmax(logits, -1) == target
            return jnp.mean(loss.value(logits, target)), jnp.mean(right)

        def body(carry, _):
            train_state, best_loss, best_params = carry
            train_state, _ = run_epoch(train_state, *training)
            params = train_state.params
            training_loss, _ = measure(params, *training)
            held_out_loss, accuracy = measure(params, *held_out)
            best_loss, best_params = jax.tree.map(
                partial(jnp.where, held_out_loss < best_loss),
                (held_out_loss, params),
                (best_loss, best_params),
            )
            carry = train_state, best_loss, best_params
            return carry, (training_loss, held_out_loss, accuracy)

        carry = start, jnp.float32(jnp.inf), start.params
        return jax.lax.scan(body, carry, length=epochs)

    start = create_state(network, optimizer, jax.random.key(0), training.x[:1])
    sets = ((jnp.asarray(s.x), jnp.asarray(s.target)) for s in (training, held_out))
    (end, _, best_params), curves = run(start, *sets)
    training_loss, held_out_loss, accuracy = map(np.asarray, curves)
    return Training(
        training_loss, held_out_loss, accuracy, end.params, best_params, network, end.state
    )


def decide(training: Training, params: Any, x: np.ndarray) -> np.ndarray:
    """The classes that the trained network gives to images."""
    logits = training.network.predict(params, training.state, jnp.asarray(x))
    return np.asarray(jnp.argmax(logits, -1))


def first(data: Dataset, count: int) -> Dataset:
    """The first ``count`` examples."""
    return data._replace(x=data.x[:count], target=data.target[:count])


def learn(name: str, splits: Splits) -> dict[str, Training]:
    """Each depth trained on the training images, measured on the test images."""
    setting = SETTINGS[name]
    training = first(splits.train, setting.examples)
    return {
        depth: fit(training, splits.test, hidden, epochs=setting.epochs, batch_size=100)
        for depth, hidden in DEPTHS.items()
    }


def overfit(splits: Splits, epochs: int = 100) -> dict[str, Training]:
    """Each remedy on few training images, measured on the validation images.

    Early stopping takes no training of its own: it is the best epoch of the one without remedy.
    """
    few, validation = first(splits.train, FEW), first(splits.validation, VALIDATION)
    return {
        remedy: fit(few, validation, (128,), epochs=epochs, batch_size=50, **options)
        for remedy, options in REMEDIES.items()
    }


def kept(results: dict[str, Training], splits: Splits) -> list[tuple[str, int, float, float]]:
    """(remedy, epoch kept, its validation loss, its accuracy on the test images) for each."""
    test = splits.test

    def row(remedy, training, epoch, params):
        right = decide(training, params, test.x) == test.target
        return remedy, epoch + 1, float(training.held_out_loss[epoch]), float(np.mean(right))

    rows = [
        row(remedy, training, len(training.held_out_loss) - 1, training.params)
        for remedy, training in results.items()
    ]
    plain = results["no remedy"]
    best = int(np.argmin(plain.held_out_loss))
    return [*rows, row("early stopping", plain, best, plain.best_params)]


def draw_learning(trainings: dict[str, dict[str, Training]]) -> Picture:
    """Losses and test accuracy of every depth, a row for each data set."""
    figure, grid = style.figure(len(trainings), 2, squeeze=False)
    for (left, right), (name, depths) in zip(grid, trainings.items(), strict=True):
        for (depth, training), colour in zip(depths.items(), style.COLOURS, strict=False):
            epochs = 1 + np.arange(len(training.training_loss))
            left.plot(epochs, training.training_loss, "--", color=colour)
            left.plot(epochs, training.held_out_loss, color=colour, label=depth)
            right.plot(epochs, 100 * training.held_out_accuracy, color=colour, label=depth)
        title = SETTINGS[name].title
        left.set(title=f"{title}: training (dashed) and test images", ylim=(0, 1.2))
        left.set(ylabel="cross-entropy [nats]")
        right.set(title=f"{title}: test images", ylabel="accuracy [%]")
        for axes in (left, right):
            axes.set(xlabel="epoch")
            axes.legend()
    return Picture("learning", "Learning curves of perceptrons of two depths.", figure)


def draw_overfitting(name: str, results: dict[str, Training]) -> Picture:
    """Training and validation loss under each remedy, and the epoch that early stopping keeps."""
    title = SETTINGS[name].title
    figure, (left, right) = style.figure(columns=2, height=3.2)
    for remedy, training in results.items():
        epochs = 1 + np.arange(len(training.training_loss))
        left.semilogy(epochs, training.training_loss, label=remedy)
        right.plot(epochs, training.held_out_loss, label=remedy)
    losses = results["no remedy"].held_out_loss
    epoch = np.argmin(losses)
    right.plot(epoch + 1, losses[epoch], "o", color=style.BLACK, label="early stopping", zorder=3)
    left.set(title=f"{FEW} training images of {title}", ylabel="cross-entropy [nats]")
    right.set(title="validation images", ylabel="cross-entropy [nats]", ylim=(0, 1.5))
    for axes in (left, right):
        axes.set(xlabel="epoch")
        axes.legend()
    return Picture(
        "overfitting",
        f"Overfitting on {FEW} images of {title}: the loss on those images, and on others; the "
        "point marks the epoch that early stopping keeps.",
        figure,
    )


def draw_units(name: str, training: Training) -> Picture:
    """The weights into the first hidden units, as images."""
    title, side = SETTINGS[name][:2]
    weight = np.asarray(training.params[0]["weight"])
    figure = figures.kernels(weight.reshape(side, side, 1, -1), most=32)
    figure.suptitle(f"{title}: the weights into hidden units")
    pale = int(np.sum(np.abs(weight[:, :32]).max(0) < PALE))
    return Picture(
        f"units-{name}",
        f"The weights into 32 of the 64 hidden units trained on {title}. A unit answers to images "
        "with large values (ink, cloth) where its weights are positive (purple) and small ones "
        f"where they are negative (orange). {pale} tiles are pale: a ReLU that is off for every "
        "image has no gradient, and its weights stay as small as they began.",
        figure,
    )


def draw_mistakes(name: str, splits: Splits, training: Training) -> Picture:
    """Test images that were taken for another class."""
    test, (title, side, *_) = splits.test, SETTINGS[name]
    images = splits.standardization.invert(test.x).reshape(-1, side, side, 1)
    decided = decide(training, training.params, test.x)
    figure = figures.mistakes(images, test.target, decided, test.class_names, title, most=16)
    return Picture(f"mistakes-{name}", f"Test images of {title} that were mistaken.", figure)


def available() -> tuple[dict[str, Splits], list[str]]:
    """The data sets that are here, and why the others are not."""
    splits, left_out = {}, []
    for name, setting in SETTINGS.items():
        try:
            splits[name] = load(
                name, standardize="all", validation_fraction=setting.validation_fraction
            )
        except FileNotFoundError as error:
            left_out.append(f"{setting.title}: {error}")
    return splits, left_out


def run() -> Result:
    """Learning curves, hidden units, mistakes, and overfitting on the harder data set."""
    splits, left_out = available()
    trainings = {name: learn(name, parts) for name, parts in splits.items()}
    hardest = list(splits)[-1]
    results = overfit(splits[hardest])
    pictures = [draw_learning(trainings), draw_overfitting(hardest, results)]
    for name, depths in trainings.items():
        shallow = depths["one hidden layer"]
        pictures += [draw_units(name, shallow), draw_mistakes(name, splits[name], shallow)]
    return Result(
        "Multilayer perceptrons learn to read digits and to tell pieces of clothing apart; the "
        "weights into a hidden unit show which strokes it looks for. Trained on a few hundred "
        "images only, a network soon fits them without a mistake while its loss on other images "
        "rises: it is wrong about as often as before, but more and more certain of it. Weight "
        "decay and early stopping hold that rise back, dropout delays it.",
        pictures,
        [
            Table(
                "After training",
                ("data", "network", "training loss", "test loss", "test accuracy"),
                [
                    (
                        *(SETTINGS[name].title, depth),
                        *(f"{v[-1]:.3f}" for v in (t.training_loss, t.held_out_loss)),
                        f"{100 * t.held_out_accuracy[-1]:.1f} %",
                    )
                    for name, depths in trainings.items()
                    for depth, t in depths.items()
                ],
            ),
            Table(
                f"Remedies against overfitting on {FEW} images of {SETTINGS[hardest].title}",
                ("remedy", "epoch kept", "validation loss", "test accuracy"),
                [
                    (remedy, epoch, f"{loss:.3f}", f"{100 * accuracy:.1f} %")
                    for remedy, epoch, loss, accuracy in kept(results, splits[hardest])
                ],
            ),
        ],
        left_out,
    )


if __name__ == "__main__":
    alone("digits")
