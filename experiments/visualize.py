"""Pictures of a trained convolutional network: kernels, feature maps, and what a unit looks at.

    python -m experiments.visualize runs/fashion_cnn --output pictures

The saliency of an output unit is its gradient by the input, ∂y_k/∂x: the dx at the end of the
backward pass, started from dy = the k-th unit vector (Simonyan et al., 2014).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.support import figures, style
from experiments.support.command_line import parse_options, run_script, take_folder
from experiments.support.held_out import as_images
from experiments.support.runs import open_run, restore
from experiments.support.watching import Watched, unrolled, watched
from jaxnn import Layer, identity, in_inference_mode, label, plain
from jaxnn.core.validation import require_positive_integer


@dataclass(frozen=True)
class Options:
    """Draw the first kernels, feature maps and saliency of a trained convolutional network."""

    output: Path
    """The folder for the pictures."""
    examples: int = 6
    """How many test images the saliency is drawn for."""
    overwrite: bool = False
    """Whether pictures that exist are replaced."""


def main(arguments: list[str]) -> None:
    """Draw and save."""
    folder, arguments = take_folder(arguments, "visualize")
    options = parse_options(Options, "visualize RUN", arguments)
    require_positive_integer("visualize", "examples", options.examples)
    config, splits, _, train_state = restore(open_run(folder))
    x = splits.test.x[: options.examples]
    images = as_images(splits.preparation, x)
    if images is None:
        raise ValueError(f"visualize: expected a network on images, {folder} is on {config.data}")
    params, state = train_state.params, train_state.state

    pictures = {}
    kernels = first_kernels(params)
    if kernels is not None:
        pictures["kernels.png"] = figures.kernels(kernels)
        maps = feature_maps(config.layers, params, state, x[:1])
        pictures["feature_maps.png"] = figures.feature_maps(images[0], maps)
    dx, units = saliency(config.layers, params, state, jnp.asarray(x))
    classes = splits.test.class_names
    names = [classes[unit] if classes else f"output {unit}" for unit in units]
    slopes = np.asarray(dx).reshape(images.shape)
    pictures["saliency.png"] = figures.saliency(images, slopes, names)
    for name, figure in pictures.items():
        print(style.save(figure, options.output / name, overwrite=options.overwrite))


def saliency(network: Layer, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    """(∂y_k/∂x for each example, k), where k is the unit with the largest output."""
    quiet = plain(in_inference_mode(network))

    @jax.jit
    def slopes(params: Any, state: Any, x: jax.Array):
        y, _, residuals = quiet.forward(params, state, x, None)
        units = jnp.argmax(y, -1)
        dy = jax.nn.one_hot(units, y.shape[-1], dtype=y.dtype)
        return quiet.backward(params, residuals, dy)[0], units

    dx, units = slopes(params, state, x)
    return dx, np.asarray(units)


def first_kernels(params: Any) -> np.ndarray | None:
    """The weight of the first layer with two spatial dimensions, [height, width, in, out]."""
    weights = (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4)
    return next(map(np.asarray, weights), None)


def feature_maps(network: Layer, params: Any, state: Any, x: np.ndarray) -> list[tuple]:
    """(layer, output [height, width, channels]) of every layer that returns images, for one x."""
    places = []

    @jax.jit
    def images_of(params: Any, state: Any, x: jax.Array) -> list[jax.Array]:
        images = []

        def watch(path: str, layer: Layer) -> Layer:
            def tell(what: str, y: Any) -> None:
                if getattr(y, "ndim", 0) == 4:
                    places.append(label(path, layer))
                    images.append(y[0].astype(np.float32))

            does_nothing = isinstance(layer.at_rest(), identity)
            return layer if does_nothing else Watched(layer, tell)

        watched(unrolled(network), watch).predict(params, state, x)
        return images

    images = images_of(params, state, jnp.asarray(x))
    return [*zip(places, map(np.asarray, images), strict=True)]


if __name__ == "__main__":
    run_script(main)
