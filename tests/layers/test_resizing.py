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


@given(spatial=SPATIAL, data=st.data())
@settings(max_examples=4)
def test_every_mode_of_padding_is_that_of_numpy_and_keeps_the_laws(spatial, data):
    mode = data.draw(st.sampled_from(["edge", "symmetric", "circular", "reflect"]))
    most = [n - (mode == "reflect") for n in spatial]
    widths = tuple((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))) for n in most)
    x = np.asarray(normal(0, (2, *spatial, 2)))
    nn.check_layer(nn.pad(widths, mode=mode), x).require()
    y = nn.pad(widths, mode=mode).predict((), (), jnp.asarray(x))
    of_numpy = {"circular": "wrap"}.get(mode, mode)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), *widths, (0, 0)), of_numpy).astype(y.dtype))


def both(layer, *values):
    """y and the dx of ones, of one channel in one dimension."""
    y, _, residuals = layer.forward((), (), jnp.asarray(values).reshape(1, -1, 1), None)
    return np.ravel(y), np.ravel(layer.backward((), residuals, jnp.ones_like(y))[0])


def test_a_value_stands_around_and_receives_nothing():
    y, dx = both(nn.pad(1, value=0.5), 1.0, 2.0)
    np.testing.assert_array_equal(y, [0.5, 1, 2, 0.5])
    np.testing.assert_array_equal(dx, [1, 1])


def test_copies_around_give_what_they_receive_to_their_element():
    np.testing.assert_array_equal(both(nn.pad(2, mode="edge"), 1.0, 2.0, 3.0)[1], [3, 1, 3])
    np.testing.assert_array_equal(both(nn.pad(2, mode="reflect"), 1.0, 2.0, 3.0)[1], [2, 3, 2])
    np.testing.assert_array_equal(both(nn.pad(4, mode="circular"), 1.0, 2.0)[1], [5, 5])


def test_half_precision_copies_are_summed_in_float32():
    x = jnp.ones((1, 1, 1), jnp.bfloat16)
    for layer, copies in ((nn.pad(150, mode="edge"), 301), (nn.resize(300), 300)):
        y, _, residuals = layer.forward((), (), x, None)
        dx, _ = layer.backward((), residuals, jnp.ones_like(y))
        assert dx.item() == jnp.bfloat16(copies)


@pytest.mark.parametrize(
    ("layer", "values", "of_pytorch"),
    [
        (nn.resize(5), (1.0, 5, 2), [1, 2.6, 5, 3.2, 2]),
        (nn.resize(5, align_corners=True), (1.0, 5, 2), [1, 3, 5, 3.5, 2]),
        (nn.resize(6, method="nearest"), (1.0, 5, 2, 8), [1, 1, 5, 2, 2, 8]),
        (nn.resize(6, method="nearest_exact"), (1.0, 5, 2, 8), [1, 5, 5, 2, 8, 8]),
        (
            nn.resize(scale=1.7),
            (1.0, 5, 2, 8),
            [1, 2.52941176, 4.88235294, 3.32352941, 2.88235294, 6.41176471],
        ),
    ],
)
def test_resized_values_are_those_of_pytorch(layer, values, of_pytorch):
    np.testing.assert_allclose(both(layer, *values)[0], of_pytorch, rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.resize((2, 7)),
        nn.resize((3, 7), align_corners=True),
        nn.resize(scale=(0.5, 1.7), method="nearest"),
        nn.resize(1, method="nearest_exact"),
    ],
)
def test_resizing_keeps_the_laws(layer):
    nn.check_layer(layer, normal(0, (2, 5, 4, 2))).require()


def test_an_infinite_element_has_no_part_where_its_weight_is_zero():
    y, dx = both(nn.resize(5, align_corners=True), 1.0, np.inf, 2.0)
    np.testing.assert_array_equal(y, [1, np.inf, np.inf, np.inf, 2])
    np.testing.assert_array_equal(dx, [1.5, 2, 1.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.resize(), "expected one of size and scale, got size=None and scale=None"),
        (lambda: nn.resize(3, scale=2.0), "expected one of size and scale"),
        (lambda: nn.resize(0), "expected size to be at least 1"),
        (lambda: nn.resize(scale=-1.0), "expected scale to be positive, got -1.0"),
        (lambda: nn.resize(3, method="bilinear"), "unknown method 'bilinear'"),
        (lambda: nn.resize(3, method="nearest", align_corners=True), 'method to be "linear"'),
        (lambda: nn.resize(scale=0.1).init(None, jnp.ones((1, 4, 1))), "scale to make 1 to"),
        (lambda: nn.pad(1, mode="replicate"), "unknown mode 'replicate'.*edge"),
        (lambda: nn.pad(1, mode="edge", value=1.0), 'mode to be "constant" where value is'),
        (
            lambda: nn.pad(4, mode="reflect").init(None, jnp.ones((1, 4, 1))),
            r"widths to mirror at most 3 of 4 elements in mode 'reflect', got \(4, 4\); \"edge\"",
        ),
        (lambda: nn.pad(5, mode="symmetric").init(None, jnp.ones((1, 4, 1))), "at most 4 of 4"),
    ],
)
def test_arguments_that_do_not_suit_are_refused(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()
