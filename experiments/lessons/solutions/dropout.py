"""The backward pass of dropout."""

import numpy as np


def backward(kept, rate, dy):
    """Of y = x / (1 − rate) where it is kept, else 0: the forward pass has drawn which are.

    Args:
        kept: Booleans of any shape, as they were drawn.
        rate: The probability to be dropped, a number.
        dy: The derivative of the loss by y, of the shape of kept.

    Returns:
        dx: of the shape of kept.
    """
    return np.where(kept, dy / (1 - rate), 0)
