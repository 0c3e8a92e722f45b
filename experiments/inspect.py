"""One page of figures about a backward pass: what flows through a network, and what it learns from.

python -m experiments.inspect digits_mlp --output pictures      # trains it, and looks on
python -m experiments.inspect runs/digits_mlp --output pictures # before its training, and after

All is computed from the captures of a few backward passes on the first training examples, in
inference mode, where every example has a gradient of its own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.support import style
from experiments.support.command_line import parse_options, run_script
from experiments.support.config import Config, find_config, load_config, require_compatible
from experiments.support.held_out import as_images
from experiments.support.inspection import Page, draw
from experiments.support.modes import gradient_options
from experiments.support.runs import initial_state, open_run, restore
from experiments.support.watching import Watched, is_activation, is_one, watched
from jaxnn import Layer, Loss, backward_pass, contract, identity, in_inference_mode, label, walk
from jaxnn.core.networks import below
from jaxnn.core.validation import batch_size, require_positive_integer
from jaxnn.data import Splits
from jaxnn.data.dataset import rows_of
from jaxnn.rewrites.precision import ScaledState
from jaxnn.statistics import (
    ggn_vector_product,
    hessian_vector_product,
    per_example_squared_norms,
    scaled,
    spectral_density,
)
from jaxnn.training import TrainState, train

FLAT = 0.05
"""A slope below this share of the largest one lets next to nothing through."""


@dataclass(frozen=True)
class Options:
    """Draw what flows through a network, its gradients over training, and its curvature."""

    output: Path
    """The folder for the page."""
    examples: int = 512
    """How many training examples are looked at."""
    lanczos: int = 40
    """Steps of the Lanczos iteration that finds the spectrum."""
    epochs: int | None = None
    """Train a configuration for so many epochs, in place of its own number."""
    overwrite: bool = False
    """Whether a page that exists is replaced."""


class Flow(NamedTuple):
    """What one pass forward and back shows, by layer."""

    activations: dict[str, np.ndarray]
    deltas: dict[str, np.ndarray]
    """The gradient of each example's own loss by what the layer returns."""
    dead: dict[str, float]
    """Of activations: the share of units whose slope is 0 for every example and position."""
    saturated: dict[str, float]
    """Of activations: the share of all slopes that are below `FLAT` of the largest."""


def main(arguments: list[str]) -> None:
    """Look, and draw."""
    if not arguments or arguments[0].startswith("-"):
        options = parse_options(Options, "inspect CONFIG_OR_RUN", arguments)
        raise ValueError("inspect: expected the name of a configuration or a run folder")
    named, *arguments = arguments
    options = parse_options(Options, "inspect CONFIG_OR_RUN", arguments)
    require_positive_integer("inspect", "examples", options.examples)
    require_positive_integer("inspect", "lanczos", options.lanczos)
    if (Path(named) / "config.toml").is_file():
        config, splits, epoch, train_state = restore(open_run(Path(named)))
        name = Path(named).name
        states = [(0, initial_state(config, splits)), (epoch, train_state)]
    else:
        config, name = load_config(named), find_config(named).stem
        splits = config.load()
        config = config.resolved(splits)
        require_compatible(config, splits)
        states = _train(config, splits, options.epochs)
    page = look(config, splits, states, options.examples, options.lanczos)
    picture = options.output / f"inspect_{name}.png"
    print(style.save(draw(name, page), picture, overwrite=options.overwrite))


def look(
    config: Config,
    splits: Splits,
    states: list[tuple[int, TrainState]],
    examples: int,
    lanczos: int,
) -> Page:
    """All numbers of the page. ``states`` are pairs (epochs seen, train state) in their order."""
    network, loss = in_inference_mode(config.layers), config.loss_function
    x = jax.tree.map(jnp.asarray, rows_of(splits.train.x, slice(examples)))
    target = jnp.asarray(config.task(splits).prepare(splits.train.target[:examples]))
    batch = (x, target)

    measure = jax.jit(_gradients_by_layer(network, loss))
    places = [label(path, layer) for path, layer in walk(network)]
    over_training = []
    for epoch, s in states:
        found = jax.tree.map(float, measure(s.params, s.state, *batch))
        over_training.append((epoch, _in_order(places, found)))
    params, state = states[-1][1].params, states[-1][1].state
    flow = flow_through(network, loss, params, state, x, target)
    result = jax.jit(backward_pass(network, loss))(params, state, x, target)
    norms = np.sqrt(np.asarray(jax.jit(per_example_squared_norms.of)(result.captures)))
    names = splits.train.class_names
    labels = splits.train.target[:examples]
    captions = [
        f"{names[int(v)] if names else f'{float(np.ravel(v)[0]):.3g}'}\nloss {float(own):z.2g}"
        for v, own in zip(labels, result.values, strict=True)
    ]

    def along(product: Callable) -> Callable:
        return lambda vector: product(vector, params, state, x, target)

    curvatures = {
        "Hessian": hessian_vector_product(network, loss),
        "Gauss-Newton": ggn_vector_product(network, loss),
    }
    spectra = {
        name: spectral_density(along(product), params, steps=lanczos, key=jax.random.key(0))
        for name, product in curvatures.items()
    }
    images = as_images(splits.preparation, x)
    return Page(over_training, *flow, norms, captions, images, spectra)


