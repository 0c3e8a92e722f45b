"""A dense layer, and a network of two."""

import jax
import numpy as np

import jaxnn as nn
from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def layer_cases(random: np.random.Generator):
    """A batch, and what arrives from above."""
    for batch, m, n in ((3, 3, 3), (4, 5, 2)):
        sizes = {"x": (batch, m), "weight": (m, n), "dy": (batch, n)}
        yield {name: random.normal(size=size) for name, size in sizes.items()}


def layer(x, weight, dy):
    """As `jaxnn.dense` has it; no gradient depends on the bias."""
    bias = np.zeros(weight.shape[1])
    dx, dweight, dbias = gradients(functional.dense, dy, x, weight, bias)
    return {"dx": dx, "dweight": dweight, "dbias": dbias}


def network_cases(random: np.random.Generator):
    """A batch, targets and parameters."""
    for batch, m, hidden, n in ((3, 3, 3, 3), (4, 2, 5, 3)):
        sizes = {"x": (batch, m), "t": (batch, n)}
        sizes |= {"weight1": (m, hidden), "bias1": (hidden,), "weight2": (hidden, n), "bias2": (n,)}
        yield {name: random.normal(size=size) for name, size in sizes.items()}


def network(x, t, weight1, bias1, weight2, bias2):
    """As `jaxnn.backprop` has it of a `jaxnn.serial`."""
    layers = nn.serial(nn.dense(weight1.shape[1]), nn.sigmoid(), nn.dense(weight2.shape[1]))
    params = {"weight": weight1, "bias": bias1}, (), {"weight": weight2, "bias": bias2}
    gradient = jax.jit(nn.backprop(layers, nn.half_squared_error()))
    _, (first, _, second) = gradient(params, ((), (), ()), x, t)
    both = (("1", first), ("2", second))
    return {f"d{n}{at}": g[n] for at, g in both for n in ("weight", "bias")}


EXERCISES = (
    Exercise(
        "dense",
        layer_cases,
        layer,
        (
            Mistake(
                "dy @ weight.T",
                "dy @ weight",
                "dx goes back the way that x came, from outputs to inputs: W has to be transposed.",
            ),
            Mistake(
                "dy @ weight.T",
                "weight @ dy",
                "dx has the batch first, as dy has: dy stands on the left of the product.",
            ),
            Mistake(
                "x.T @ dy",
                "dy.T @ x",
                "dW is [in, out] as W is: what you have is [out, in], its transpose.",
            ),
            Mistake(
                "x.T @ dy",
                "x @ dy",
                "dW sums over the examples, which are the first axis of both: one of the two has "
                "to be transposed.",
            ),
            Mistake(
                "x.T @ dy",
                "x @ dy.T",
                "dW sums over the examples and is one matrix of [in, out]: that is a product of "
                "every example with every other.",
            ),
            Mistake(
                "x.T @ dy",
                "x.T @ dy / len(x)",
                "dW is a sum over the batch: the 1/batch of a mean is in dy already.",
            ),
            Mistake(
                "dy.sum(axis=0)",
                "dy",
                "b is added to every example: db lacks the sum over the batch.",
            ),
            Mistake(
                "dy.sum(axis=0)",
                "dy.sum(axis=1)",
                "db sums over the outputs: it is to be one number for each output, a sum over the "
                "batch.",
            ),
            Mistake(
                "dy.sum(axis=0)",
                "dy.sum()",
                "Every output has a bias of its own: db sums over the batch alone.",
            ),
            Mistake(
                "dy.sum(axis=0)",
                "dy.mean(axis=0)",
                "db is a sum over the batch: the 1/batch of a mean is in dy already.",
            ),
        ),
    ),
    Exercise(
        "network",
        network_cases,
        network,
        (
            Mistake(
                "(y - t) / len(x)",
                "y - t",
                "The 1/batch of the mean is missing in the delta at y, and so in all gradients.",
            ),
            Mistake(
                "(y - t) / len(x)",
                "(y - t) / y.size",
                "The mean is one over the examples alone: the outputs of an example are summed.",
            ),
            Mistake(
                "(y - t) / len(x)",
                "2 * (y - t) / len(x)",
                "The ½ of the loss takes the 2 of the square away.",
            ),
            Mistake(
                "(y - t) / len(x)",
                "(t - y) / len(x)",
                "All gradients have the wrong sign: the delta at y is that of y − t, by y.",
            ),
            Mistake(
                "dh * h * (1 - h)",
                "dh",
                "The slope of the sigmoid is missing on the way back to the first layer.",
            ),
            Mistake(
                "dh * h * (1 - h)",
                "dh * (1 - h * h)",
                "That is the slope of tanh; the hidden units are sigmoids.",
            ),
            Mistake(
                "dh * h * (1 - h)",
                "dh * h",
                "A factor of the sigmoid's slope is missing, h (1 − h).",
            ),
            Mistake(
                "delta2 @ weight2.T",
                "delta2 @ weight2",
                "The way back through the second layer needs W2 transposed.",
            ),
            Mistake(
                "h.T @ delta2",
                "delta2.T @ h",
                "dW2 is [hidden, out] as W2 is: what you have is its transpose.",
            ),
            Mistake(
                "x.T @ delta1",
                "delta1.T @ x",
                "dW1 is [in, hidden] as W1 is: what you have is its transpose.",
            ),
            Mistake(
                "h.T @ delta2",
                "x.T @ delta2",
                "What enters the second layer is h, and not x.",
            ),
            Mistake(
                "h.T @ delta2",
                "(x @ weight1 + bias1).T @ delta2",
                "What enters the second layer is h behind the sigmoid, and not what is before it.",
            ),
            Mistake("delta1.sum(axis=0)", "delta1", "db1 lacks the sum over the batch."),
            Mistake("delta2.sum(axis=0)", "delta2", "db2 lacks the sum over the batch."),
        ),
    ),
)
