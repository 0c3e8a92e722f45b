"""Speed and memory of jaxnn beside other ways to do the same work.

python -m experiments.benchmark                               # the dense networks
python -m experiments.benchmark dense cnn --output figures.json
python -m experiments.benchmark --contenders "jaxnn manual" PyTorch --only epoch
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.benchmarks.measuring import Settings, heading, machine, save
from experiments.support.command_line import parse_options, run_script
from experiments.support.compiled import compile_anew
from jaxnn.core.files import require_free
from jaxnn.core.validation import require_number, require_positive_integer, unknown_name

SUITES = (
    "attention",
    "choose",
    "cnn",
    "convolution",
    "dense",
    "embedding",
    "functions",
    "growth",
    "pooling",
    "recurrent",
    "scaling",
    "stages",
    "statistics",
    "sweeps",
)


@dataclass(frozen=True)
class Options:
    """Measure suites of workloads and print a table for each workload.

    Times are for one step or one epoch. The ratio is to the first contender: how many times as long
    the minimum is. The suites are attention, cnn, convolution, dense, embedding, functions,
    pooling, recurrent, scaling, stages, statistics and sweeps (for which as many devices as the
    processor has cores are worth having: --devices); growth, how cost grows with sizes; and choose,
    which finds the algorithms of convolutions that are fastest here.
    """

    suites: tyro.conf.Positional[tuple[str, ...]] = ("dense",)
    """Which suites."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    devices: int | None = None
    """How many virtual devices a processor is divided into."""
    output: Path | None = None
    """A JSON file for the figures."""
    overwrite: bool = False
    """Whether the file may replace one that exists."""


def main(arguments: list[str]) -> None:
    """Measure and print; write the figures where a file is named."""
    options = parse_options(Options, "benchmark", arguments)
    compile_anew()
    for suite in options.suites:
        if suite not in SUITES:
            raise ValueError(unknown_name("suite", suite, SUITES))
    require_positive_integer("benchmark", "repeats", options.settings.repeats)
    require_number("benchmark", "seconds", options.settings.seconds, minimum=0)
    if options.output:
        require_free(options.output, overwrite=options.overwrite)
    if options.devices is not None:
        require_positive_integer("benchmark", "devices", options.devices)
        jax.config.update("jax_num_cpu_devices", options.devices)
    facts = machine()
    print(heading(facts))
    results = {}
    for suite in options.suites:
        module = importlib.import_module(f"experiments.benchmarks.{suite}")
        results[suite] = module.run(options.settings)
    if options.output:
        save(options.output, {"machine": facts} | results, overwrite=options.overwrite)
        print(f"\nsaved {options.output}")


if __name__ == "__main__":
    run_script(main)
