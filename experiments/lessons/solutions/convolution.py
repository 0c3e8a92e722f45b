"""The backward pass of a convolution along one axis."""

import numpy as np


def backward(x, weight, dy):
    """Of y[t] = Σ_a x[t + a] W[a] + b, where x[t + a] W[a] is a product of a row and a matrix.

    Every x[t] is in up to k of the windows, and W and b are used at every t: what flows back from
    each of these uses is summed.

    Args:
        x: [batch, time, in].
        weight: W, [k, in, out].
        dy: The derivative of the loss by y, [batch, time − k + 1, out].

    Returns:
        dx, dweight, dbias: [batch, time, in], [k, in, out] and [out].
    """
    k = len(weight)
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for t in range(dy.shape[1]):
        for a in range(k):
            dx[:, t + a] += dy[:, t] @ weight[a].T
            dweight[a] += x[:, t + a].T @ dy[:, t]
    dbias = dy.sum(axis=(0, 1))
    return dx, dweight, dbias
