"""The sigmoid: forward, and its slope written in terms of its output."""

import numpy as np


def sigmoid(x, dy):
    """y = 1 / (1 + e⁻ˣ), and dx = dy · y' with y' = y (1 − y).

    Args:
        x: An array of any shape.
        dy: The derivative of the loss by y, of the same shape.

    Returns:
        y, dx: both of the shape of x.
    """
    y = 1 / (1 + np.exp(-x))
    dx = dy * y * (1 - y)
    return y, dx
