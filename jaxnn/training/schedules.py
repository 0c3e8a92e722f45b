"""Learning-rate schedules of optax by name."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optax

from jaxnn.core.validation import brief, require_number, require_positive_integer, unknown_name


def _constant(peak: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _cosine(peak: float, steps: int, final: float = 0.0) -> optax.Schedule:
    require_number("schedule cosine", "final", final, minimum=0, maximum=1)
    return optax.cosine_decay_schedule(peak, max(steps, 1), final)


def _linear(peak: float, steps: int, final: float = 0.0) -> optax.Schedule:
    require_number("schedule linear", "final", final, minimum=0, maximum=1)
    return optax.linear_schedule(peak, peak * final, max(steps, 1))


def _exponential(peak: float, steps: int, final: float = 0.01) -> optax.Schedule:
    require_number("schedule exponential", "final", final, minimum=0, maximum=1, open_minimum=True)
    return optax.exponential_decay(peak, max(steps, 1), final)


def _step(
    peak: float, steps: int, at: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1
) -> optax.Schedule:
    require_number("schedule step", "factor", factor, minimum=0, open_minimum=True)
    if not isinstance(at, tuple | list):
        raise TypeError(f"schedule step: expected at to be a tuple of fractions, got {brief(at)}")
    for fraction in at:
        require_number("schedule step", "every member of at", fraction, minimum=0, maximum=1)
    # A short training may have several of the times in one step.
    places = Counter(math.ceil(fraction * steps) for fraction in at)
    return optax.piecewise_constant_schedule(peak, {p: factor**n for p, n in places.items()})


def _polynomial(peak: float, steps: int, power: float = 2.0, final: float = 0.0) -> optax.Schedule:
    require_number("schedule polynomial", "power", power, minimum=0, open_minimum=True)
    require_number("schedule polynomial", "final", final, minimum=0, maximum=1)
    return optax.polynomial_schedule(peak, peak * final, power, max(steps, 1))


def _onecycle(
    peak: float, steps: int, rise: float = 0.3, start: float = 0.04, final: float = 4e-6
) -> optax.Schedule:
    inside = {"minimum": 0, "maximum": 1, "open_minimum": True, "open_maximum": True}
    for name, value in (("rise", rise), ("start", start), ("final", final)):
        require_number("schedule onecycle", name, value, **inside)
    rising = max(round(rise * steps), 1)
    falling = optax.cosine_decay_schedule(peak, max(steps - rising, 1), final)
    first = optax.cosine_decay_schedule(peak * start, rising, 1 / start)
    return optax.join_schedules([first, falling], [rising])


def _sgdr(
    peak: float, steps: int, cycles: int = 4, shrink: float = 1.0, final: float = 0.0
) -> optax.Schedule:
    require_positive_integer("schedule sgdr", "cycles", cycles)
    require_number("schedule sgdr", "shrink", shrink, minimum=0, open_minimum=True)
    require_number("schedule sgdr", "final", final, minimum=0, maximum=1)
    length = max(-(-steps // cycles), 1)
    peaks = (peak * shrink**cycle for cycle in range(cycles))
    parts = [optax.cosine_decay_schedule(own, length, final) for own in peaks]
    return optax.join_schedules(parts, [length * cycle for cycle in range(1, cycles)])


def _interpolate(
    peak: float,
    steps: int,
    at: tuple[float, ...] = (0.5, 1.0),
    factors: tuple[float, ...] = (0.1, 0.1),
    kind: str = "linear",
) -> optax.Schedule:
    where = "schedule interpolate"
    for name, values in (("at", at), ("factors", factors)):
        if not isinstance(values, tuple | list):
            raise TypeError(f"{where}: expected {name} to be a tuple, got {brief(values)}")
        for value in values:
            require_number(where, f"every member of {name}", value, minimum=0)
    if len(at) != len(factors) or any(not 0 < t <= 1 for t in at):
        raise ValueError(f"{where}: expected as many factors as times in (0, 1], got {at}")
    if kind not in ("linear", "cosine"):
        raise ValueError(f"{where}: {unknown_name('kind', kind, ('linear', 'cosine'))}")
    places = [math.ceil(fraction * steps) for fraction in at]
    if len(set(places)) != len(places):
        raise ValueError(f"{where}: expected times of different steps, got {at} of {steps} steps")
    scales = dict(zip(places, factors, strict=True))
    return optax.piecewise_interpolate_schedule(kind, peak, scales)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "exponential": _exponential,
    "interpolate": _interpolate,
    "linear": _linear,
    "onecycle": _onecycle,
    "polynomial": _polynomial,
    "sgdr": _sgdr,
    "step": _step,
}
NAMES_OF_OPTAX = {
    "constant_schedule": "constant",
    "cosine_decay_schedule": "cosine",
    "cosine_onecycle_schedule": "onecycle",
    "exponential_decay": "exponential",
    "linear_schedule": "linear",
    "piecewise_constant_schedule": "step",
    "piecewise_interpolate_schedule": "interpolate",
    "polynomial_schedule": "polynomial",
    "sgdr_schedule": "sgdr",
    "warmup_constant_schedule": "constant",
    "warmup_cosine_decay_schedule": "cosine",
    "warmup_exponential_decay_schedule": "exponential",
}
"""What the schedules are called there; those of "warmup" have one of a tenth unless told."""


def make_schedule(
    name: str, peak: float, steps: int, options: Mapping[str, Any] | None = None
) -> optax.Schedule:
    """The learning rate over ``steps`` steps, from a ``peak``.

    Times are fractions of the steps after warm-up and rates are fractions of the peak, so a
    schedule keeps its shape when the number of epochs or the batch size changes.

    Args:
        name: ``constant``; ``cosine(final=0)``, ``linear(final=0)`` and ``exponential(final=0.01)``
            end at ``final``; ``step(at=(0.5, 0.75), factor=0.1)`` multiplies by ``factor`` at each
            time in ``at``; ``interpolate(at=(0.5, 1), factors=(0.1, 0.1), kind="linear")`` goes
            there gradually; ``polynomial(power=2, final=0)``; ``onecycle(rise=0.3, start=0.04,
            final=4e-6)`` rises to the peak and falls, by cosines; ``sgdr(cycles=4, shrink=1,
            final=0)`` is so many cosines, each from ``shrink`` times the peak before. optax's own
            names for them are known too.
        peak: The largest rate.
        steps: The number of steps of the whole training.
        options: As above; every schedule also takes ``warmup``, the fraction of ``steps`` in which
            the rate rises linearly from 0 to ``peak`` (0 unless given).

    Raises:
        ValueError: An unknown name or option (the message has the nearest valid one), or a number
            outside of its range.
    """
    options = dict(options or {})
    if name in NAMES_OF_OPTAX:
        options = ({"warmup": 0.1} if name.startswith("warmup") else {}) | options
        name = NAMES_OF_OPTAX[name]
    if name not in SCHEDULES:
        valid = (*SCHEDULES, *NAMES_OF_OPTAX, "reduce_on_plateau")
        raise ValueError(unknown_name("schedule", name, valid))
    require_number("schedule", "learning_rate", peak, minimum=0, open_minimum=True)
    require_positive_integer("schedule", "steps", steps)
    warmup = options.pop("warmup", 0.0)
    require_number(f"schedule {name}", "warmup", warmup, minimum=0, maximum=1)
    valid = [*list(inspect.signature(SCHEDULES[name]).parameters)[2:], "warmup"]
    for option in options:
        if option not in valid:
            raise ValueError(unknown_name(f"option of schedule {name}", option, valid))
    rising = round(warmup * steps)
    schedule = SCHEDULES[name](peak, steps - rising, **options)
    if rising == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rising), schedule], [rising])
