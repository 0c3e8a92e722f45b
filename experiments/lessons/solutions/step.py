"""The step function of a perceptron, and what flows back through it."""

import numpy as np


def step(x, dy):
    """y = 1 where x > 0, else 0; and dx = dy · y'.

    The derivative at the jump, x = 0, is by convention the one on both sides of it.

    Args:
        x: An array of any shape.
        dy: The derivative of the loss by y, of the same shape.

    Returns:
        y, dx: both of the shape of x.
    """
    y = np.where(x > 0, 1.0, 0.0)
    dx = np.zeros_like(dy)
    return y, dx
