"""Normalisations: whatever they take out of x, they take out of dx."""

import jax
import numpy as np

import jaxnn as nn
from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def cases(random: np.random.Generator):
    """A batch, and what arrives from above."""
    for batch, features in ((4, 4), (5, 3)):
        sizes = {"x": (batch, features), "scale": (features,), "dy": (batch, features)}
        yield {name: 1 + random.normal(size=size) for name, size in sizes.items()}


def of_example(x, scale, dy):
    """As `jaxnn.layer_norm` has it; no gradient depends on the offset."""
    dx, dscale, doffset = gradients(functional.layer_norm, dy, x, scale, np.zeros_like(scale))
    return {"dx": dx, "dscale": dscale, "doffset": doffset}


def of_batch(x, scale, dy):
    """As `jaxnn.batch_norm` has it in training."""
    layer, params = nn.batch_norm(), {"scale": scale, "offset": np.zeros_like(scale)}

    @jax.jit
    def run(params, x, dy):
        _, state = layer.init(None, x)
        _, _, residuals = layer.forward(params, state, x, None)
        dx, captures = layer.backward(params, residuals, dy)
        return dx, nn.contract(captures)

    dx, of_params = run(params, x, dy)
    return {"dx": dx, "dscale": of_params["scale"], "doffset": of_params["offset"]}


def mistakes(axis: str, other: str, over: str, that: str) -> tuple[Mistake, ...]:
    """What both norms have: the axis, the other one, the set over which means are, and what the
    other norm is called."""
    return (
        Mistake(
            "d - along_one - along_normal",
            "d - along_normal",
            f"dx lacks a projection, the mean of d = dy · scale {over}: a constant that is added "
            "to these x changes μ, and no y.",
        ),
        Mistake(
            "d - along_one - along_normal",
            "d - along_one",
            f"dx lacks a projection, x̂ times the mean of d · x̂ {over}: to stretch these x changes "
            "σ, and (but for ε) no y.",
        ),
        Mistake(
            "d - along_one - along_normal",
            "d",
            "dx lacks both projections: μ and σ are taken for constants, but they depend on x.",
        ),
        Mistake(
            "d - along_one",
            "d + along_one",
            "The mean of d is added: it is to be subtracted, as μ was from x.",
        ),
        Mistake(
            "- along_normal",
            "+ along_normal",
            "The part of d along x̂ is added: it is to be subtracted.",
        ),
        Mistake(
            "normal * (d * normal).mean(axis, keepdims=True)",
            "(d * normal).mean(axis, keepdims=True)",
            "The mean of d · x̂ is to be multiplied by x̂, the direction that is projected out.",
        ),
        Mistake(
            "normal * (d * normal).mean(axis, keepdims=True)",
            "normal * (d * normal).sum(axis, keepdims=True)",
            f"Along x̂ the mean of d · x̂ {over} is subtracted, and not the sum.",
        ),
        Mistake(
            "d.mean(axis, keepdims=True)",
            "d.sum(axis, keepdims=True)",
            f"The mean of d {over} is subtracted, and not the sum.",
        ),
        Mistake("dy * scale", "dy", "dx lacks the scale: what arrives at x̂ is dy · scale."),
        Mistake(
            ") / deviation\n    dscale",
            ")\n    dscale",
            "dx lacks the division by √(σ² + ε).",
        ),
        Mistake(
            ") / deviation\n    dscale",
            ") * deviation\n    dscale",
            "dx is multiplied by √(σ² + ε), where x̂ was divided by it.",
        ),
        Mistake(
            ") / deviation\n    dscale",
            ") / deviation**2\n    dscale",
            "dx is divided by σ² + ε, and not by its root.",
        ),
        Mistake(
            f"axis = {axis}",
            f"axis = {other}",
            f"μ and σ² are means {over}; yours are those of {that}.",
        ),
        Mistake(
            "x.var(axis, keepdims=True)",
            "x.var(axis, ddof=1, keepdims=True)",
            "σ² is the mean of the squares: it is divided by their number n, and not by n − 1.",
        ),
        Mistake(
            "np.sqrt(x.var(axis, keepdims=True) + 1e-5)",
            "np.sqrt(x.var(axis, keepdims=True))",
            "ε is missing in the root.",
        ),
        Mistake(
            "np.sqrt(x.var(axis, keepdims=True) + 1e-5)",
            "np.sqrt(x.var(axis, keepdims=True)) + 1e-5",
            "ε belongs into the root.",
        ),
        Mistake("(dy * normal).sum(axis=0)", "dy * normal", "dscale lacks the sum over the batch."),
        Mistake(
            "(dy * normal).sum(axis=0)",
            "(dy * x).sum(axis=0)",
            "The scale multiplies x̂, and not x: dscale sums dy · x̂.",
        ),
        Mistake(
            "(dy * normal).sum(axis=0)",
            "(d * normal).sum(axis=0)",
            "dscale is multiplied by the scale: it sums dy · x̂, with dy as it arrives.",
        ),
        Mistake(
            "(dy * normal).sum(axis=0)",
            "(dy * normal).mean(axis=0)",
            "dscale is a sum over the batch, and not a mean.",
        ),
        Mistake(
            "(dy * normal).sum(axis=0)",
            "(dy * normal).sum(axis=1)",
            "dscale has a number for each feature: sum over the batch, and not over the features.",
        ),
        Mistake(
            "dy.sum(axis=0)",
            "dy.sum(axis=1)",
            "doffset has a number for each feature: sum over the batch, and not over the features.",
        ),
        Mistake("dy.sum(axis=0)", "dy", "doffset lacks the sum over the batch."),
        Mistake(
            "dy.sum(axis=0)",
            "d.sum(axis=0)",
            "The offset is added behind the scale, which has no part in its gradient.",
        ),
        Mistake(
            "dy.sum(axis=0)", "dy.mean(axis=0)", "doffset is a sum over the batch, and not a mean."
        ),
    )


EXERCISES = (
    Exercise(
        "layer_norm",
        cases,
        of_example,
        mistakes("-1", "0", "over the features of an example", "batch normalisation"),
    ),
    Exercise(
        "batch_norm",
        cases,
        of_batch,
        mistakes("0", "-1", "over the batch", "layer normalisation"),
    ),
)
