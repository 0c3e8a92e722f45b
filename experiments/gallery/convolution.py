"""Convolution and pooling, cell by cell.

A kernel W [kh, kw, channels] slides over x; with stride s its output at (i, j) is

    y[i, j] = Σ_a Σ_b Σ_c x[s i + a, s j + b, c] W[a, b, c] + bias,

x being padded by zeros first. Size n, padding p and kernel k give ⌊(n + 2p − k) / s⌋ + 1 outputs:
5, 1, 3 and stride 2 give 3. A 1×1 kernel leaves only y[i, j] = Σ_c x[i, j, c] W[c] + bias, a dense
layer at every pixel. Pooling takes the maximum or the mean of each window, channel by channel, so
the channels are kept. The same sums over one axis serve sequences, over three video and voxels.

Of the 5 × 5 × 3 example the source notes give the first kernel's first channel, the patch under it
and the sums; the other cells are chosen here so that these sums come out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.patches import Rectangle

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"y_{ij} = \sum_a \sum_b \sum_c x_{s i + a,\, s j + b,\, c}\; W_{abc} + \text{bias}",
    r"\text{outputs} = \left\lfloor \frac{n + 2 p - k}{s} \right\rfloor + 1",
)

CHANNELS = (
    [[0, 1, 2, 0, 1], [2, 0, 1, 1, 0], [0, 2, 2, 0, 1], [1, 0, 0, 2, 0], [2, 1, 0, 1, 2]],
    [[1, 0, 2, 1, 0], [0, 2, 1, 0, 2], [1, 1, 0, 2, 0], [0, 2, 0, 1, 1], [1, 0, 2, 0, 0]],
    [[1, 2, 0, 0, 1], [0, 1, 1, 2, 0], [2, 0, 0, 1, 2], [0, 1, 2, 0, 1], [1, 0, 1, 2, 0]],
)
KERNELS = (
    (
        [[1, 1, -1], [0, -1, 0], [1, -1, -1]],
        [[0, 1, 0], [1, 0, -1], [-1, 1, 0]],
        [[1, 0, 0], [0, 1, -1], [0, 1, 2]],
    ),
    (
        [[0, -1, 1], [1, 0, 1], [-1, 0, 0]],
        [[1, 0, -1], [0, 1, 0], [1, 0, 0]],
        [[-1, 1, 0], [0, 0, 1], [1, -1, 0]],
    ),
)
BIASES = (1.0, 0.0)
POOLED = np.array([[1, 3, 2, 0], [5, 4, 1, 1], [0, 2, 6, 8], [2, 0, 7, 3]], np.float32)
SHAPES = {
    "1-D, a sequence": (nn.conv(8, (5,)), (1, 100, 4)),
    "2-D, an image": (nn.conv(8, (3, 3)), (1, 32, 32, 3)),
    "2-D, 1 × 1": (nn.conv(8, (1, 1)), (1, 32, 32, 3)),
    "3-D, a video": (nn.conv(8, (3, 3, 3), strides=(1, 2, 2)), (1, 16, 32, 32, 3)),
    "maximum pooling": (nn.max_pool(2), (1, 224, 224, 64)),
    "average pooling": (nn.avg_pool(2), (1, 224, 224, 64)),
}


def worked_example() -> dict[str, np.ndarray]:
    """The padded input, the first patch by channel, its products and sums, and the whole output."""
    x = np.moveaxis(np.array(CHANNELS, np.float32), 0, -1)
    weight = np.transpose(np.array(KERNELS, np.float32), (2, 3, 1, 0))
    layer = nn.conv(2, (3, 3), strides=2, padding=1)
    params = {"weight": jnp.asarray(weight), "bias": jnp.asarray(BIASES)}
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    products = padded[:3, :3] * weight[..., 0]
    return {
        "padded": padded,
        "weight": weight,
        "patch": padded[:3, :3],
        "products": products,
        "sums": products.sum((0, 1)),
        "output": np.asarray(layer.predict(params, (), jnp.asarray(x)[None]))[0],
    }


def pixelwise_difference() -> float:
    """The largest difference between a 1×1 convolution and a dense layer at every pixel."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    layer, dense = nn.conv(4, (1, 1)), nn.dense(4)
    params, _ = dense.init(jax.random.key(1), x)
    as_kernel = params | {"weight": params["weight"][None, None]}
    return float(jnp.max(jnp.abs(layer.predict(as_kernel, (), x) - dense.predict(params, (), x))))


def shapes() -> list[tuple[str, Any, Any, Any]]:
    """(layer, shape of x, shape of the weight, shape of y) for the layers of `SHAPES`."""

    def apply(layer: nn.Layer, x: jax.ShapeDtypeStruct):
        params, state = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
        y = jax.eval_shape(layer.predict, params, state, x)
        return str(params["weight"].shape) if params else "none", str(y.shape)

    return [
        (name, str(shape), *apply(layer, jax.ShapeDtypeStruct(shape, jnp.float32)))
        for name, (layer, shape) in SHAPES.items()
    ]


