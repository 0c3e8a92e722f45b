"""Optimisers of optax by name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxnn.core.validation import (
    brief,
    require_boolean,
    require_integer,
    require_non_negative,
    require_number,
    require_rate,
    unknown_name,
)
from jaxnn.kernels.products import norm_along, sum_dtype

_REFUSED = {
    "dpsgd": "train privately with --gradient private, by any optimiser that is not told the loss",
    "mechanize": "it wraps another optimiser: use prodigy or dadapt_adamw, which find their rate",
    "sam": "it wraps two others, and takes every second step to where the loss is larger",
    "schedule_free": "it wraps another: use schedule_free_adamw or schedule_free_sgd",
}
"""What takes a learning rate in optax and is no optimiser by a name, and what to do."""


def _of_optax() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """All functions of optax and optax.contrib that make an optimiser of a learning rate."""
    found = {**vars(optax), **vars(optax.contrib)}
    return {
        name: function
        for name, function in found.items()
        if (inspect.isfunction(function) or isinstance(function, partial))
        and not name.startswith(("_", "scale_by_"))
        and name not in _REFUSED
        and "learning_rate" in inspect.signature(function).parameters
    }


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = _of_optax() | {
    "adamw": partial(optax.adamw, weight_decay=0.0),
    "lion": partial(optax.lion, weight_decay=0.0),
    "momentum": partial(optax.sgd, momentum=0.9),
    "nesterov": partial(optax.sgd, momentum=0.9, nesterov=True),
    "noisy_sgd": partial(optax.noisy_sgd, key=0),
    # Those that take no schedule are made anew in each step, by the rate that it has.
    **{
        name: optax.inject_hyperparams(getattr(optax, name))
        for name in ("optimistic_adam", "rprop", "sm3")
    },
}
"""Of optax and optax.contrib, and momentum and nesterov, which are sgd."""
TOLD_THE_LOSS = ("lbfgs", "momo", "momo_adam", "sophia")
"""These are given the loss of the batch beside its gradient, or compute it again elsewhere."""
_RATES = ("b1", "b2", "b3", "rho", "decay", "momentum", "beta", "betas", "beta3", "adam_b1")
_RATES = (*_RATES, "adam_b2", "decay_rate")
_DTYPES = ("mu_dtype", "accumulator_dtype", "dtype_momentum", "state_dtype")
_FLOATING = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)
_WHOLE = ("warmup_steps", "random_seed")
_NUMBERS = ("optimism", "init_estim_sq_dist", "adam_learning_rate", "consistent_rms")
_MAY_BE_NONE = (*_DTYPES, *_WHOLE, *_NUMBERS, "momentum", "beta3", "clip_threshold")
_MAY_BE_NONE = (*_MAY_BE_NONE, "clipping_threshold")
_CHOICES = {"preconditioning": ("aol", "frobenius", "schatten", "spectral")}
_GIVEN_ELSEWHERE = ("learning_rate", "weight_decay", "mask", "weight_decay_mask")
_GIVEN_ELSEWHERE = (*_GIVEN_ELSEWHERE, "weight_decay_rate", "adam_weight_decay")
_FUNCTIONS = ("base_optimizer", "clip_value_fn", "hessian_diagonal_fn", "linesearch", "seed")
_FUNCTIONS = (*_FUNCTIONS, "muon_weight_dimension_numbers", "weight_dimension_numbers")
_FUNCTIONS = (*_FUNCTIONS, "trust_ratio_mask", "verbose", "print_win_rate_every_n_steps")
"""What is no number: for that, make the optimiser by optax itself."""


def _mask_of(name: str) -> str | None:
    """By which argument an optimiser is told which parameters its own weight decay is of: it
    applies it to them directly, apart from the gradient's statistics."""
    parameters = inspect.signature(OPTIMIZERS[name]).parameters
    if name == "adadelta" or "weight_decay" not in parameters:
        return None
    return next((mask for mask in ("mask", "weight_decay_mask") if mask in parameters), None)


