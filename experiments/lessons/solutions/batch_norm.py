"""The backward pass of batch normalisation, with the mean terms."""

import numpy as np


def backward(x, scale, dy):
    """Of y = scale · x̂ + offset, with x̂ = (x − μ) / √(σ² + ε) and ε = 10⁻⁵.

    μ and σ² (the mean of the squares of x − μ) are those of a feature, over the batch.
    They depend on every one of these x: by the chain rule there are three ways from x to y, one
    through each of x, μ and σ². Written out, two of them become a mean each.

    Args:
        x: [batch, features].
        scale: [features].
        dy: The derivative of the loss by y, [batch, features].

    Returns:
        dx, dscale, doffset: [batch, features], [features] and [features].
    """
    axis = 0
    deviation = np.sqrt(x.var(axis, keepdims=True) + 1e-5)
    normal = (x - x.mean(axis, keepdims=True)) / deviation
    d = dy * scale
    along_one = d.mean(axis, keepdims=True)
    along_normal = normal * (d * normal).mean(axis, keepdims=True)
    dx = (d - along_one - along_normal) / deviation
    dscale = (dy * normal).sum(axis=0)
    doffset = dy.sum(axis=0)
    return dx, dscale, doffset
