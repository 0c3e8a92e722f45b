"""Text that comes with Python itself, as the characters of a language model."""

import importlib
from typing import NamedTuple

import numpy as np

from jaxnn.core.validation import require_number, require_positive_integer


class Text(NamedTuple):
    """A text cut into windows; the target of every character is the one behind it."""

    x: np.ndarray
    """int32 [windows, length], ids of ``alphabet``."""
    target: np.ndarray
    """int32 [windows, length]."""
    alphabet: str
    """The characters by id."""

    def decode(self, ids: np.ndarray) -> str:
        """The characters of a row of ids."""
        return "".join(self.alphabet[i] for i in ids)


def python_topics(length: int = 128, held_out: float = 0.05) -> tuple[Text, Text]:
    """The reference topics of Python's help(), some 450,000 characters: for training, and held out.

    Args:
        length: The characters of one window; windows do not overlap.
        held_out: The share at the end of the text that is kept for the test.
    """
    require_positive_integer("python_topics", "length", length)
    require_number("python_topics", "held_out", held_out, minimum=0, maximum=0.5, open_minimum=True)
    topics = importlib.import_module("pydoc_data.topics").topics
    text = "".join(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(set(text)))
    ids = np.array([alphabet.index(c) for c in text], np.int32)
    cut = round(len(ids) * (1 - held_out))
    if len(ids) - cut <= length:
        raise ValueError(
            f"python_topics: expected length to be below the {len(ids) - cut} characters held out, "
            f"got {length}"
        )
    first, second = (_windows(part, length, alphabet) for part in (ids[:cut], ids[cut:]))
    return first, second


def _windows(ids: np.ndarray, length: int, alphabet: str) -> Text:
    count = (len(ids) - 1) // length
    x, target = (ids[i : i + count * length].reshape(count, length) for i in (0, 1))
    return Text(x, target, alphabet)
