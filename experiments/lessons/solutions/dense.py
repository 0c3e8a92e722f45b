"""The backward pass of a dense layer: what flows back to x, W and b."""


def backward(x, weight, dy):
    """Of y = x W + b, with b a row that is added to every example.

    Write one element of y as a sum, and look where an element of x, W or b has a part. What an
    element of W or b has a part in are all examples of the batch.

    Args:
        x: [batch, in].
        weight: W, [in, out].
        dy: The derivative of the loss by y, [batch, out].

    Returns:
        dx, dweight, dbias: [batch, in], [in, out] and [out].
    """
    dx = dy @ weight.T
    dweight = x.T @ dy
    dbias = dy.sum(axis=0)
    return dx, dweight, dbias
