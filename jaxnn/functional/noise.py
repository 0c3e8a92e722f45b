"""Noise in training, from a key that is given."""

from collections.abc import Callable
from typing import Any

from jaxnn.functional.arrays import floats, run
from jaxnn.functional.making import function_of
from jaxnn.layers import dropout as of_dropout


def _dropout(make: Callable, x: Any, key: Any):
    """``x`` has any shape; with ``spatial``, [batch, *positions, channels].

    Args:
        x: An array.
        key: The random key.
        rate: The share that is set to 0.
        spatial: Whether whole channels are.
    """
    return run(make(), (), floats("dropout", "x", x, "[*axes]"), key)


dropout = function_of(of_dropout.dropout, _dropout)
