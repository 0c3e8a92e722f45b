"""Attention of one head."""

import numpy as np

from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def cases(random: np.random.Generator):
    """Queries, keys, values, and what arrives from above."""
    for batch, time, memory, depth, features in ((3, 3, 3, 3, 3), (2, 3, 5, 4, 2)):
        sizes = {"q": (batch, time, depth), "k": (batch, memory, depth)}
        sizes |= {"v": (batch, memory, features), "do": (batch, time, features)}
        yield {name: random.normal(size=size) for name, size in sizes.items()}


def results(q, k, v, do):
    """As `jaxnn.functional.attention` has it."""
    back = gradients(functional.attention, do, q, k, v)
    return dict(zip(("dq", "dk", "dv"), back, strict=True))


EXERCISES = (
    Exercise(
        "attention",
        cases,
        results,
        (
            Mistake(
                "p.swapaxes(1, 2) @ do",
                "p @ do",
                "dv sums over the queries: P has to be transposed.",
            ),
            Mistake(
                "do @ v.swapaxes(1, 2)",
                "do @ v",
                "The way back through o = P v needs v transposed.",
            ),
            Mistake(
                "p * (dp - (p * dp).sum(axis=2, keepdims=True))",
                "dp",
                "The softmax is left out on the way back, from dP to dS.",
            ),
            Mistake(
                "p * (dp - (p * dp).sum(axis=2, keepdims=True))",
                "p * dp",
                "The second term of the softmax's Jacobian is missing, −p pᵀ.",
            ),
            Mistake(
                "p * (dp - (p * dp).sum(axis=2, keepdims=True))",
                "p * (1 - p) * dp",
                "That is the diagonal of the softmax's Jacobian alone: every weight of a row "
                "depends on all scores of the row.",
            ),
            Mistake(
                "(p * dp).sum(axis=2, keepdims=True)",
                "(p * dp).sum(axis=1, keepdims=True)",
                "The sum in the softmax's Jacobian is over the keys of a query.",
            ),
            Mistake(
                "(p * dp).sum(axis=2, keepdims=True)",
                "dp.sum(axis=2, keepdims=True)",
                "In −p pᵀ dP the sum is of the products of P and dP.",
            ),
            Mistake(
                "ds @ k * scale",
                "ds @ k",
                "dq lacks the 1/√depth of the scores.",
            ),
            Mistake(
                "ds.swapaxes(1, 2) @ q * scale",
                "ds.swapaxes(1, 2) @ q",
                "dk lacks the 1/√depth of the scores.",
            ),
            Mistake(
                "ds.swapaxes(1, 2) @ q * scale",
                "ds @ q * scale",
                "dk sums over the queries: dS has to be transposed.",
            ),
            Mistake(
                "ds @ k * scale",
                "ds.swapaxes(1, 2) @ k * scale",
                "dq sums over the keys: dS is taken as it is, without a transpose.",
            ),
            Mistake(
                "scale = 1 / np.sqrt(q.shape[-1])",
                "scale = 1",
                "The scores are divided by √depth, on the way forward, too.",
            ),
            Mistake(
                "scale = 1 / np.sqrt(q.shape[-1])",
                "scale = 1 / q.shape[-1]",
                "The scores are divided by the root of the depth, and not by the depth.",
            ),
            Mistake(
                "s.max(axis=2, keepdims=True))\n    p = powers / powers.sum(axis=2, keepdims=True)",
                "s.max(axis=1, keepdims=True))\n    p = powers / powers.sum(axis=1, keepdims=True)",
                "The weights of a query sum to 1 over the keys; yours do over the queries.",
            ),
        ),
    ),
)
