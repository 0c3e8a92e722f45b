"""The backward pass of maximum pooling, with its ties."""

import numpy as np


def backward(x, dy):
    """Of y[b, i, j] = the largest of x[b, 2 i : 2 i + 2, 2 j : 2 j + 2], windows beside each other.

    dy goes to the element that was the largest, and the others get 0. Where several are, it goes to
    the first of them alone, in the order of reading: along the rows, from above.

    Args:
        x: [batch, 2 rows, 2 columns].
        dy: The derivative of the loss by y, [batch, rows, columns].

    Returns:
        dx: of the shape of x.
    """
    dx, examples = np.zeros_like(x), np.arange(len(x))
    for i in range(dy.shape[1]):
        for j in range(dy.shape[2]):
            window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1, 4)
            first = window.argmax(axis=1)
            part = np.zeros_like(window)
            part[examples, first] = dy[:, i, j]
            dx[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = part.reshape(-1, 2, 2)
    return dx
