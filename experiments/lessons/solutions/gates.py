"""AND, OR and NAND as perceptrons, and XOR as two layers of them."""

import numpy as np


def gate(x, w1, w2, b):
    """A perceptron: 1 where w1 x1 + w2 x2 + b > 0, else 0, for x [batch, 2]."""
    return np.where(x[:, 0] * w1 + x[:, 1] * w2 + b > 0, 1.0, 0.0)


def gates(x):
    """The four gates, each made of calls of gate(x, w1, w2, b) above.

    You choose the weights. No single gate is XOR, since no line separates its ones from its zeros:
    it is a gate of the outputs of other gates, np.stack([first, second], 1).

    Args:
        x: [4, 2], the inputs (0, 0), (0, 1), (1, 0) and (1, 1), in any order.

    Returns:
        y_and, y_or, y_nand, y_xor: [4] each, of 0 and 1.
    """
    y_and = gate(x, 1, 1, -1)
    y_or = gate(x, 1, 1, 0)
    y_nand = gate(x, -1, -1, 1.1)
    y_xor = gate(np.stack([y_or, y_nand], 1), 1, 1, -1)
    return y_and, y_or, y_nand, y_xor
