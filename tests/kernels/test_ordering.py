import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

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


def test_its_operands_may_differ_between_devices():
    mesh = jax.make_mesh((jax.device_count(),), ("i",), axis_types=(AxisType.Auto,))
    xs = jnp.ones((4 * jax.device_count(), 2))
    run = jax.shard_map(multiplied, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    np.testing.assert_array_equal(jax.jit(run)(xs)["y"], xs * WEIGHT)


def test_its_operands_may_have_an_explicit_sharding():
    mesh = jax.make_mesh((jax.device_count(),), ("i",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        xs = jax.device_put(jnp.ones((4 * jax.device_count(), 2)), P("i"))
        y = jax.jit(multiplied)(xs)["y"]
    assert y.sharding.spec == P("i", None)
    np.testing.assert_array_equal(y, xs * WEIGHT)
