"""The other cells of the convolution example, of two kernels."""

import numpy as np


def cells(x, weight, bias):
    """A convolution with zero padding of 1 on every side and a stride of 2,

        y[i, j, o] = Σ_a Σ_b Σ_c padded[2 i + a, 2 j + b, c] W[a, b, c, o] + b[o].

    In the example x is 5 × 5 × 3 and there are two kernels of 3 × 3 × 3, so that y is 3 × 3 × 2.
    Its first cell is, channel by channel, −2 + 0 + 1, and with the bias 1 it is 0. Compute the
    others, by loops over the cells. A second image has other sizes: 7 × 5 × 2, and four kernels.

    Args:
        x: [height, width, channels].
        weight: W, [3, 3, channels, kernels].
        bias: b, [kernels].

    Returns:
        y: [rows, columns, kernels], with ⌊(height + 2 − 3) / 2⌋ + 1 rows.
    """
    stride = 2
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = ((size - 3) // stride + 1 for size in padded.shape[:2])
    y = np.zeros((rows, columns, len(bias)))
    for i in range(rows):
        for j in range(columns):
            patch = padded[stride * i : stride * i + 3, stride * j : stride * j + 3]
            y[i, j] = np.tensordot(patch, weight, 3) + bias
    return y