def options_of(name: str) -> dict[str, Any]:
    """The options of an optimiser, with their defaults."""
    return {
        option: parameter.default
        for option, parameter in inspect.signature(OPTIMIZERS[name]).parameters.items()
        if option not in (*_GIVEN_ELSEWHERE, *_FUNCTIONS)
    }


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
        weight_decay: λ in θ ← θ − η λ θ for adamw, lamb, lion and others of optax that can mask
            theirs (decoupled; Loshchilov and Hutter, 2019), elsewhere λ θ is added to the gradient
            (the L2 penalty λ/2 ‖θ‖²). Only parameters called ``weight`` decay; of muon, matrices.
        clip_norm: Gradients whose global norm is larger are scaled to it.

    Those that look for their own step size (prodigy, dadapt_adamw, dog, dowg, cocob, momo) expect a
    learning rate of about 1. schedule_free's are evaluated at other parameters than they train: see
    `evaluated`. `TOLD_THE_LOSS` have to be stepped by `jaxnn.training.make_step`, which tells them.

    Raises:
        ValueError: An unknown name or option (the message has the nearest valid one), a number
            outside of its range, or options that the optimiser cannot compute with.
    """
    if name in _REFUSED:
        way_out = _REFUSED[name]
        raise ValueError(f"optimizer {name}: expected one that is whole by itself; {way_out}")
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    if not callable(learning_rate):
        require_number("optimizer", "learning_rate", learning_rate, minimum=0, open_minimum=True)
    require_number("optimizer", "weight_decay", weight_decay, minimum=0)
    options = dict(options or {})
    valid = options_of(name)
    for option in options:
        if option not in valid:
            raise ValueError(unknown_name(f"option of optimizer {name}", option, valid))
    if clip_norm is not None:
        require_number("optimizer", "clip_norm", clip_norm, minimum=0, open_minimum=True)
    try:
        for option, value in options.items():
            _require_option(f"optimizer {name}", option, value, valid[option])
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
        parts.append(_clip_by_global_norm(clip_norm))
    if (mask := _mask_of(name)) is not None:
        options |= {"weight_decay": weight_decay, mask: only_weights}
    elif isinstance(weight_decay, jax.Array) or weight_decay > 0:
        parts.append(optax.add_decayed_weights(weight_decay, only_weights))
    return optax.chain(*parts, OPTIMIZERS[name](learning_rate=learning_rate, **options))


def _clip_by_global_norm(most: Any) -> optax.GradientTransformation:
    """That of optax, of gradients whose squares overflow or vanish too, as 10³⁰ or in halves."""

    def clip(gradients: Any, params: Any = None) -> Any:
        wide = jax.tree.map(lambda g: g.astype(sum_dtype(g.dtype)), gradients)
        own = (norm_along(g, tuple(range(g.ndim))) for g in jax.tree.leaves(wide))
        norms = [norm.reshape(1) for norm in own]
        norm = norm_along(jnp.concatenate(norms), (0,)) if norms else jnp.zeros(1)
        factor = jnp.where(norm < most, 1, most / norm)[0]
        return jax.tree.map(lambda g, a: (a * factor).astype(g.dtype), gradients, wide)

    return optax.stateless(clip)


def _require_option(where: str, option: str, value: Any, default: Any) -> None:
    """Raise unless the value is one with which an optimiser of optax means something."""
    if value is None and option in _MAY_BE_NONE:
        return
    if isinstance(default, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(default):
            raise ValueError(f"{where}: expected {option} to be such as {default}, got {value!r}")
        for part, own in zip(value, default, strict=True):
            if isinstance(own, str):
                if part != own:
                    raise ValueError(
                        f"{where}: expected {option} to be such as {default}, got {value!r}"
                    )
            elif option == "ns_coeffs":
                require_number(where, option, part)
            else:
                _require_option(where, option, part, own)
    elif option in _DTYPES:
        names = [jnp.dtype(dtype).name for dtype in _FLOATING]
        if not isinstance(value, str):
            value = jnp.dtype(value).name
        if value not in names:
            raise ValueError(f"{where}: {unknown_name(option, value, names)}")
    elif option in _CHOICES:
        if value not in _CHOICES[option]:
            raise ValueError(f"{where}: {unknown_name(option, value, _CHOICES[option])}")
    elif isinstance(default, bool):
        require_boolean(where, option, value)
    elif option in _WHOLE or (isinstance(default, int) and option != "momentum"):
        require_integer(where, option, value, 1 if default else 0)
    elif option in _RATES and (default is None or default < 1):
        require_rate(where, option, value)
    else:
        require_non_negative(where, option, value)


def _step_once(optimizer: optax.GradientTransformation, params: Any) -> Any:
    def loss(params: Any) -> Any:
        return jax.tree.reduce(lambda total, leaf: total + jnp.sum(leaf**2), params, 0.0)

    return step_with(optimizer, loss)(params, optimizer.init(params), params, loss(params))


def step_with(
    optimizer: optax.GradientTransformation, loss: Callable[[Any], Any], **others: Any
) -> Callable[..., Any]:
    """(gradients, state, params, value) -> (updates, state), of an optimiser that is told all.

    Args:
        optimizer: Any optax transformation.
        loss: (params) -> the loss of the batch, for those that compute it again elsewhere.
        others: More by name, for those that ask for it.
    """
    update = optimizer.update
    # optax.MultiSteps hands on what it is told; but what it makes does not say so.
    if not isinstance(getattr(update, "__self__", None), optax.MultiSteps):
        update = optax.with_extra_args_support(optimizer).update

    def loss_again(
        params: Any, obj_fn: Any = None, arguments: Any = None, whole_params: Any = None
    ) -> Any:
        return loss(params)  # a line search passes on, by name, all that it is told itself

    def step(gradients: Any, state: Any, params: Any, value: Any) -> Any:
        told = {"value": value, "grad": gradients, "value_fn": loss_again, "obj_fn": loss}
        told["whole_params"] = params  # those that a mask hides from what is inside of it, too
        return update(gradients, state, params, **told, **others)

    return step


def evaluated(optimizer_state: Any, params: Any) -> Any:
    """The parameters to evaluate and predict with, of those that an optimiser has trained.

    They are the same but for schedule_free's, which trains at y, between its average x and its
    newest point z, y = (1 − β) z + β x, and is evaluated at the average (Defazio et al., 2024).
    """

    for state in jax.tree.leaves(optimizer_state, is_leaf=_is_free):
        if _is_free(state):
            return optax.contrib.schedule_free_eval_params(state, params)
    return params


def is_evaluated_elsewhere(optimizer_state: Any) -> bool:
    """Whether `evaluated` gives other parameters than those that are trained."""
    return any(map(_is_free, jax.tree.leaves(optimizer_state, is_leaf=_is_free)))


def _is_free(state: Any) -> bool:
    return isinstance(state, optax.contrib.ScheduleFreeState)


def make_plateau(
    options: Mapping[str, Any] | None = None, *, accumulation_size: int = 1
) -> optax.GradientTransformation:
    """optax.contrib.reduce_on_plateau, to be chained behind an optimiser.

    The updates are multiplied by ``factor`` (0.1) once ``patience`` (10) means of the loss over
    ``accumulation_size`` steps have not been smaller than the smallest before by ``rtol`` (1e-4,
    relative) or ``atol`` (0); not below ``min_scale`` (0), and not within ``cooldown`` (0) of the
    last time. The loss is that of the batches of training.

    Raises:
        ValueError: An option is unknown or out of its range.
    """
    where, options = "schedule reduce_on_plateau", dict(options or {})
    valid = dict(inspect.signature(optax.contrib.reduce_on_plateau).parameters)
    del valid["accumulation_size"]
    for option, value in options.items():
        if option not in valid:
            raise ValueError(unknown_name(f"option of {where}", option, valid))
        if option == "factor":
            bounds = {"open_minimum": True, "open_maximum": True}
            require_number(where, option, value, minimum=0, maximum=1, **bounds)
        else:
            _require_option(where, option, value, valid[option].default)
    return optax.contrib.reduce_on_plateau(**options, accumulation_size=accumulation_size)


def only_weights(params: Any) -> Any:
    """A tree of booleans: True for the parameters called ``weight``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "weight", params
    )
