"""The backward pass of an embedding, where ids repeat."""

import numpy as np


def backward(ids, dy, vocabulary):
    """Of y = table[ids]: every id is replaced by its row of the table.

    A row that is used several times has a part in several y, and one that is not used in none.

    Args:
        ids: Integers of any shape, [*batch].
        dy: The derivative of the loss by y, [*batch, features].
        vocabulary: How many rows the table has.

    Returns:
        dtable: [vocabulary, features].
    """
    dtable = np.zeros((vocabulary, dy.shape[-1]))
    np.add.at(dtable, ids, dy)
    return dtable
