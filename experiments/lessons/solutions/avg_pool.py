"""The backward pass of average pooling."""

import numpy as np


def backward(dy):
    """Of y[b, i, j] = the mean of x[b, 2 i : 2 i + 2, 2 j : 2 j + 2], windows beside each other.

    Args:
        dy: The derivative of the loss by y, [batch, rows, columns].

    Returns:
        dx: [batch, 2 rows, 2 columns].
    """
    wide = np.repeat(np.repeat(dy, 2, axis=1), 2, axis=2)
    return wide / 4
