import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.kernels.ordering import once

WEIGHT = jnp.arange(2.0, 4.0)


def multiplied(x, weight=WEIGHT):
    return once(lambda x: {"y": x * weight}, weight, x)


def test_what_is_computed_once_is_a_choice_that_the_compiler_keeps():
    compiled = jax.jit(multiplied).lower(jnp.ones(2), WEIGHT).compile()
    assert "conditional(" in compiled.as_text()
    np.testing.assert_array_equal(compiled(jnp.ones(2), WEIGHT)["y"], WEIGHT)


def test_it_is_differentiated_and_mapped_as_the_function_is():
    xs = jnp.ones((3, 2))
    gradients = jax.vmap(jax.grad(lambda x: jnp.sum(multiplied(x)["y"] ** 2)))(xs)
    np.testing.assert_array_equal(gradients, 2 * xs * WEIGHT**2)


def test_of_an_empty_batch_it_is_empty():
    assert multiplied(jnp.ones((0, 2)))["y"].shape == (0, 2)
