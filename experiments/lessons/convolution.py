"""A convolution: the notes' example forward, and a sequence backward."""

import jax
import numpy as np

import jaxnn as nn
from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def image_cases(random: np.random.Generator):
    """The notes' example, and an image of other sizes."""
    from experiments.gallery.convolution import BIASES, CHANNELS, KERNELS  # which draws, too

    yield {
        "x": np.moveaxis(np.array(CHANNELS, float), 0, -1),
        "weight": np.transpose(np.array(KERNELS, float), (2, 3, 1, 0)),
        "bias": np.array(BIASES),
    }
    sizes = {"x": (7, 5, 2), "weight": (3, 3, 2, 4), "bias": (4,)}
    yield {name: random.normal(size=size) for name, size in sizes.items()}


def image(x, weight, bias):
    """As `jaxnn.conv` has it."""
    layer = nn.conv(len(bias), (3, 3), strides=2, padding=1)
    y = jax.jit(layer.predict)({"weight": weight, "bias": bias}, (), x[None])
    return {"y": y[0]}


def sequence_cases(random: np.random.Generator):
    """Sequences, and what arrives from above."""
    for batch, time, k, m, n in ((3, 5, 3, 3, 3), (2, 6, 2, 4, 3)):
        sizes = {"x": (batch, time, m), "weight": (k, m, n), "dy": (batch, time - k + 1, n)}
        yield {name: random.normal(size=size) for name, size in sizes.items()}


def sequence(x, weight, dy):
    """As `jaxnn.conv` has it; no gradient depends on the bias."""

    def convolve(x, weight, bias):
        return functional.conv(x, weight, bias, padding="VALID")

    dx, dweight, dbias = gradients(convolve, dy, x, weight, np.zeros(weight.shape[-1]))
    return {"dx": dx, "dweight": dweight, "dbias": dbias}


EXERCISES = (
    Exercise(
        "cells",
        image_cases,
        image,
        (
            Mistake(
                "np.pad(x, ((1, 1), (1, 1), (0, 0)))",
                "x",
                "The image has to be padded by a zero on every side first.",
            ),
            Mistake("stride = 2", "stride = 1", "The window moves by two cells at a time."),
            Mistake(
                "np.tensordot(patch, weight, 3) + bias",
                "np.tensordot(patch, weight, 3)",
                "The bias of each kernel is missing.",
            ),
            Mistake(
                "np.tensordot(patch, weight, 3) + bias",
                "np.tensordot(patch, weight, 3) + bias * x.shape[-1]",
                "The bias is added once for each kernel, and not for every channel.",
            ),
            Mistake(
                "np.tensordot(patch, weight, 3)",
                "np.tensordot(patch, weight[::-1, ::-1], 3)",
                "The kernel is not turned round: its first corner meets the first of the patch.",
            ),
            Mistake(
                "np.tensordot(patch, weight, 3)",
                "np.tensordot(patch, weight.swapaxes(0, 1), 3)",
                "Rows and columns of the kernel (or of the patch) are exchanged.",
            ),
            Mistake(
                "np.tensordot(patch, weight, 3)",
                "np.tensordot(patch[..., 0], weight[:, :, 0], 2)",
                "That is the first channel alone: a cell sums over all channels.",
            ),
            Mistake(
                "np.tensordot(patch, weight, 3)",
                "np.tensordot(patch, weight, 3) / patch.size",
                "A cell is the sum of its products, and not their mean.",
            ),
        ),
    ),
    Exercise(
        "convolution",
        sequence_cases,
        sequence,
        (
            Mistake(
                "dx[:, t + a] +=",
                "dx[:, t + a] =",
                "Windows overlap: dx has to add up what flows back from each of them.",
            ),
            Mistake(
                "dweight[a] +=",
                "dweight[a] =",
                "W is used at every time: dW has to add up what each of them gives, and keeps the "
                "last alone.",
            ),
            Mistake(
                "dy[:, t] @ weight[a].T",
                "dy[:, t] @ weight[a]",
                "The way back goes from outputs to inputs: W[a] has to be transposed.",
            ),
            Mistake(
                "dy[:, t] @ weight[a].T",
                "dy[:, t] @ weight[k - 1 - a].T",
                "The kernel is turned round: x[t + a] met W[a] on the way forward.",
            ),
            Mistake(
                "x[:, t + a].T @ dy[:, t]",
                "x[:, t + k - 1 - a].T @ dy[:, t]",
                "dW is turned round along the kernel: W[a] met x[t + a] on the way forward.",
            ),
            Mistake(
                "x[:, t + a].T @ dy[:, t]",
                "x[:, t].T @ dy[:, t]",
                "W[a] meets x[t + a], and not x[t]: the place in the window is missing in dW.",
            ),
            Mistake(
                "x[:, t + a].T @ dy[:, t]",
                "(x[:, t + a].T @ dy[:, t]).T",
                "dW[a] is [in, out] as W[a] is: what you have is its transpose.",
            ),
            Mistake(
                "x[:, t + a].T @ dy[:, t]",
                "x[:, t + a].T @ dy[:, t] / dy.shape[1]",
                "dW is a sum over the times, and not their mean.",
            ),
            Mistake(
                "dy.sum(axis=(0, 1))",
                "dy.sum(axis=0)",
                "b is added at every time: db lacks the sum over the times.",
            ),
            Mistake(
                "dy.sum(axis=(0, 1))",
                "dy.sum(axis=1)",
                "b is added to every example: db lacks the sum over the batch.",
            ),
            Mistake(
                "dy.sum(axis=(0, 1))",
                "dy.sum()",
                "Every output has a bias of its own: db sums over batch and times alone.",
            ),
        ),
    ),
)
