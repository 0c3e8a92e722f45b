"""Backpropagation through time, of a recurrent layer."""

import numpy as np


def backward(x, h, weight, recurrent, dh):
    """Of h[t] = tanh(x[t] W + h[t − 1] U + b), where the h before the first time is 0.

    Go from the last time to the first. What arrives at h[t] is the dh[t] that is given, from the
    layers above, and what flows back from the time after. The same W, U and b are used at every
    time.

    Args:
        x: [batch, time, in].
        h: What the forward pass has computed, [batch, time, features].
        weight: W, [in, features].
        recurrent: U, [features, features].
        dh: The derivative of the loss by each h[t] as an output, [batch, time, features].

    Returns:
        dx, dweight, drecurrent, dbias: in the shapes of x, W, U and b, which is [features].
    """
    dx, dweight, drecurrent = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(recurrent)
    dbias, zeros = np.zeros(h.shape[-1]), np.zeros_like(h[:, 0])
    later = zeros
    for t in reversed(range(x.shape[1])):
        delta = (dh[:, t] + later) * (1 - h[:, t] ** 2)
        before = h[:, t - 1] if t > 0 else zeros
        dx[:, t] = delta @ weight.T
        dweight += x[:, t].T @ delta
        drecurrent += before.T @ delta
        dbias += delta.sum(axis=0)
        later = delta @ recurrent.T
    return dx, dweight, drecurrent, dbias
