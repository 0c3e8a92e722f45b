"""One step back through the cell of an LSTM."""

import numpy as np


def backward(i, f, g, o, before, dh, dc):
    """Of the gates i, f, o = σ(u_i), σ(u_f), σ(u_o), the candidate g = tanh(u_g), and

        c = f · c₀ + i · g        h = o · tanh(c).

    h goes to the layers above and to the next time, c to the next time: dh and dc arrive from
    there. c has a part in h, too. What is wanted are the deltas in front of the sigmoids and of the
    tanh, and what flows back to c₀.

    Args:
        i, f, g, o: What the forward pass has computed, [batch, features] each.
        before: c₀, the c of the time before, [batch, features].
        dh: The derivative of the loss by h.
        dc: The derivative of the loss by c, but for the way through h.

    Returns:
        du_i, du_f, du_g, du_o, dbefore: [batch, features] each.
    """
    tanh_c = np.tanh(f * before + i * g)
    at_c = dc + dh * o * (1 - tanh_c**2)
    du_i = at_c * g * i * (1 - i)
    du_f = at_c * before * f * (1 - f)
    du_g = at_c * i * (1 - g**2)
    du_o = dh * tanh_c * o * (1 - o)
    dbefore = at_c * f
    return du_i, du_f, du_g, du_o, dbefore
