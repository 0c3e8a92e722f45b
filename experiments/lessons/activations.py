"""Activations: slopes, kinks, and what overflows."""

import numpy as np

from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def smooth_cases(random: np.random.Generator):
    """Some numbers."""
    for shape in ((3, 3), (2, 5)):
        yield {"x": 2 * random.normal(size=shape), "dy": random.normal(size=shape)}


def cases_with_zeros(random: np.random.Generator):
    """Some x are 0."""
    for case in smooth_cases(random):
        case["x"][:, 1] = 0
        yield case


def cases_with_large_numbers(random: np.random.Generator):
    """Some x are large."""
    for case in smooth_cases(random):
        case["x"][0, :2] = 1000, -1000
        yield case


def forward_and_back(function):
    """y and dx of a function of x."""
    return lambda x, dy: {"y": function(x), "dx": gradients(function, dy, x)[0]}


def back(function):
    """dx of a function of x."""
    return lambda x, dy: {"dx": gradients(function, dy, x)[0]}


NO_DELTA = "dy is missing: the chain rule multiplies the slope by what arrives from above."

EXERCISES = (
    Exercise(
        "sigmoid",
        smooth_cases,
        forward_and_back(functional.sigmoid),
        (
            Mistake("np.exp(-x)", "np.exp(x)", "y falls where x grows: look at the exponent."),
            Mistake("dy * y * (1 - y)", "y * (1 - y)", NO_DELTA),
            Mistake(
                "dy * y * (1 - y)",
                "dy * x * (1 - x)",
                "The slope is a function of the output y, and not of x in its place.",
            ),
            Mistake("dy * y * (1 - y)", "dy * (1 - y)", "The factor y of the slope is missing."),
            Mistake("(1 - y)", "(1 + y)", "The slope has the wrong sign in front of one y."),
            Mistake("dy * y * (1 - y)", "dy * (1 - y * y)", "That is the slope of tanh."),
            Mistake(
                "dy * y * (1 - y)",
                "dy / (1 + np.exp(-y)) / (1 + np.exp(y))",
                "y is the sigmoid of x already, of which you take the sigmoid once more.",
            ),
            Mistake("dy * y * (1 - y)", "dy * y", "The factor 1 − y of the slope is missing."),
        ),
    ),
    Exercise(
        "tanh",
        smooth_cases,
        back(functional.tanh),
        (
            Mistake("dy * (1 - y * y)", "1 - y * y", NO_DELTA),
            Mistake("1 - y * y", "1 - x * x", "The slope is a function of y, and not of x."),
            Mistake("1 - y * y", "1 - y", "The output has to be squared in the slope."),
            Mistake("1 - y * y", "1 + y * y", "The slope has the wrong sign in front of y²."),
            Mistake("(1 - y * y)", "y * (1 - y)", "That is the slope of the sigmoid."),
            Mistake("(1 - y * y)", "y", "dy is multiplied by the slope, not by the value."),
        ),
    ),
    Exercise(
        "softplus",
        cases_with_large_numbers,
        forward_and_back(functional.softplus),
        (
            Mistake(
                "np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))",
                "np.log(1 + np.exp(x))",
                "e¹⁰⁰⁰ is infinite. Take the larger of the two exponents, 0 and x, out of the "
                "logarithm: then no power is larger than 1.",
            ),
            Mistake(
                "(1 + np.tanh(x / 2)) / 2",
                "np.exp(x) / (1 + np.exp(x))",
                "The slope at 1000 becomes ∞ / ∞: divide numerator and denominator by eˣ.",
            ),
            Mistake("dy * slope", "slope", NO_DELTA),
            Mistake(
                "dy * slope",
                "dy * slope * (1 - slope)",
                "That is one derivative too many: the slope of softplus is the sigmoid itself.",
            ),
            Mistake("dy * slope", "dy * y", "dy is multiplied by the slope, not by the value."),
            Mistake("dy * slope", "dy * (1 - slope)", "That is the slope at −x."),
        ),
    ),
    Exercise(
        "relu",
        cases_with_zeros,
        back(functional.relu),
        (
            Mistake("x > 0, dy", "x >= 0, dy", "Look at the kink: at x = 0 the slope is 0."),
            Mistake("x > 0, dy", "x > 0, 1.0", NO_DELTA),
            Mistake("x > 0, dy", "x > 0, dy * x", "dy is multiplied by the slope, not by y."),
            Mistake(
                "x > 0, dy", "dy > 0, dy", "What is let through depends on the sign of x alone."
            ),
            Mistake(
                "x > 0, dy",
                "x > 0, np.maximum(dy, 0)",
                "A negative dy passes where x > 0: what is cut off is x, and not the derivative.",
            ),
            Mistake("dy, 0.0", "x, 0.0", "That is y: what is wanted is dy times the slope."),
            Mistake("dy, 0.0", "dy, dy", "All of dy is let through: where x < 0 the slope is 0."),
            Mistake("x > 0, dy", "x < 0, dy", "The wrong half is let through."),
            Mistake(
                "dy, 0.0",
                "dy, np.sign(x) * dy",
                "That is the slope of |x|: where x < 0, ReLU is flat, and nothing flows back.",
            ),
            Mistake(
                "dy, 0.0",
                "dy, np.where(x == 0, 0.5, 0) * dy",
                "Look at the kink: by convention the slope there is not ½, but 0.",
            ),
            Mistake(
                "dy, 0.0", "dy, 0.01 * dy", "That is a leaky ReLU: where x < 0 nothing passes."
            ),
        ),
    ),
    Exercise(
        "softmax",
        cases_with_large_numbers,
        forward_and_back(functional.softmax),
        (
            Mistake(
                "x - x.max(axis=1, keepdims=True)",
                "x",
                "e¹⁰⁰⁰ is infinite, and ∞ / ∞ no number: subtract the largest x of the row first.",
            ),
            Mistake(
                "np.exp(x - x.max(axis=1, keepdims=True))",
                "np.exp(x) - np.exp(x.max(axis=1, keepdims=True))",
                "The largest x is subtracted from the exponents, before the powers are taken.",
            ),
            Mistake(
                "x.max(axis=1, keepdims=True))\n    y = powers / powers.sum(axis=1, keepdims=True)",
                "x.max(axis=0, keepdims=True))\n    y = powers / powers.sum(axis=0, keepdims=True)",
                "Every row is to sum to 1, and not every column.",
            ),
            Mistake(
                "x.max(axis=1, keepdims=True))\n    y = powers / powers.sum(axis=1, keepdims=True)",
                "x.max())\n    y = powers / powers.sum()",
                "The powers are divided by the sum of their own row, and not of the whole batch.",
            ),
            Mistake(
                "x.max(axis=1, keepdims=True)",
                "x.max()",
                "Subtract the largest x of the row, and not of the batch: in other rows all powers "
                "may become 0.",
            ),
            Mistake(
                "y * (dy - (dy * y).sum(axis=1, keepdims=True))",
                "y * dy",
                "The second term of the Jacobian is missing, −y yᵀ: a larger xⱼ makes all other yᵢ "
                "smaller.",
            ),
            Mistake(
                "y * (dy - (dy * y).sum(axis=1, keepdims=True))",
                "y * (1 - y) * dy",
                "That is the diagonal of the Jacobian alone: yᵢ depends on the other xⱼ, too.",
            ),
            Mistake(
                "(dy * y).sum(axis=1, keepdims=True)",
                "dy.sum(axis=1, keepdims=True)",
                "In −y yᵀ dy the sum is of the products of y and dy.",
            ),
            Mistake(
                "(dy * y).sum(axis=1, keepdims=True)",
                "(dy * y).sum(axis=0, keepdims=True)",
                "The product yᵀ dy is one of a row with its own dy, a sum over the classes.",
            ),
            Mistake(
                "(dy * y).sum(axis=1, keepdims=True)",
                "(dy * y).sum()",
                "The product yᵀ dy is one number for each row, and not one for the batch.",
            ),
            Mistake("dy - (dy", "dy + (dy", "The second term of the Jacobian has a minus."),
            Mistake(
                "y * (dy - (dy * y).sum(axis=1, keepdims=True))",
                "dy - (dy * y).sum(axis=1, keepdims=True)",
                "The factor y in front of both terms of the Jacobian is missing.",
            ),
        ),
    ),
)
