"""Pooling by 2 × 2 windows of one channel."""

import numpy as np

from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def maximum_cases(random: np.random.Generator):
    """Of few different numbers, so that many are as large as others of their window."""
    for batch, rows, columns in ((2, 2, 2), (3, 2, 4)):
        x = random.integers(0, 3, (batch, 2 * rows, 2 * columns)).astype(float)
        yield {"x": x, "dy": random.normal(size=(batch, rows, columns))}


def mean_cases(random: np.random.Generator):
    """What arrives from above."""
    for shape in ((2, 2, 2), (3, 2, 4)):
        yield {"dy": random.normal(size=shape)}


def maximum(x, dy):
    """As `jaxnn.max_pool` has it."""
    dx = gradients(lambda x: functional.max_pool(x, 2), dy[..., None], x[..., None])[0]
    return {"dx": dx[..., 0]}


def mean(dy):
    """As `jaxnn.avg_pool` has it, of which no gradient depends on x."""
    x = np.zeros((len(dy), 2 * dy.shape[1], 2 * dy.shape[2], 1))
    return {"dx": gradients(lambda x: functional.avg_pool(x, 2), dy[..., None], x)[0][..., 0]}


EXERCISES = (
    Exercise(
        "max_pool",
        maximum_cases,
        maximum,
        (
            Mistake(
                "part[examples, first] = dy[:, i, j]",
                "part += (window == window.max(axis=1)[:, None]) * dy[:, i, j, None]",
                "Look at ties: where several elements are the largest, the first alone gets dy.",
            ),
            Mistake(
                "part[examples, first] = dy[:, i, j]",
                "tie = window == window.max(axis=1)[:, None]\n"
                "            part += tie * dy[:, i, j, None] / tie.sum(axis=1)[:, None]",
                "Look at ties: dy is not divided among the largest, the first alone gets it.",
            ),
            Mistake(
                "window.argmax(axis=1)",
                "3 - window[:, ::-1].argmax(axis=1)",
                "Look at ties: it is the first of the largest that gets dy, and not the last.",
            ),
            Mistake(
                "window.argmax(axis=1)",
                "np.array([0, 2, 1, 3])[window[:, [0, 2, 1, 3]].argmax(axis=1)]",
                "Look at ties: first means along the rows, and not along the columns.",
            ),
            Mistake(
                "window.argmax(axis=1)",
                "window.argmin(axis=1)",
                "dy goes to the largest element of the window, and not to the smallest.",
            ),
            Mistake(
                "part[examples, first] = dy[:, i, j]",
                "part[:, :] = dy[:, i, j, None]",
                "The elements that were not the largest get 0: they have no part in y.",
            ),
            Mistake(
                "part[examples, first] = dy[:, i, j]",
                "part[:, :] = dy[:, i, j, None] / 4",
                "That is the backward pass of the mean.",
            ),
            Mistake(
                "part[examples, first] = dy[:, i, j]",
                "part[examples, first] = dy[:, i, j] * window.max(axis=1)",
                "dy is not multiplied by the maximum: the slope of the largest element is 1.",
            ),
        ),
    ),
    Exercise(
        "avg_pool",
        mean_cases,
        mean,
        (
            Mistake("wide / 4", "wide", "Every element has a part of ¼ in the mean of four."),
            Mistake("wide / 4", "wide / 2", "A window has 2 × 2 elements, and not 2."),
            Mistake("wide / 4", "wide * 4", "The four elements share dy: each gets a part of it."),
            Mistake(
                "np.repeat(np.repeat(dy, 2, axis=1), 2, axis=2)",
                "np.tile(dy, (1, 2, 2))",
                "The four elements of a window lie beside each other: every dy is repeated in its "
                "place, and not the whole image behind itself.",
            ),
            Mistake(
                "return wide / 4",
                "dx = np.zeros_like(wide)\n    dx[:, ::2, ::2] = dy\n    return dx",
                "All four elements of a window have a part in its mean, and not the first alone.",
            ),
            Mistake(
                "return wide / 4",
                "return dy / 4",
                "dx has the shape of x: every dy goes to the four elements of its window.",
            ),
        ),
    ),
)