def pooled() -> dict[str, np.ndarray]:
    """Maximum and average pooling of a 4 × 4 example, windows of 2 × 2."""
    x = jnp.asarray(POOLED)[None, :, :, None]
    layers = {"maximum": nn.max_pool(2), "average": nn.avg_pool(2)}
    return {
        name: np.asarray(layer.predict((), (), x))[0, :, :, 0] for name, layer in layers.items()
    }


def cells(
    axes: Any,
    values: np.ndarray,
    title: str,
    span: int,
    marked: tuple[int, int] = (0, 0),
    stride: tuple[int, int] = (0, 0),
) -> None:
    """A grid of numbers in axes ``span`` cells high; the first ``marked`` cells are shaded, and
    framed where the next window to the right and the one below it lie."""
    rows, columns = values.shape
    for row in range(rows):
        for column in range(columns):
            inside = row < marked[0] and column < marked[1]
            colour = style.ORANGE if inside else "white"
            axes.add_patch(
                Rectangle(
                    (column, row), 1, 1, facecolor=colour, edgecolor=style.GREY, linewidth=0.6
                )
            )
            text = style.minus(f"{values[row, column] + 0:g}")  # + 0 makes −0 a 0
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8)
    for (down, right), line in zip(((0, stride[1]), (stride[0], 0)), ("-", "--"), strict=True):
        if down or right:
            frame = {"fill": False, "edgecolor": style.BLUE, "linestyle": line, "linewidth": 1.6}
            axes.add_patch(Rectangle((right, down), marked[1], marked[0], **frame))
    axes.text(columns / 2, -0.3, title, ha="center", va="bottom")
    middle, half = rows / 2 - 0.4, span / 2 + 0.6
    axes.set(xlim=(-0.1, columns + 0.1), ylim=(middle + half, middle - half), aspect="equal")
    axes.axis("off")


def draw_example(example: dict[str, np.ndarray]) -> Picture:
    """One row for each channel: padded input, kernel, products; on the right the output."""
    figure, grid = style.figure(3, 4, height=2.2, width_ratios=(7, 4.5, 4.5, 4.5))
    for channel, (x_axes, kernel_axes, product_axes, _) in enumerate(grid):
        title = f"x, channel {channel + 1}"
        cells(x_axes, example["padded"][..., channel], title, 7, (3, 3), (2, 2))
        title = f"first kernel, channel {channel + 1}"
        cells(kernel_axes, example["weight"][..., channel, 0], title, 7)
        total = style.minus(f"{example['sums'][channel]:g}")
        cells(product_axes, example["products"][..., channel], f"products, sum {total}", 7)
    cells(grid[0, 3], example["output"][..., 0], "y, first kernel", 7, (1, 1))
    cells(grid[1, 3], example["output"][..., 1], "y, second kernel", 7)
    grid[2, 3].axis("off")
    return Picture(
        "example",
        "The 5 × 5 × 3 example with its padding, the first patch shaded: its products with the "
        "first kernel's three channels, their sums, and the output after the biases 1 and 0. Blue "
        "frames are the next window to the right (solid) and the one below (dashed): the stride is "
        "2.",
        figure,
    )


def draw_pooling(results: dict[str, np.ndarray]) -> Picture:
    """The 4 × 4 example and what both poolings make of it."""
    figure, (left, *others) = style.figure(columns=3, height=2.2, width_ratios=(4, 4, 4))
    cells(left, POOLED, "x", 4, (2, 2), (2, 2))
    for axes, (name, values) in zip(others, results.items(), strict=True):
        cells(axes, values, f"{name} of 2 × 2", 4, (1, 1))
    return Picture(
        "pooling",
        "Maximum and average pooling; the first window is shaded, the next two framed.",
        figure,
    )


def run() -> Result:
    """The worked example, 1×1 convolution, convolutions in one to three dimensions, pooling."""
    example, difference = worked_example(), pixelwise_difference()
    sums = style.minus(", ".join(f"{value:g}" for value in example["sums"]))
    first = float(example["output"][0, 0, 0])
    return Result(
        "A convolution multiplies a patch by a kernel cell by cell and adds everything up, a bias "
        "at the end; then the window moves on by the stride. Pooling keeps the channels and takes "
        "the maximum or the mean of each window.",
        [draw_example(example), draw_pooling(pooled())],
        [
            Table(
                "The first output of the example",
                ("quantity", "value"),
                [
                    ("sums by channel", sums),
                    ("sum", float(example["sums"].sum())),
                    ("with bias 1", first),
                ],
            ),
            Table(
                "The second kernel, bias 0",
                ("channel 1", "channel 2", "channel 3"),
                [tuple(np.array(channel) for channel in KERNELS[1])],
            ),
            Table(
                "1 × 1 convolution against a dense layer at every pixel",
                ("quantity", "value"),
                [("largest difference", f"{difference:.1e}")],
            ),
            Table("Shapes", ("layer", "x", "weight", "y"), shapes()),
        ],
    )


if __name__ == "__main__":
    alone("convolution")
