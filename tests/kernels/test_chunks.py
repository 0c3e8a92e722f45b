import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.kernels.chunks import chunk_count, map_chunks, sum_chunks


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_function_mapped_over_chunks_sees_all_examples_in_their_order(count):
    x, y = jnp.arange(14.0).reshape(7, 2), jnp.arange(7.0)
    doubled, total = map_chunks(lambda x, y: (2 * x, x.sum(1) + y), count, x, y)
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_array_equal(total, x.sum(1) + y)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_sum_over_chunks_counts_every_example_once(count):
    x, y = jnp.arange(14.0).reshape(7, 2), jnp.arange(7.0)
    np.testing.assert_array_equal(sum_chunks(lambda x, y: x.T @ y, count, x, y), x.T @ y)


@pytest.mark.parametrize(
    ("batch", "example", "count"),
    [(128, 1, 1), (128, 100, 16), (130, 100, 13), (127, 100, 13), (3, 10**9, 3), (0, 10**9, 1)],
)
def test_chunks_are_about_as_large_as_asked_for_and_divide_the_batch_if_they_can(
    batch, example, count
):
    assert chunk_count(batch, example, 1000) == count
