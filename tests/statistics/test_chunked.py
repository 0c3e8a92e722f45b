"""Captures worked off a few examples at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.statistics import chunked


def test_the_size_of_the_chunks_changes_nothing(x64, monkeypatch):
    network = nn.serial(nn.conv(2, (3, 3)), nn.relu(), nn.conv(2, (2, 2), groups=2), nn.flatten())
    x = normal(0, (5, 4, 4, 2))
    params, state = started(network, x)
    target, key, weights = jnp.zeros((5, 32)), jax.random.key(0), jnp.asarray(np.arange(1.0, 6))
    loss = nn.half_squared_error()

    def compute():
        both = (
            statistics.per_example_squared_norms(network, loss),
            statistics.kfac_factors(network, loss),
        )
        run = jax.jit(lambda *arguments: [statistic(*arguments) for statistic in both])
        return run(params, state, x, target, key, weights)

    whole = compute()
    for chunk_bytes in (1, 3000):
        monkeypatch.setattr(chunked, "CHUNK_BYTES", chunk_bytes)
        assert_agree(compute(), whole, 1e-12)


def test_weights_of_the_factors_are_shares_of_the_examples(x64):
    network, loss = nn.dense(2), nn.half_squared_error()
    x = normal(0, (3, 2))
    params, state = started(network, x)
    weights = jnp.array([1.0, 0.0, 3.0])
    compute = jax.jit(statistics.kfac_factors(network, loss, samples=None))
    factors = compute(params, state, x, jnp.zeros((3, 2)), None, weights)
    rows = np.concatenate([x, np.ones((3, 1))], 1)
    expected = (rows * (np.asarray(weights) / 4)[:, None]).T @ rows
    assert_agree({"inputs": factors["inputs"]}, {"inputs": expected}, 1e-12)
