"""The cross-entropy of a softmax, from logits: loss and gradient."""

import numpy as np


def cross_entropy(z, labels):
    """l = −mean over the batch of log softmax(z)[label], and ∂l/∂z.

    With p = softmax(z) and t the one-hot row of the label, the gradient of one example's loss is
    p − t. Some logits are 1000 larger than others: the loss is finite where it is computed as
    log Σₖ e^zₖ − z[label], the largest logit being taken out of the sum first.

    Args:
        z: Logits [batch, classes].
        labels: Integers [batch], the class of each example.

    Returns:
        l, dz: one number, and an array of the shape of z.
    """
    batch = len(z)
    shifted = z - z.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    t = np.zeros_like(z)
    t[np.arange(batch), labels] = 1
    loss = -np.sum(t * logp) / batch
    delta = np.exp(logp) - t
    dz = delta / batch
    return loss, dz
