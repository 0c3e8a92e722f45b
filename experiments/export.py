"""Write a trained network as one file of compiled code (StableHLO) that needs nothing but JAX.

python -m experiments.export runs/digits_mlp --to digits.export
python -m experiments.export runs/wine_mlp --to wine.export --platforms cpu cuda tpu

The program takes examples as their file has them, any number at once, and returns what
`experiments.predict` shows: the class and the probabilities (or scores) of all classes, or the
numbers in their own units. Of a table with categories, dates or gaps it takes the features that
these become, which the file names. In Python, `jaxnn.interop.load_exported` reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.support.command_line import parse_options, run_script, take_folder
from experiments.support.config import task_on
from experiments.support.runs import Trained, open_trained
from jaxnn.core.files import require_free, write_file
from jaxnn.core.validation import listed
from jaxnn.data import Preparation
from jaxnn.data.encoding import is_plain
from jaxnn.data.preparation import flattened
from jaxnn.interop import Program, export_function, load_exported

EXAMPLES = 3
"""That the program is compared on,"""
TOLERANCE = 1e-4
"""and how far it may be off, relative to the largest number."""


@dataclass(frozen=True)
class Options:
    """Write a trained network as a file of compiled code."""

    to: Path
    """The file to write."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ()
    """Where it is to run; where this process does unless given."""
    weights: Literal["best", "last"] = "best"
    """Those of the best epoch in validation, if there was any, or of the last epoch."""
    overwrite: bool = False
    """Replace a file of that name."""
    allow_changes: bool = False
    """Warn, in place of refusing, where the configuration of the run has changed."""


def main(arguments: list[str]) -> None:
    """Write the file, read it back and compare what it predicts."""
    folder, arguments = take_folder(arguments, "export")
    options = parse_options(Options, "export RUN", arguments)
    require_free(options.to, overwrite=options.overwrite)
    trained, _ = open_trained(folder, allow_changes=options.allow_changes, weights=options.weights)
    data = exported(trained, options.platforms or None)
    program = load_exported(data)
    if program.runs_here:
        _require_same_predictions(trained, program)
    write_file(options.to, lambda path: path.write_bytes(data), overwrite=options.overwrite)
    platforms, version = ", ".join(program.platforms), program.versions["jax"]
    print(f"{len(data):,} bytes in {options.to}, for {platforms}, by jax {version}")
    print(f"takes {program.inputs}{_of(program.facts['features'])}")
    for name, what in program.outputs.items():
        print(f"returns {name}, {what}{_of(program.facts['names']) if name != 'class' else ''}")


def exported(trained: Trained, platforms: tuple[str, ...] | None = None) -> bytes:
    """A run's network with its preparation, as `jaxnn.interop.load_exported` reads it."""
    preparation = trained.preparation
    facts = {
        "features": list(preparation.feature_names),
        "names": list(preparation.class_names or preparation.target_names),
        "embedded": {
            e.column.name: ["", *e.column.values, *[None] * e.says_gaps]
            for e in preparation.embedded
        },
        "encoded": not is_plain(preparation.encoders),
        "epoch": trained.epoch,
        "network": trained.record.network,
    }
    x = preparation.sample()
    inner = load_exported(export_function(_answers(trained), x, platforms=platforms)).exported.call
    standardize, scale = preparation.standardization, preparation.target_standardization
    # What tells the values of a column such as a time apart may have no place in float32.
    is_wide = not (standardize.is_identity and scale.is_identity)

    def program(x: Any) -> Any:
        arrays = preparation.apart(x)
        if (x := arrays.get("x")) is not None:
            x = x.reshape(x.shape[0], -1) if preparation.flatten else x
            z = (x - standardize.mean) / standardize.deviation if is_wide else x
            arrays["x"] = z.astype(jnp.float32)
        answers = inner(preparation.joined(arrays))
        if is_wide and "numbers" in answers:
            answers["numbers"] = answers["numbers"] * scale.deviation + scale.mean
        return answers

    with jax.enable_x64(is_wide):
        x = preparation.apart(preparation.sample())
        if "x" in x:
            dtype = jnp.float64 if is_wide else jnp.float32
            x["x"] = np.zeros((1, *_shape_of(preparation)), dtype)
        x = preparation.joined(x)
        return export_function(program, x, platforms=platforms, facts=facts)


def _shape_of(preparation: Preparation) -> tuple[int, ...]:
    """Of an example as the program takes it."""
    return preparation.network_shape if preparation.encoders else preparation.shape


def _answers(trained: Trained) -> Callable[[Any], dict[str, Any]]:
    """What the network says of examples as it takes them."""
    task = task_on(trained.config.loss_function, trained.preparation)
    network, (params, state) = trained.config.layers, trained.train_state[:2]

    def answers(x: Any) -> dict[str, Any]:
        prediction = network.predict(params, state, x)
        if task.decide is None:
            return {"numbers": task.numbers(prediction)}
        found = {"class": task.decide(prediction).astype(jnp.int32)}
        if task.probabilities is None:
            return found | {"score": prediction}
        return found | {"probability": task.probabilities(prediction)}

    return answers


def _require_same_predictions(trained: Trained, program: Program) -> None:
    """Raise RuntimeError unless the program answers as the run does, where it can be run here."""
    preparation = trained.preparation
    mean, deviation = preparation.standardization
    shape = (EXAMPLES, *_shape_of(preparation))
    noise = np.random.default_rng(0).normal(size=shape)
    mean, deviation = (a.reshape(shape[1:]) if a.ndim else a for a in (mean, deviation))
    x = noise * deviation + mean
    prepared = preparation.standardization.apply(flattened(x) if preparation.flatten else x)
    codes = [np.arange(EXAMPLES, dtype=np.int32) % e.codes for e in preparation.embedded]
    prepared = preparation.together(prepared, codes)
    expected = _answers(trained)(jax.tree.map(jnp.asarray, prepared))
    if "numbers" in expected:
        scale = preparation.target_standardization
        expected["numbers"] = scale.invert(np.asarray(expected["numbers"]))
    x = x.astype(np.float64 if "float64" in str(program.inputs) else np.float32)
    given = program(preparation.together(x, codes))
    for name, numbers in expected.items():
        if not np.allclose(
            given[name], numbers, rtol=TOLERANCE, atol=TOLERANCE * np.abs(numbers).max()
        ):
            raise RuntimeError(f"the file predicts another {name} than the run")


def _of(names: list[str]) -> str:
    """Names, for people."""
    return f" ({listed(names)})" if names else ""


if __name__ == "__main__":
    run_script(main)
