"""Sums and maps over examples against their plain twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.kernels import sums
from jaxnn.kernels.sums import add_up, map_examples, sum_examples


@pytest.mark.parametrize("terms", [0, 1, 5])
def test_adding_up_is_the_sum_of_a_mapped_function(terms, x64):
    tree = (normal(0, (terms, 3)), {"b": normal(1, (terms, 2))})

    def function(one):
        return jnp.outer(one[0], one[1]["b"]), jnp.sum(one[0])

    expected = jax.tree.map(lambda a: jnp.sum(a, 0), jax.vmap(function)(tree))
    assert_agree(jax.jit(lambda tree: add_up(function, tree))(tree), expected, 1e-12)


@pytest.mark.parametrize("example_bytes", [0, 2**20, 2**23])
def test_examples_worked_off_at_a_time_give_what_the_function_gives_of_all(example_bytes, x64):
    x, y = {"x": normal(0, (7, 3))}, normal(1, (7, 2))

    def mapped(x, y):
        return {"sum": x["x"].sum(1), "outer": x["x"][:, :, None] * y[:, None]}

    def summed(x, y):
        return x["x"].T @ y

    of_all = mapped(x, y), summed(x, y)
    run = jax.jit(
        lambda *trees: (
            map_examples(mapped, example_bytes, *trees),
            sum_examples(summed, example_bytes, *trees),
        )
    )
    assert_agree(run(x, y), of_all, 1e-12)


@pytest.mark.parametrize("function", [map_examples, sum_examples])
def test_an_array_without_the_batch_first_is_refused(function):
    with pytest.raises(ValueError, match=r"expected the batch first in all arrays, got \[3, 4\]"):
        function(lambda x, y: x, 1, jnp.ones((3, 2)), jnp.ones((4, 2)))


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
        monkeypatch.setattr(sums, "CHUNK_BYTES", chunk_bytes)
        assert_agree(compute(), whole, 1e-12)
