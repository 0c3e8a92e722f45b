"""Softmax: every row forward, and the product with its Jacobian."""

import numpy as np


def softmax(x, dy):
    """yᵢ = e^(xᵢ − c) / Σₖ e^(xₖ − c) in every row of x, with c the largest of the row.

    The shift by c changes nothing but that no power overflows. The derivative of yᵢ by xⱼ is
    yᵢ (1 − yᵢ) where i = j, else −yᵢ yⱼ: the Jacobian is diag(y) − y yᵀ. dx is its product with dy,
    which needs no matrix.

    Args:
        x: [batch, classes].
        dy: The derivative of the loss by y, of the same shape.

    Returns:
        y, dx: both of the shape of x.
    """
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    y = powers / powers.sum(axis=1, keepdims=True)
    dx = y * (dy - (dy * y).sum(axis=1, keepdims=True))
    return y, dx
