"""Captures worked off a few examples at a time."""

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.statistics import chunked


@pytest.mark.parametrize("chunk_bytes", [1, 3000])
def test_the_size_of_the_chunks_changes_nothing(x64, chunk_bytes, monkeypatch):
    network = nn.serial(nn.conv(2, (3, 3)), nn.relu(), nn.conv(2, (2, 2), groups=2), nn.flatten())
    x = normal(0, (5, 4, 4, 2))
    params, state = started(network, x)
    target, key, weights = jnp.zeros((5, 32)), jax.random.key(0), jnp.arange(1.0, 6.0)
    loss = nn.half_squared_error()

    def compute():
        arguments = (params, state, x, target, key, weights)
        norms = jax.jit(statistics.per_example_squared_norms(network, loss))(*arguments)
        return norms, jax.jit(statistics.kfac_factors(network, loss))(*arguments)

    whole = compute()
    monkeypatch.setattr(chunked, "CHUNK_BYTES", chunk_bytes)
    assert_agree(compute(), whole, 1e-12)


def test_weights_of_the_factors_are_shares_of_the_examples(x64):
    network, loss = nn.dense(2), nn.half_squared_error()
    x = normal(0, (3, 2))
    params, state = started(network, x)
    weights = jnp.array([1.0, 0.0, 3.0])
    factors = statistics.kfac_factors(network, loss, samples=None)(
        params, state, x, jnp.zeros((3, 2)), None, weights
    )
    rows = jnp.concatenate([x, jnp.ones((3, 1))], 1)
    expected = (rows * (weights / 4)[:, None]).T @ rows
    assert_agree({"inputs": factors["inputs"]}, {"inputs": expected}, 1e-12)
