"""Which algorithms this machine should compute convolutions by.

Every algorithm that the rule could take for a pass of one of the convolutions of
`experiments.benchmarks.convolution` is compiled and timed. What counts is what a training of STEPS
steps waits for, its compilation and its steps. The limits of the rule are then moved one by one, as
long as that makes the geometric mean over the convolutions smaller by more than MARGIN. What would
change is printed; in the file that --output names, the rule finds the limits when the environment
variable JAXNN_LIMITS names that file.

    python -m experiments.benchmark choose --output limits.json
    JAXNN_LIMITS=limits.json python -m experiments.train configs/fashion_cnn.toml
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.convolution import CASES, Case, arrays_of
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    align,
    in_seconds,
    inspect_program,
    take_turns,
)
from jaxnn.kernels.convolution.choosing import PASSES, Choice, choose
from jaxnn.kernels.convolution.choosing import run as run_pass
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.limits import LIMITS, Limits, in_use

STEPS = 1000
MARGIN = 0.005
NEVER = 2**20
CANDIDATES = {
    "max_taps_written_out": (1, 4, 9, 25, 49),
    "max_shifts": (0, 6, 10, 14, 64),
    "max_groups_in_a_row": (1, 4, 8, 16),
    "max_narrow_channels": (0, 1, 3, 6, 8, 16),
    "max_narrow_patch": (9, 27, 54, 75, 147),
    "max_multiples": (0, 9, 27, 54, 81, 147),
    "max_sums_channels": (0, 1, 2, 4, 8),
    "winograd_forward": (16, 32, 64, 128, 256, NEVER),
    "winograd_input_gradient": (16, 32, 64, 128, 256, NEVER),
    "winograd_weight_gradient": (6, 12, 16, 32, 64, 128, 256, NEVER),
}
"""What each limit may become."""


class Measured(NamedTuple):
    """A convolution, and what each algorithm costs for each of its passes."""

    case: Case
    geometry: Geometry
    seconds: dict[str, dict[str, float]]
    """Of compilation and STEPS steps, by pass and algorithm."""

    def chosen(self, pass_name: str, limits: Limits) -> str:
        """The algorithm that the rule takes with these limits."""
        return str(choice_of(self.case, self.geometry, pass_name, limits))

    def cost(self, limits: Limits) -> float:
        """The seconds of all passes with these limits; infinite where one was not measured."""
        return sum(self.seconds[name].get(self.chosen(name, limits), math.inf) for name in PASSES)


def choice_of(case: Case, geometry: Geometry, pass_name: str, limits: Limits) -> Choice:
    """What the rule takes for a pass with these limits."""
    dtype = jnp.dtype(jnp.float32)
    return choose(pass_name, geometry, case.inputs, case.outputs, dtype, limits)


def moves_of(limits: Limits) -> list[Limits]:
    """All in which one limit is another."""
    return [
        limits._replace(**{name: value})
        for name, values in CANDIDATES.items()
        for value in values
        if value != getattr(limits, name)
    ]


def measure_case(case: Case, settings: Settings) -> Measured:
    """Time every algorithm."""
    _, geometry, (params, x, dy) = arrays_of(case)
    weight = params["weight"]
    arguments = {"forward": (x, weight), "input_gradient": (dy, weight), "weight_gradient": (x, dy)}
    seconds = {}
    for name in PASSES:
        contenders = {}
        moved = [in_use(), LIMITS, *(two for one in moves_of(LIMITS) for two in moves_of(one))]
        for choice in {choice_of(case, geometry, name, limits) for limits in moved}:
            program = jax.jit(partial(run_pass, name, choice, geometry=geometry))
            said = inspect_program(program, *arguments[name])
            run = partial(_wait_for, program, *arguments[name])
            contenders[str(choice)] = Contender(run, program=said)
        figures = take_turns(contenders, settings.repeats, settings.seconds)
        seconds[name] = {
            algorithm: STEPS * f.minimum + (f.lower_seconds or 0) + (f.compile_seconds or 0)
            for algorithm, f in figures.items()
        }
    return Measured(case, geometry, seconds)


def _wait_for(program: Any, *arguments: Any) -> None:
    jax.block_until_ready(program(*arguments))


def mean_cost(measured: list[Measured], limits: Limits) -> float:
    """The logarithm of the geometric mean of the seconds."""
    return sum(math.log(own.cost(limits)) for own in measured) / len(measured)


def fit(measured: list[Measured], start: Limits = LIMITS) -> Limits:
    """The limits that cost least, moved one by one from those at the start."""
    best, least = start, mean_cost(measured, start)
    while True:
        cost, limits = min((mean_cost(measured, limits), limits) for limits in moves_of(best))
        if cost >= least - MARGIN:
            return best
        best, least = limits, cost


def _rows(measured: list[Measured], limits: Limits) -> Iterator[tuple[str, ...]]:
    for own in measured:
        for name in PASSES:
            seconds, now = own.seconds[name], own.chosen(name, in_use())
            then, fastest = own.chosen(name, limits), min(seconds, key=lambda a: seconds[a])
            shown = (f"{a} {in_seconds(seconds[a])}" for a in (now, then, fastest))
            yield str(own.case), name, *shown, ""


def run(settings: Settings) -> dict[str, Any]:
    """Measure, and print what would change."""
    measured = [measure_case(case, settings) for case in CASES if settings.wants(str(case))]
    if not measured:
        raise ValueError(
            f"benchmark choose: expected --only to leave a case, got {settings.only!r}"
        )
    limits = fit(measured)
    print(f"\nseconds of compilation and {STEPS} steps, by the algorithm")
    heads = ("", "pass", "that is taken now", "with the limits found", "the best", "")
    print(align([heads, *_rows(measured, limits)]))
    before, after = (mean_cost(measured, own) for own in (in_use(), limits))
    changes = [
        f"{name} {old} → {new if new < NEVER else 'never'}"
        for name, old, new in zip(Limits._fields, in_use(), limits, strict=True)
        if old != new
    ]
    print(f"would change: {', '.join(changes) or 'nothing'}")
    print(f"all passes would then take {math.exp(after - before):.2f} times as long")
    figures = {str(own.case): own.seconds for own in measured}
    return {"limits": limits._asdict(), "seconds": figures}
