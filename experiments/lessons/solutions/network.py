"""Two layers by hand: the gradients of all weights of a small network."""

import numpy as np


def sigmoid(u):
    """1 / (1 + e⁻ᵘ)."""
    return 1 / (1 + np.exp(-u))


def backward(x, t, weight1, bias1, weight2, bias2):
    """Of the loss l = mean over the batch of ½ Σ (y − t)², with

        h = sigmoid(x W1 + b1)        y = h W2 + b2.

    Go forward first. Then, from the loss: the delta at y; from it the gradients of W2 and b2, and
    what flows back to h; the delta before the sigmoid; from that the gradients of W1 and b1.

    Args:
        x: [batch, in].
        t: Targets [batch, out].
        weight1: W1, [in, hidden].
        bias1: b1, [hidden].
        weight2: W2, [hidden, out].
        bias2: b2, [out].

    Returns:
        dweight1, dbias1, dweight2, dbias2: each of the shape of its parameter.
    """
    h = sigmoid(x @ weight1 + bias1)
    y = h @ weight2 + bias2
    delta2 = (y - t) / len(x)
    dh = delta2 @ weight2.T
    delta1 = dh * h * (1 - h)
    return x.T @ delta1, delta1.sum(axis=0), h.T @ delta2, delta2.sum(axis=0)
