"""A configuration's options of gradients and batches, for `jaxnn.training.train`."""

from typing import Any

from experiments.support.config import Config
from jaxnn import Layer, Loss, accumulate, autodiff, backprop
from jaxnn.core.validation import (
    require_integer,
    require_number,
    require_positive_integer,
    unknown_name,
)
from jaxnn.learning.privacy import private
from jaxnn.training import Crosscheck, compared, poisson, shuffled, streamed

GRADIENTS = ("manual", "autodiff", "private", "crosscheck")
"""Private trains by the hand-derived gradient, clipped and noisy, on Poisson samples; crosscheck is
manual, from when that was not compared with autodiff by itself."""


def gradient_options(config: Config, network: Layer, loss: Loss) -> dict[str, Any]:
    """The arguments gradient, draw and crosscheck of `jaxnn.training.train`, to train with a loss.

    Raises:
        ValueError, TypeError: an option is not as described there, or they do not fit together.
    """
    mode, parts = config.gradient, config.micro_batches
    if mode not in GRADIENTS:
        raise ValueError(unknown_name("gradient mode", mode, GRADIENTS))
    require_positive_integer("train", "micro_batches", parts)
    require_integer("train", "crosscheck_every", config.crosscheck_every, 0)
    require_number("train", "crosscheck_tolerance", config.crosscheck_tolerance, minimum=0)
    if config.stream and mode == "private":
        raise ValueError(
            f"train: expected gradient manual or autodiff where data are streamed, got {mode}"
        )
    crosscheck = None
    if config.crosscheck_every:
        crosscheck = Crosscheck(config.crosscheck_every, config.crosscheck_tolerance)
    if (privacy := config.privacy_of_gradients) is not None:
        if config.data.weights is not None:
            raise ValueError(
                "train: expected examples without weights where gradient is 'private', whose "
                f"promise does not cover them, got --data.weights {config.data.weights}"
            )
        privacy.require_valid()
        follows = config.privacy.quantile is not None
        gradient = private(
            network,
            loss,
            clip_norm=None if follows else privacy.clip_norm,
            noise_multiplier=privacy.noise_multiplier,
            batch_size=config.batch_size,
            per_layer=config.privacy.per_layer,
            automatic=config.privacy.automatic,
            allow_no_noise=privacy.allow_no_noise,
        )
        if parts > 1:
            gradient = accumulate(gradient, parts, network=network)
        return {"gradient": gradient, "draw": poisson, "crosscheck": crosscheck}

    gradient = (autodiff if mode == "autodiff" else backprop)(network, loss)
    if parts > 1:
        gradient = accumulate(gradient, parts, network=network)
    draw = streamed if config.stream else shuffled
    if config.in_backward:
        gradient = None  # the step has its own
    return {"gradient": gradient, "draw": draw, "crosscheck": crosscheck}


def what_is_compared(config: Config) -> str:
    """The names of the two gradients that a crosscheck compares."""
    options = gradient_options(config, config.layers, config.loss_function)
    network, loss = config.layers, config.loss_function
    gradient = options["gradient"] or backprop(network, loss)
    pair = compared(options["crosscheck"], gradient, network, loss)
    by_intent = " (before it is clipped and noisy)" * (config.privacy_of_gradients is not None)
    return f"{by_intent} and ".join(pair)
