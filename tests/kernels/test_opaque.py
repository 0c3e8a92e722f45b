import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS
from jax import lax

from jaxnn.kernels.opaque import always


@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, -3.7, 6e4, 1e-7, np.inf, np.nan])
@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_condition_holds(dtype, number, x64):
    assert always(jnp.asarray(number, dtype))


def test_the_compiler_keeps_the_choice():
    def choose(x):
        return lax.cond(always(x[0]), lambda x: x + 1, lambda x: jnp.cumsum(x), x)

    x = jnp.arange(3.0)
    compiled = jax.jit(choose).lower(x).compile()
    assert "conditional(" in compiled.as_text()
    np.testing.assert_array_equal(compiled(x), [1, 2, 3])


def test_mapped_over_numbers_it_is_one_condition():
    assert jax.vmap(always, out_axes=None)(jnp.arange(3.0)).shape == ()
