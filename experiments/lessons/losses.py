"""Losses, averaged over a batch, and their gradients by the prediction."""

import jax
import numpy as np

from experiments.lessons.exercise import Exercise, Mistake
from jaxnn import mean_squared_error, softmax_cross_entropy


def regression_cases(random: np.random.Generator):
    """Predictions and targets."""
    for shape in ((3, 3), (4, 2)):
        yield {"y": random.normal(size=shape), "t": random.normal(size=shape)}


def classification_cases(random: np.random.Generator):
    """In the last example the label's own logit is far below the largest."""
    for batch, classes in ((3, 3), (4, 5)):
        z = 2 * random.normal(size=(batch, classes))
        labels = random.integers(classes, size=batch)
        labels[:2] = 0, 2
        z[-1, (labels[-1] + 1) % classes] = 1000
        yield {"z": z, "labels": labels}


def of_batch(loss, gradient_name):
    """Value and gradient of the mean of a loss of jaxnn, which is one for each example."""

    def results(prediction, target):
        @jax.jit
        def run(y):
            return loss.value(y, target).mean(), loss.gradient(y, target) / len(y)

        value, gradient = run(prediction)
        return {"l": value, gradient_name: gradient}

    return results


def of_labels(z, labels):
    """As `jaxnn.softmax_cross_entropy` has it."""
    return of_batch(softmax_cross_entropy(), "dz")(z, labels)


def of_numbers(y, t):
    """As `jaxnn.mean_squared_error` has it."""
    return of_batch(mean_squared_error(), "dy")(y, t)


EXERCISES = (
    Exercise(
        "mean_squared_error",
        regression_cases,
        of_numbers,
        (
            Mistake("error / y.size", "error", "The gradient lacks the 1/N of the mean."),
            Mistake("2 * error", "error", "The derivative of a square has a 2."),
            Mistake(
                "error / y.size",
                "error / len(y)",
                "The gradient is divided by the size of the batch: N counts the outputs, too.",
            ),
            Mistake(
                "dy = 2",
                "dy = -2",
                "The sign is that of the derivative by the target: it grows with y where y > t.",
            ),
            Mistake("np.mean(error**2)", "np.sum(error**2)", "The loss lacks the 1/N of the mean."),
            Mistake("np.mean(error**2)", "np.mean(error**2) / 2", "There is no ½ in this loss."),
            Mistake(
                "np.mean(error**2)",
                "np.sum(error**2) / len(y)",
                "The loss is divided by the size of the batch: N counts the outputs, too.",
            ),
            Mistake("np.mean(error**2)", "np.mean(np.abs(error))", "The errors are to be squared."),
            Mistake(
                "np.mean(error**2)",
                "np.sqrt(np.mean(error**2))",
                "That is the root of the mean squared error.",
            ),
        ),
    ),
    Exercise(
        "cross_entropy",
        classification_cases,
        of_labels,
        (
            Mistake(
                "delta / batch",
                "delta",
                "The gradient lacks the 1/batch: the loss is a mean over the examples.",
            ),
            Mistake(
                "delta / batch",
                "delta / z.size",
                "The mean is one over the examples alone: the classes of an example are summed.",
            ),
            Mistake(
                "np.exp(logp) - t",
                "np.exp(logp)",
                "The gradient lacks the target: at the label something is subtracted from p.",
            ),
            Mistake(
                "np.exp(logp) - t",
                "-t",
                "The gradient lacks p: every logit is in the sum of the powers.",
            ),
            Mistake(
                "np.exp(logp) - t",
                "t - np.exp(logp)",
                "The gradient has the wrong sign: where the label's logit grows, the loss falls.",
            ),
            Mistake(
                "np.exp(logp) - t",
                "z - t",
                "The target is subtracted from the probabilities, and not from the logits.",
            ),
            Mistake(
                "logp) / batch",
                "logp)",
                "The loss lacks the 1/batch of the mean.",
            ),
            Mistake(
                "-np.sum(t * logp) / batch",
                "-np.mean(t * logp)",
                "The mean is one over the examples alone: divide by the batch, not by more.",
            ),
            Mistake(
                "-np.sum(t * logp)",
                "np.sum(t * logp)",
                "The loss has the wrong sign: the logarithm of a probability is negative.",
            ),
            Mistake(
                "z.max(axis=1, keepdims=True)",
                "z.max()",
                "Subtract the largest logit of the row, and not of the batch: in other rows all "
                "powers may become 0.",
            ),
            Mistake(
                "shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))",
                "np.log(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))",
                "e¹⁰⁰⁰ is infinite, and ∞ / ∞ no number: subtract the row's largest logit first.",
            ),
            Mistake(
                "-np.sum(t * logp)",
                "-np.sum(t * np.log(np.exp(logp)))",
                "Where p is 0 in 64 bits, its logarithm is −∞: write the logarithm of the softmax "
                "out, as a difference, before any power is rounded to 0.",
            ),
            Mistake(
                "-np.sum(t * logp)",
                "-np.sum(t * np.log(np.exp(logp) + 1e-7))",
                "A small constant in the logarithm hides how wrong an example is: write the "
                "logarithm of the softmax out, as a difference.",
            ),
            Mistake(
                "t[np.arange(batch), labels] = 1",
                "t[:, labels] = 1",
                "t[:, labels] marks the labels of the whole batch in every row: each row has one.",
            ),
            Mistake(
                "-np.sum(t * logp)",
                "-np.sum(logp)",
                "The loss is of the label's probability alone, and not of all classes.",
            ),
        ),
    ),
)
