"""The gradient of a configuration's network in three ways, side by side.

python -m experiments.check                      # configs/digits_mlp.toml
python -m experiments.check wine_mlp --float32
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.support.command_line import Configured, parse_options, run_script, take_config
from experiments.support.config import require_compatible
from jaxnn import autodiff, check_gradients, numerical
from jaxnn.core.validation import require_positive_integer
from jaxnn.data.dataset import rows_of

USES = ("network", "loss", "precision", "gradient", "seed", "data")
"""Of a configuration."""


@dataclass(frozen=True)
class Options:
    """Compare backprop with autodiff and with numerical differentiation on one batch."""

    config: Configured
    examples: int = 16
    """How many training examples the batch has."""
    float32: bool = False
    """Whether to compute in float32, as training does, and not in float64."""
    numerical: bool = True
    """Whether to differentiate numerically too: two losses for each parameter."""


def main(arguments: list[str]) -> None:
    """Print a row for every parameter; exit status 1 where a gradient is outside its tolerance."""
    name, config, arguments = take_config(arguments)
    options = parse_options(Options, "check [CONFIG]", arguments, USES, config=config)
    config = options.config
    require_positive_integer("check", "examples", options.examples)
    splits = config.load()
    if options.examples > len(splits.train.target):
        raise ValueError(
            f"check: expected examples to be at most the {len(splits.train.target)} training "
            f"examples, got {options.examples}"
        )
    config = config.resolved(splits)
    require_compatible(config, splits)
    network, loss, task = config.layers, config.loss_function, config.task(splits)
    x = rows_of(splits.train.x, slice(options.examples))
    target = np.asarray(task.prepare(splits.train.target[: options.examples]))
    with jax.enable_x64(not options.float32):
        floating = jnp.float32 if options.float32 else jnp.float64
        x, target = jax.tree.map(
            lambda a: jnp.asarray(a, a.dtype if a.dtype.kind == "i" else floating), (x, target)
        )
        init_key, key = jax.random.split(jax.random.key(config.seed))
        params, state = network.init(init_key, x)
        against: dict[str, Callable] = {"autodiff": autodiff(network, loss)}
        if options.numerical:
            against["numerical"] = numerical(network, loss)
        report = check_gradients(network, loss, params, state, x, target, key, against=against)
    print(f"{name}: {options.examples} examples, {floating.dtype}\n\n{report}\n")
    print("all gradients agree" if report.passed else "gradients DISAGREE")
    if not report.passed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
