"""A configuration's options of gradients and batches, for `jaxnn.training.train`."""

from typing import Any

from experiments.support.config import Config
from jaxnn import Layer, accumulate, autodiff, backprop
from jaxnn.core.validation import require_number, require_positive_integer, unknown_name
from jaxnn.learning.privacy import private
from jaxnn.training import Crosscheck, poisson, shuffled, streamed

GRADIENTS = ("manual", "autodiff", "crosscheck", "private")
"""Crosscheck trains by backprop and compares it with autodiff now and then; private trains by
backprop, clipped and noisy, on Poisson samples."""


def gradient_options(config: Config, network: Layer) -> dict[str, Any]:
    """The arguments gradient, draw and crosscheck of `jaxnn.training.train`.

    Raises:
        ValueError, TypeError: an option is not as described there, or they do not fit together.
    """
    mode, loss, parts = config.gradient, config.loss_function, config.micro_batches
    if mode not in GRADIENTS:
        raise ValueError(unknown_name("gradient mode", mode, GRADIENTS))
    require_positive_integer("train", "micro_batches", parts)
    require_positive_integer("train", "crosscheck_every", config.crosscheck_every)
    require_number("train", "crosscheck_tolerance", config.crosscheck_tolerance, minimum=0)
    if config.stream and mode not in ("manual", "autodiff"):
        raise ValueError(
            f"train: expected gradient manual or autodiff where data are streamed, got {mode}"
        )
    if (privacy := config.privacy_of_gradients) is not None:
        if parts > 1:
            raise ValueError(
                "train: expected micro_batches to be 1 where gradient is 'private', whose noise is "
                f"drawn once for a batch, got {parts}"
            )
        clip_norm, noise_multiplier, _ = privacy.require_valid()
        gradient = private(
            network,
            loss,
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            batch_size=config.batch_size,
        )
        return {"gradient": gradient, "draw": poisson}

    make = autodiff if mode == "autodiff" else backprop
    gradient, against = make(network, loss), None
    if parts > 1:
        # A micro-batch has random numbers of its own, which both sides of a comparison must draw.
        gradient = accumulate(gradient, parts, network=network)
        against = accumulate(autodiff(network, loss), parts, network=network)
    crosscheck = None
    if mode == "crosscheck":
        crosscheck = Crosscheck(config.crosscheck_every, config.crosscheck_tolerance, against)
    draw = streamed if config.stream else shuffled
    return {"gradient": gradient, "draw": draw, "crosscheck": crosscheck}
