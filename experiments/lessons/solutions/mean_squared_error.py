"""The mean squared error and its gradient, with the 1/N."""

import numpy as np


def mean_squared_error(y, t):
    """l = (1/N) Σ (y − t)² over all N elements, those of every example; and ∂l/∂y.

    Args:
        y: Predictions [batch, outputs].
        t: Targets, of the same shape.

    Returns:
        l, dy: one number, and an array of the shape of y.
    """
    error = y - t
    loss = np.mean(error**2)
    dy = 2 * error / y.size
    return loss, dy
