"""An embedding, and dropout: what is picked out on the way forward gets what flows back."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import dropout, functional


def ids_cases(random: np.random.Generator):
    """Ids that repeat, and one that is not there."""
    for shape, vocabulary, features in (((5,), 5, 5), ((2, 4), 6, 3)):
        ids = random.integers(0, vocabulary - 1, shape)
        ids.flat[1] = ids.flat[0]
        yield {
            "ids": ids,
            "dy": random.normal(size=(*shape, features)),
            "vocabulary": vocabulary,
        }


def of_ids(ids, dy, vocabulary):
    """As `jaxnn.embedding` has it."""
    table = np.zeros((vocabulary, dy.shape[-1]))
    return {"dtable": gradients(lambda table: functional.embedding(ids, table), dy, table)[0]}


def noise_cases(random: np.random.Generator):
    """What a layer has kept, and what arrives from above."""
    for shape, rate in (((3, 3), 0.25), ((4, 5), 0.4)):
        kept, _ = thin(rate, np.ones(shape))
        yield {"kept": kept != 0, "rate": rate, "dy": random.normal(size=shape)}


def thin(rate: float, dy):
    """y of ones, and dx."""
    layer = dropout(rate)
    y, _, residuals = layer.forward((), (), jnp.ones_like(dy), jax.random.key(0))
    return y, layer.backward((), residuals, jnp.asarray(dy))[0]


def of_noise(kept, rate, dy):
    """As `jaxnn.dropout` has it."""
    return {"dx": thin(rate, dy)[1]}


EXERCISES = (
    Exercise(
        "embedding",
        ids_cases,
        of_ids,
        (
            Mistake(
                "np.add.at(dtable, ids, dy)",
                "dtable[ids] += dy",
                "Look at an id that repeats: its row is to add up what flows back from each use. "
                "dtable[ids] = … and dtable[ids] += … with an array of ids keep the last alone; "
                "np.add.at adds them all, and so does a loop.",
            ),
            Mistake(
                "np.add.at(dtable, ids, dy)",
                "np.add.at(dtable, ids, dy)\n"
                "    count = np.bincount(ids.ravel(), minlength=vocabulary)\n"
                "    dtable /= np.maximum(count, 1)[:, None]",
                "What flows back to a row that is used several times is a sum, and not a mean.",
            ),
            Mistake(
                "return dtable",
                "return dy",
                "dtable has a row for each id of the vocabulary, and not for each position.",
            ),
            Mistake(
                "np.add.at(dtable, ids, dy)",
                "np.add.at(dtable, ids, 1)",
                "dy is missing: you count how often each id is used.",
            ),
            Mistake(
                "np.add.at(dtable, ids, dy)",
                "np.add.at(dtable, ids, dy / ids.size)",
                "No mean is taken of the positions: what is in dy is all there is to add.",
            ),
        ),
    ),
    Exercise(
        "dropout",
        noise_cases,
        of_noise,
        (
            Mistake(
                "dy / (1 - rate)",
                "dy",
                "dx lacks the factor by which the forward pass has enlarged what it kept.",
            ),
            Mistake(
                "dy / (1 - rate)",
                "dy * (1 - rate)",
                "What is kept is enlarged, on the way back as on the way forward: divide.",
            ),
            Mistake(
                "dy / (1 - rate)",
                "dy / rate",
                "rate is the probability to be dropped, and not the one to be kept.",
            ),
            Mistake(
                "np.where(kept, dy / (1 - rate), 0)",
                "dy / (1 - rate)",
                "What was dropped has no part in y: nothing flows back to it.",
            ),
            Mistake(
                "np.where(kept, dy / (1 - rate), 0)",
                "dy",
                "dx depends on what the forward pass has drawn: dy is not let through as it is.",
            ),
            Mistake("np.where(kept", "np.where(~kept", "The wrong ones are let through."),
            Mistake(
                "kept, dy / (1 - rate), 0",
                "kept, 1 / (1 - rate), 0",
                "dy is missing: the chain rule multiplies the slope by what arrives from above.",
            ),
        ),
    ),
)
