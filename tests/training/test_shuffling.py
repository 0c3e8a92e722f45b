import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxnn.training.shuffling import shuffle as eager_shuffle

shuffle = jax.jit(eager_shuffle, static_argnums=1)


@given(n=st.sampled_from([0, 1, 2, 257]), seed=st.integers(0, 2**31))
def test_every_index_occurs_once(n, seed):
    order = shuffle(jax.random.key(seed), n)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_all_permutations_of_four_are_equally_likely():
    orders = np.asarray(
        jax.vmap(lambda key: shuffle(key, 4))(jax.random.split(jax.random.key(0), 24000))
    )
    counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom is above 49.7 for one seed in a thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 49.7


def test_each_place_of_a_long_order_gets_each_part_of_the_indices_equally_often():
    orders = np.asarray(
        jax.vmap(lambda key: shuffle(key, 300))(jax.random.split(jax.random.key(1), 2000))
    )
    means = orders.mean(0)
    deviation = np.sqrt((300**2 - 1) / 12 / 2000)
    assert np.abs(means - 149.5).max() < 5 * deviation


def test_the_same_key_gives_the_same_order_and_another_key_another():
    first, second = shuffle(jax.random.key(0), 100), shuffle(jax.random.key(1), 100)
    chex.assert_trees_all_equal(first, shuffle(jax.random.key(0), 100))
    assert (first != second).any()


def test_vmap_over_keys_gives_the_orders_of_the_single_keys():
    keys = jax.random.split(jax.random.key(0), 5)
    chex.assert_trees_all_equal(
        jax.vmap(lambda key: shuffle(key, 50))(keys), jnp.stack([shuffle(key, 50) for key in keys])
    )
