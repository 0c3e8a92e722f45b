"""The backward pass of attention: queries, keys and values."""

import numpy as np


def backward(q, k, v, do):
    """Of o = P v, with P = softmax(S), every row by itself, and S = q kᵀ / √depth.

    Back through the product first, to P and v; then through the softmax, whose Jacobian is
    diag(p) − p pᵀ for each row p of P; then through the other product, to q and k.

    Args:
        q: Queries [batch, time, depth].
        k: Keys [batch, memory, depth].
        v: Values [batch, memory, features].
        do: The derivative of the loss by o, [batch, time, features].

    Returns:
        dq, dk, dv: in the shapes of q, k and v.
    """
    scale = 1 / np.sqrt(q.shape[-1])
    s = q @ k.swapaxes(1, 2) * scale
    powers = np.exp(s - s.max(axis=2, keepdims=True))
    p = powers / powers.sum(axis=2, keepdims=True)
    dv = p.swapaxes(1, 2) @ do
    dp = do @ v.swapaxes(1, 2)
    ds = p * (dp - (p * dp).sum(axis=2, keepdims=True))
    dq = ds @ k * scale
    dk = ds.swapaxes(1, 2) @ q * scale
    return dq, dk, dv
