"""The backward pass of ReLU, with its kink."""

import numpy as np


def backward(x, dy):
    """What flows back through y = max(0, x): dx = dy where x > 0, else 0.

    At the kink, x = 0, the slope is by convention 0. Some x are 0.

    Args:
        x: An array of any shape.
        dy: The derivative of the loss by y, of the same shape.

    Returns:
        dx: of the shape of x.
    """
    return np.where(x > 0, dy, 0.0)
