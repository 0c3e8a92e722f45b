"""Edges, parts, wholes: what successive layers of a convolutional network respond to.

An output of a convolution sees a patch of the image, its field. Each 3 × 3 layer sees what lies
around the units of the layer before it, so that its field is 2 pixels wider: 3, 5 and 7 of the 8
pixels of a digit.

The image that a unit likes best is not asked for: among all patches of the training images those
are taken that excite a channel most, and their mean is shown.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.applications import trainer
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style
from jaxnn.data import load

FORMULAS = (r"\text{field}_1 = k, \quad \text{field}_{l + 1} = \text{field}_l + (k - 1)",)

CHANNELS, KERNEL, LAYERS, STRONGEST = 8, 3, 3, 30
PARTS = ("edges", "parts", "nearly wholes")


def network() -> nn.Layer:
    """Three convolutions without padding, and a dense layer on what is left of the image."""
    convolutions = [
        part
        for _ in range(LAYERS)
        for part in (nn.conv(CHANNELS, KERNEL, padding="VALID"), nn.relu())
    ]
    return nn.serial(*convolutions, nn.flatten(), nn.dense(10))


def fields() -> list[int]:
    """How many pixels wide the field of each layer is."""
    return [1 + layer * (KERNEL - 1) for layer in range(1, LAYERS + 1)]


def outputs(whole: nn.Layer, params: tuple, state: tuple, x: jax.Array) -> list[np.ndarray]:
    """What each convolution's ReLU returns, [images, height, width, channels]."""
    found = []
    for layer, of, beside in zip(whole.parts[: 2 * LAYERS], params, state, strict=False):
        x = layer.predict(of, beside, x)
        found.append(np.asarray(x))
    return found[1::2]


def strongest(images: np.ndarray, responses: np.ndarray, field: int) -> np.ndarray:
    """[channels, field, field], the mean of the patches that excite each channel most.

    No image gives two of them: of each counts the place where the channel is strongest.

    Args:
        images: [images, height, width, 1].
        responses: Of a layer, [images, places down, places across, channels].
        field: How many pixels wide what such a place sees is.
    """
    across = responses.shape[2]
    flat = responses.reshape(len(images), -1, responses.shape[-1])
    best, places = flat.max(1), flat.argmax(1)
    found = []
    for channel in range(flat.shape[-1]):
        chosen = np.argsort(-best[:, channel], kind="stable")[:STRONGEST]
        rows, columns = np.divmod(places[chosen, channel], across)
        patches = [
            images[image, row : row + field, column : column + field, 0]
            for image, row, column in zip(chosen, rows, columns, strict=True)
        ]
        found.append(np.mean(patches, 0))
    return np.stack(found)


def draw(means: list[np.ndarray]) -> Picture:
    """A row for each layer, a tile for each channel."""
    figure, grid = style.figure(LAYERS, CHANNELS, height=1.15)
    lowest, highest = min(m.min() for m in means), max(m.max() for m in means)
    for number, (row, tiles, part) in enumerate(zip(grid, means, PARTS, strict=True), 1):
        for channel, (axes, tile) in enumerate(zip(row, tiles, strict=True), 1):
            shown = axes.imshow(tile, cmap="gray_r", vmin=lowest, vmax=highest)
            axes.set_xticks([])
            axes.set_yticks([])
            if number == 1:
                axes.set_title(f"channel {channel}", fontsize=8)
        size = len(tiles[0])
        row[0].set_ylabel(f"layer {number}\n{size} × {size}:\n{part}", fontsize=8)
    figure.colorbar(shown, ax=grid, label="ink", shrink=0.7)
    return Picture(
        "layers",
        f"The mean of the {STRONGEST} patches of digits that excite each channel of three "
        "convolutions most, dark is ink: strokes and edges of 3 × 3 pixels, bends and crossings of "
        "5 × 5, and of 7 × 7 most of a digit.",
        figure,
    )


def run() -> Result:
    """Train on the digits, look for the strongest patches of every channel."""
    splits = load("digits", standardize="all", flatten=False)
    images, labels = splits.train.x, splits.train.target
    whole = network()
    train = trainer(whole, nn.softmax_cross_entropy(), images, epochs=15, batch_size=64)
    params, state = train(images, labels)
    logits = whole.predict(params, state, jnp.asarray(splits.test.x))
    accuracy = float(np.mean(np.asarray(logits).argmax(1) == splits.test.target))
    responses = outputs(whole, params, state, jnp.asarray(images))
    means = [strongest(images, r, f) for r, f in zip(responses, fields(), strict=True)]
    rows = [
        (number, f"{field} × {field}", f"{100 * (of == 0).mean():.0f} %")
        for number, (field, of) in enumerate(zip(fields(), responses, strict=True), 1)
    ]
    return Result(
        "The notes say that first layers find edges, later ones parts, and the last the whole. "
        f"A network of three convolutions that reads {100 * accuracy:.1f} % of the test digits "
        "shows what it is meant by: nothing told it to look for strokes, and each layer can only "
        "put together what the one before it found.",
        [draw(means)],
        [Table("Layers", ("layer", "field", "of its outputs are 0"), rows)],
    )


if __name__ == "__main__":
    alone("features")
