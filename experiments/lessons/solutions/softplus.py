"""Softplus, for numbers of any size: forward and backward."""

import numpy as np


def softplus(x, dy):
    """y = log(1 + eˣ), and dx = dy · y' with y' = 1 / (1 + e⁻ˣ).

    Some x are ±1000, where eˣ is infinite or 0 in 64 bits; y is about 1000 there, or about 0.

    Args:
        x: An array of any shape.
        dy: The derivative of the loss by y, of the same shape.

    Returns:
        y, dx: both of the shape of x, all elements finite.
    """
    y = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    slope = (1 + np.tanh(x / 2)) / 2
    dx = dy * slope
    return y, dx
