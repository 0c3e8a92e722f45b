import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn

SPATIAL = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(spatial=SPATIAL, batch=st.integers(0, 2), data=st.data())
@settings(max_examples=4)
def test_upsampling_keeps_the_laws_for_any_shape(spatial, batch, data):
    factor = tuple(data.draw(st.integers(1, 3)) for _ in spatial)
    x = np.asarray(normal(0, (batch, *spatial, 2)))
    nn.check_layer(nn.upsample(factor), x).require()
    y = nn.upsample(factor).predict((), (), jnp.asarray(x))
    expected = x
    for axis, times in enumerate(factor, start=1):
        expected = np.repeat(expected, times, axis)
    np.testing.assert_array_equal(y, expected.astype(y.dtype))


@given(spatial=SPATIAL, batch=st.integers(0, 2), data=st.data())
@settings(max_examples=4)
def test_padding_keeps_the_laws_for_any_shape(spatial, batch, data):
    widths = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in spatial)
    x = np.asarray(normal(0, (batch, *spatial, 2)))
    nn.check_layer(nn.pad(widths), x).require()
    y = nn.pad(widths).predict((), (), jnp.asarray(x))
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), *widths, (0, 0))).astype(y.dtype))


def test_every_element_receives_the_sum_over_its_copies():
    layer = nn.upsample(2)
    _, _, residuals = layer.forward((), (), jnp.ones((1, 2, 1)), None)
    dx, _ = layer.backward((), residuals, jnp.array([1.0, 2, 3, 4]).reshape(1, 4, 1))
    assert_trees_all_equal(dx.ravel(), jnp.array([3.0, 7]))


def test_the_copies_of_half_precision_numbers_are_summed_in_float32():
    layer = nn.upsample(32)
    y, _, residuals = layer.forward((), (), jnp.ones((1, 1, 1, 1), jnp.bfloat16), None)
    dx, _ = jax.jit(layer.backward)((), residuals, y)
    assert dx.item() == 1024


def test_an_integer_stands_for_all_dimensions_and_sides():
    x = normal(0, (1, 2, 3, 1))
    assert nn.upsample(2).predict((), (), x).shape == (1, 4, 6, 1)
    assert nn.pad(1).predict((), (), x).shape == (1, 4, 5, 1)


def test_residuals_pass_the_boundary_of_a_compiled_function():
    for layer in (nn.upsample(2), nn.pad(((1, 0),))):
        _, _, residuals = jax.jit(lambda x, layer=layer: layer.forward((), (), x, None))(
            jnp.ones((1, 2, 1))
        )
        assert hash(jax.tree.structure(residuals)) is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.upsample(0), "upsample: expected factor to be at least 1, got 0"),
        (lambda: nn.upsample((2, -1)), "upsample: expected every entry of factor .* got -1"),
        (lambda: nn.pad(-1), "pad: expected widths to be at least 0, got -1"),
        (lambda: nn.pad(((0, -2),)), "pad: expected every entry of widths .* got -2"),
        (lambda: nn.pad(((1, 1),)).init(None, jnp.ones((1, 2, 2, 1))), "1 spatial dimensions"),
        (lambda: nn.upsample((2, 2)).init(None, jnp.ones((1, 2, 1))), "2 spatial dimensions"),
        (lambda: nn.upsample(2).init(None, jnp.ones((1, 0, 1))), "spatial size of x to be at"),
    ],
)
def test_sizes_that_do_not_suit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.upsample(1.5), "upsample: expected factor to be an integer, got 1.5"),
        (lambda: nn.pad("SAME"), r"pad: expected widths to be an integer .* got 'SAME'"),
        (
            lambda: nn.pad(1).predict((), (), jnp.ones((1, 2, 1), jnp.int32)),
            "pad: expected x to be floating-point, got int32",
        ),
    ],
)
def test_wrong_types_are_refused(make, message, untyped):
    with pytest.raises(TypeError, match=message):
        make()
