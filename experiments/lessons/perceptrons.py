"""The step function, and gates of it."""

import numpy as np

from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def step_cases(random: np.random.Generator):
    """Some x are 0."""
    for shape in ((3, 3), (2, 5)):
        x = random.normal(size=shape)
        x[0, :2] = 0
        yield {"x": x, "dy": random.normal(size=shape)}


def step(x, dy):
    """As the layer has it."""
    return {"y": functional.heaviside(x), "dx": gradients(functional.heaviside, dy, x)[0]}


def gates_cases(random: np.random.Generator):
    """The table in two orders."""
    table = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    yield {"x": table}
    yield {"x": table[random.permutation(4)]}


def gates(x):
    """Networks of steps: NAND's threshold lies at 1.1, since step(0) is 0."""

    def layer(x, weight, bias):
        return functional.heaviside(functional.dense(x, np.array(weight), np.array(bias)))

    of_x = [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0]], [-1.0, 0.0, 1.1]
    y_and, y_or, y_nand = layer(x, *of_x).T
    y_xor = layer(np.stack([y_or, y_nand], 1), [[1.0], [1.0]], [-1.0])[:, 0]
    return {"y_and": y_and, "y_or": y_or, "y_nand": y_nand, "y_xor": y_xor}


EXERCISES = (
    Exercise(
        "step",
        step_cases,
        step,
        (
            Mistake("x > 0", "x >= 0", "Look at x = 0: the step comes behind it."),
            Mistake("1.0, 0.0", "1.0, -1.0", "Below the threshold the output is 0 and not −1."),
            Mistake(
                "np.zeros_like(dy)",
                "dy.copy()",
                "The function is flat on both sides of its jump: what is its slope there? To let "
                "dy through as it is, is the straight-through estimator and not the derivative.",
            ),
            Mistake(
                "np.zeros_like(dy)",
                "dy * y",
                "dy is multiplied by the slope of the function, not by its value.",
            ),
        ),
    ),
    Exercise(
        "gates",
        gates_cases,
        gates,
        (
            Mistake(
                "gate(x, 1, 1, -1)\n    y_or",
                "gate(x, 1, 1, -0.5)\n    y_or",
                "AND: one input of 1 alone passes the threshold already. The bias is too large.",
            ),
            Mistake(
                "gate(x, 1, 1, -1)\n    y_or",
                "gate(x, 1, 1, -2)\n    y_or",
                "AND: two inputs of 1 only reach the threshold, and 0 > 0 is false.",
            ),
            Mistake(
                "gate(x, 1, 1, 0)",
                "gate(x, 1, 1, 0.5)",
                "OR: without any input the bias alone passes the threshold.",
            ),
            Mistake(
                "gate(x, 1, 1, 0)",
                "gate(x, 1, 1, -1)",
                "OR: one input of 1 has to be enough to pass the threshold.",
            ),
            Mistake(
                "gate(x, -1, -1, 1.1)",
                "gate(x, -1, -1, 1)",
                "NAND: with one input of 1 the sum is exactly 0, and 0 > 0 is false: the bias has "
                "to be a little more than that.",
            ),
            Mistake(
                "gate(x, -1, -1, 1.1)",
                "gate(x, -1, -1, 2.1)",
                "NAND: the bias outweighs both inputs together, and the output never is 0.",
            ),
            Mistake(
                "gate(np.stack([y_or, y_nand], 1), 1, 1, -1)",
                "y_or",
                "XOR: (1, 1) gives 0. No single gate does that and gives 1 for (0, 1) and (1, 0).",
            ),
            Mistake(
                "[y_or, y_nand], 1), 1, 1, -1",
                "[y_or, y_nand], 1), 1, 1, 0",
                "XOR: of its two inputs both must be 1: the second layer is an AND.",
            ),
            Mistake(
                "[y_or, y_nand]",
                "[y_and, y_nand]",
                "XOR: AND and NAND are never 1 together. Which gate is 1 where an input is?",
            ),
        ),
    ),
)