def flow_through(
    network: Layer, loss: Loss, params: Any, state: Any, x: jax.Array, target: jax.Array
) -> Flow:
    """One pass forward and back, watched at every layer; see `Flow`."""
    places = []

    @jax.jit
    def look(params, state, x, target):
        found: dict[str, dict] = {"y": {}, "dy": {}, "slope": {}}
        scales = _scales(network, state)

        def watch(path: str, layer: Layer) -> Layer:
            name = label(path, layer)
            places.append(name)

            def tell(what: str, value: Any) -> None:
                if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
                    found[what][name] = value / scales[path] if what == "dy" else value

            if isinstance(layer, identity):
                return layer
            return Watched(layer, tell, slope=is_activation(layer))

        backward_pass(watched(network, watch), loss)(params, state, x, target)
        dead, saturated = {}, {}
        for name, slope in found["slope"].items():
            size = jnp.abs(slope)
            dead[name] = jnp.mean(jnp.max(size, tuple(range(size.ndim - 1))) == 0)
            saturated[name] = jnp.mean(size < FLAT * jnp.max(size))
        return Flow(found["y"], found["dy"], dead, saturated)

    flow = jax.tree.map(np.asarray, look(params, state, x, target))
    return Flow(*(_in_order(places, found) for found in flow))


def _in_order(places: list[str], found: dict[str, Any]) -> dict[str, Any]:
    """By layer from first to last: a dictionary comes back from jit in the order of its keys."""
    return {name: found[name] for name in places if name in found}


def _scales(layer: Layer, state: Any, path: str = "", scale: Any = 1.0) -> dict[str, Any]:
    """{path: what the deltas of the layer there are multiplied by}: by a policy of float16."""
    if isinstance(state, ScaledState):
        scale = scale * state.scale
    if is_one(layer):
        return {path: scale}
    found = {}
    for name, part, own in zip(layer.part_names, layer.parts, layer.of_parts(state), strict=True):
        found |= _scales(part, own, below(path, name), scale)
    return found


def _gradients_by_layer(network: Layer, loss: Loss) -> Callable:
    """(params, state, x, target) -> {layer: (‖mean gradient‖, √ of the trace of the noise)}."""
    run = backward_pass(network, loss)

    def measure(params, state, x, target):
        captures = run(params, state, x, target).captures
        n = batch_size("inspect", x)
        mean = contract(scaled(captures, jnp.full(n, 1 / n)))
        squares = per_example_squared_norms.of(captures, per_parameter=True)
        found = {}
        for path, layer, m, s in walk(network, mean, squares):
            if not jax.tree.leaves(m):
                continue
            of_mean = sum(jnp.sum(g.astype(jnp.float32) ** 2) for g in jax.tree.leaves(m))
            of_each = sum(jnp.mean(v) for v in jax.tree.leaves(s))
            noise = jnp.maximum(of_each - of_mean, 0) * n / max(n - 1, 1)
            found[label(path, layer)] = (jnp.sqrt(of_mean), jnp.sqrt(noise))
        return found

    return measure


def _train(config: Config, splits: Splits, epochs: int | None) -> list[tuple[int, TrainState]]:
    """The states before the first epoch and after every one."""
    if epochs is not None:
        require_positive_integer("inspect", "epochs", epochs)
    start = initial_state(config, splits)
    in_memory: dict[str, Any] = {"crosscheck_every": 0, "micro_batches": 1, "stream": False}
    loss, target = config.supervised(splits.train, config.task(splits))
    trained = train(
        config.layers,
        loss,
        config.make_update(len(splits.train.target)),
        start,
        splits.train.x,
        target,
        epochs=epochs or config.epochs,
        batch_size=config.batch_size,
        **gradient_options(dataclasses.replace(config, **in_memory), config.layers, loss),
    )
    return [(0, start), *((epoch.number, epoch.train_state) for epoch in trained)]


if __name__ == "__main__":
    run_script(main)
