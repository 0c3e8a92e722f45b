import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.products import contract_rows

contracted = jax.jit(contract_rows)


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 4), (6, 3), (9, 2)])
def test_rows_are_contracted_as_numpy_does(rows, inputs, outputs):
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(rows, n)).astype(np.float32) for n in (inputs, outputs))
    chex.assert_trees_all_close(contracted(a, b), a.T @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inputs", [1, 3])
def test_half_precision_is_summed_in_float32(inputs):
    a, b = (jnp.full((4096, n), 0.125, jnp.bfloat16) for n in (inputs, 1))
    total = contracted(a, b)
    chex.assert_trees_all_equal(total, jnp.full((inputs, 1), 64.0, jnp.float32))
