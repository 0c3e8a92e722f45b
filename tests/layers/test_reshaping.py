import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal

import jaxnn as nn


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (1, 2, 1, 3), (0, 2, 3), (2, 0)])
def test_flatten_keeps_the_laws_and_the_row_major_order(shape):
    x = np.arange(np.prod(shape), dtype=float).reshape(shape)
    nn.check_layer(nn.flatten(), x).require()
    expected = x.reshape(shape[0], int(np.prod(shape[1:])))
    np.testing.assert_array_equal(nn.flatten().predict((), (), jnp.asarray(x)), expected)


def test_reshape_keeps_the_laws_and_the_row_major_order():
    x = normal(0, (2, 6))
    nn.check_layer(nn.reshape(3, 2), x).require()
    np.testing.assert_array_equal(nn.reshape(3, 2).predict((), (), x), np.reshape(x, (2, 3, 2)))


def test_reshape_to_nothing_leaves_the_batch():
    assert nn.reshape().predict((), (), jnp.ones((4, 1))).shape == (4,)


def test_reshape_refuses_another_number_of_elements():
    with pytest.raises(ValueError, match=r"reshape: expected an example with 4 elements .* got 6"):
        nn.reshape(2, 2).init(None, jnp.ones((1, 6)))


@pytest.mark.parametrize(("size", "error"), [(-1, ValueError), (0, ValueError), (2.0, TypeError)])
def test_reshape_refuses_a_size_that_is_no_positive_integer(size, error, untyped):
    with pytest.raises(error, match="reshape: expected every one of shape to be"):
        nn.reshape(2, size)


@pytest.mark.parametrize("layer", [nn.flatten(), nn.reshape(1)])
def test_a_scalar_and_a_tuple_are_refused(layer, untyped):
    with pytest.raises(ValueError, match=f"{layer.name}: expected x to have at least 1 axes"):
        layer.predict((), (), jnp.asarray(1.0))
    with pytest.raises(TypeError, match=f"{layer.name}: expected x to be an array, got tuple"):
        layer.predict((), (), (jnp.ones((1, 1)),))
