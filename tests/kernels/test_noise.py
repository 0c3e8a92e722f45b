"""The noise of private training is that of jax.random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.kernels.noise import normal


@pytest.mark.parametrize("shape", [(), (1,), (7, 5, 3), (0, 4), (100_003,)])
@pytest.mark.parametrize("seed", [0, 12345])
def test_it_is_the_noise_of_jax_random(shape, seed):
    key = jax.random.split(jax.random.key(seed))[1]
    own, reference = jax.jit(
        lambda key: (normal(key, shape, jnp.float32), jax.random.normal(key, shape, jnp.float32))
    )(key)
    np.testing.assert_allclose(own, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_other_dtypes_are_left_to_jax_random(dtype, x64):
    key = jax.random.key(3)
    np.testing.assert_array_equal(
        np.asarray(normal(key, (9,), dtype), float),
        np.asarray(jax.random.normal(key, (9,), dtype), float),
    )


def test_other_generators_are_left_to_jax_random():
    key = jax.random.key(3, impl="rbg")
    np.testing.assert_array_equal(
        normal(key, (9,), jnp.float32), jax.random.normal(key, (9,), jnp.float32)
    )
