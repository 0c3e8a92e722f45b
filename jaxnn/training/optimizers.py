"""Optimisers and learning-rate schedules of optax by name."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnn.core.validation import (
    brief,
    require_boolean,
    require_non_negative,
    require_number,
    require_positive_integer,
    require_rate,
    unknown_name,
)

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adabelief": optax.adabelief,
    "adadelta": optax.adadelta,
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamw": partial(optax.adamw, weight_decay=0.0),
    "lamb": optax.lamb,
    "lion": partial(optax.lion, weight_decay=0.0),
    "momentum": partial(optax.sgd, momentum=0.9),
    "nadam": optax.nadam,
    "nesterov": partial(optax.sgd, momentum=0.9, nesterov=True),
    "radam": optax.radam,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
_RATES = ("b1", "b2", "rho", "decay", "momentum")
_NON_NEGATIVE = ("eps", "eps_root", "initial_accumulator_value", "initial_scale", "threshold")
_DTYPES = ("mu_dtype", "accumulator_dtype")
_FLOATING = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)
# These apply weight decay to the parameters directly, apart from the gradient's statistics.
_DECOUPLED = ("adamw", "lamb", "lion")


def make_optimizer(
    name: str,
    learning_rate: float | optax.Schedule,
    options: Mapping[str, Any] | None = None,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """The optax optimiser called ``name``.

    Args:
        name: A key of `OPTIMIZERS`.
        learning_rate: A positive number or an optax schedule.
        options: Further arguments of the optax function, such as ``{"b1": 0.95}``.
        weight_decay: λ in θ ← θ − η λ θ for adamw, lamb and lion (decoupled; Loshchilov and Hutter,
            2019), elsewhere λ θ is added to the gradient (the L2 penalty λ/2 ‖θ‖²). Only parameters
            called ``weight`` decay.
        clip_norm: Gradients whose global norm is larger are scaled to it.

    Raises:
        ValueError: An unknown name or option (the message has the nearest valid one), a number
            outside of its range, or options that the optimiser cannot compute with.
    """
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    if not callable(learning_rate):
        require_number("optimizer", "learning_rate", learning_rate, minimum=0, open_minimum=True)
    require_number("optimizer", "weight_decay", weight_decay, minimum=0)
    options = dict(options or {})
    factory = OPTIMIZERS[name]
    given_elsewhere = {"learning_rate", "weight_decay", "mask", "weight_decay_mask"}
    valid = [p for p in inspect.signature(factory).parameters if p not in given_elsewhere]
    for option in options:
        if option not in valid:
            raise ValueError(unknown_name(f"option of optimizer {name}", option, valid))
    if clip_norm is not None:
        require_number("optimizer", "clip_norm", clip_norm, minimum=0, open_minimum=True)
    try:
        for option, value in options.items():
            _require_option(f"optimizer {name}", option, value)
        optimizer = assemble_optimizer(
            name, learning_rate, options, weight_decay=weight_decay, clip_norm=clip_norm
        )
        jax.eval_shape(partial(_step_once, optimizer), {"weight": jnp.zeros((1, 1))})
    except (TypeError, ValueError, AttributeError) as error:
        # optax looks at most options only when it computes with them.
        raise ValueError(
            f"optimizer {name}: cannot work with the options {brief(options)}: {error}"
        ) from error
    return optimizer


def assemble_optimizer(
    name: str,
    learning_rate: Any,
    options: Mapping[str, Any],
    *,
    weight_decay: Any = 0.0,
    clip_norm: Any = None,
) -> optax.GradientTransformation:
    """As `make_optimizer`, of arguments that are valid: numbers may be traced ones."""
    parts, options = [], dict(options)
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if name in _DECOUPLED:
        options |= {"weight_decay": weight_decay, "mask": only_weights}
    elif isinstance(weight_decay, jax.Array) or weight_decay > 0:
        parts.append(optax.add_decayed_weights(weight_decay, only_weights))
    return optax.chain(*parts, OPTIMIZERS[name](learning_rate=learning_rate, **options))


def _require_option(where: str, option: str, value: Any) -> None:
    """Raise unless the value is one with which an optimiser of optax means something."""
    if value is None and option in ("momentum", *_DTYPES):
        return
    if option in _RATES:
        require_rate(where, option, value)
    elif option in _NON_NEGATIVE:
        require_non_negative(where, option, value)
    elif option in _DTYPES:
        names = [jnp.dtype(dtype).name for dtype in _FLOATING]
        if not isinstance(value, str):
            value = jnp.dtype(value).name
        if value not in names:
            raise ValueError(f"{where}: {unknown_name(option, value, names)}")
    else:
        require_boolean(where, option, value)


def _step_once(optimizer: optax.GradientTransformation, params: Any) -> Any:
    return optimizer.update(params, optimizer.init(params), params)


def only_weights(params: Any) -> Any:
    """A tree of booleans: True for the parameters called ``weight``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "weight", params
    )


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


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "exponential": _exponential,
    "linear": _linear,
    "step": _step,
}


def make_schedule(
    name: str, peak: float, steps: int, options: Mapping[str, Any] | None = None
) -> optax.Schedule:
    """The learning rate over ``steps`` steps, from a ``peak``.

    Times are fractions of the steps after warm-up and rates are fractions of the peak, so a
    schedule keeps its shape when the number of epochs or the batch size changes.

    Args:
        name: ``constant``; ``cosine(final=0)``, ``linear(final=0)`` and ``exponential(final=0.01)``
            end at ``final``; ``step(at=(0.5, 0.75), factor=0.1)`` multiplies by ``factor`` at each
            time in ``at``.
        peak: The largest rate.
        steps: The number of steps of the whole training.
        options: As above; every schedule also takes ``warmup``, the fraction of ``steps`` in which
            the rate rises linearly from 0 to ``peak`` (0 unless given).

    Raises:
        ValueError: An unknown name or option (the message has the nearest valid one), or a number
            outside of its range.
    """
    if name not in SCHEDULES:
        raise ValueError(unknown_name("schedule", name, SCHEDULES))
    require_number("schedule", "learning_rate", peak, minimum=0, open_minimum=True)
    require_positive_integer("schedule", "steps", steps)
    options = dict(options or {})
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
