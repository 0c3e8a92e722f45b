"""Poisson sampling: every example is in a step's batch with one probability, apart from all others.

That is what the budget of `jaxnn.learning.privacy.accounting` is computed for; for shuffled batches
no bound as good holds (Chua et al., 2024). The size of such a batch is random. A compiled program
wants one size, so a batch has `capacity_of` places, and weights that say which of them are filled.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.validation import require_positive_integer

OVERFLOW = 1e-15
"""The largest probability with which a sample is larger than its places. What does not fit is
dropped; over S steps that adds at most S · (1 + e^ε) · 1e-15 to δ."""


def capacity_of(examples: int, batch_size: int) -> int:
    """The places of a batch whose size is Binomial(examples, batch_size / examples).

    Raises:
        ValueError: ``batch_size`` is not positive or larger than the number of examples.
    """
    require_positive_integer("poisson sampling", "examples", examples)
    require_positive_integer("poisson sampling", "batch_size", batch_size)
    if batch_size > examples:
        raise ValueError(
            f"poisson sampling: expected batch_size to be at most the number of examples, "
            f"{examples}, got {batch_size}"
        )
    from scipy.special import bdtrc  # here: it takes as long to import as much of JAX

    probability = batch_size / examples
    # Bernstein's inequality: beyond this reach the probability is far below OVERFLOW.
    reach = math.ceil(50 + 12 * math.sqrt(batch_size * (1 - probability)))
    places = np.arange(batch_size, min(batch_size + reach, examples) + 1)
    larger = bdtrc(places, examples, probability)  # the probability of a sample of more
    return int(places[np.argmax(larger <= OVERFLOW)])


def poisson_batches(key: Array, steps: int, examples: int, batch_size: int) -> tuple[Array, Array]:
    """(indices, weights), [steps, places] each: a Poisson sample for every step.

    Each example is in each batch with probability batch_size / examples. Weights are 1 for the
    indices of the sample, and 0 for the places left over, whose index is 0.

    The distances between successive members of a sample are geometric, so that one random number
    is drawn for each place and not for each example.
    """
    places = capacity_of(examples, batch_size)
    gaps = jax.random.geometric(key, batch_size / examples, (steps, places))
    # Cut off beyond the last example, where the sample ends, the sums stay in the range of int32.
    end = jnp.int32(examples + 1)
    gaps = jnp.minimum(gaps, end).astype(jnp.int32)
    indices = jax.lax.associative_scan(lambda a, b: jnp.minimum(a + b, end), gaps, axis=1) - 1
    inside = indices < examples
    return jnp.where(inside, indices, 0), inside.astype(float)
