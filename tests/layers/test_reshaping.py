import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal

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


def test_the_other_order_of_channels_is_that_of_onnx():
    x = np.arange(2 * 3 * 2 * 8.0).reshape(2, 3, 2, 8)
    # ONNX's definition of DepthToSpace in mode DCR, of NCHW.
    apart = x.transpose(0, 3, 1, 2).reshape(2, 2, 2, 2, 3, 2)
    expected = apart.transpose(0, 3, 4, 1, 5, 2).reshape(2, 2, 6, 4).transpose(0, 2, 3, 1)
    shuffled, back = nn.pixel_shuffle(2, "DCR"), nn.pixel_unshuffle(2, mode="DCR")
    y = shuffled.predict((), (), jnp.asarray(x))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(back.predict((), (), y), x)
    nn.check_layer(shuffled, x).require()
    nn.check_layer(back, np.asarray(y)).require()


def test_pixel_shuffle_is_that_of_pytorch():
    x = jnp.moveaxis(jnp.arange(16.0).reshape(1, 8, 1, 2), 1, -1)
    y = nn.pixel_shuffle(2).predict((), (), x)
    expected = [[[0, 8], [2, 10], [1, 9], [3, 11]], [[4, 12], [6, 14], [5, 13], [7, 15]]]
    np.testing.assert_array_equal(y, [expected])
    np.testing.assert_array_equal(nn.pixel_unshuffle(2).predict((), (), y), x)


@pytest.mark.parametrize(
    ("factor", "shape"),
    [
        (3, (2, 4, 6)),
        ((2, 1), (1, 2, 3, 4)),
        ((1, 3), (2, 2, 2, 3)),
        ((2, 1, 3), (1, 1, 2, 1, 12)),
        (1, (2, 3, 3, 2)),
        (2, (0, 2, 2, 4)),
    ],
)
def test_pixels_are_shuffled_and_put_back_in_1_to_3_dimensions(factor, shape):
    x = normal(5, shape)
    shuffled = nn.pixel_shuffle(factor)
    y = shuffled.predict((), (), x)
    factors = factor if isinstance(factor, tuple) else (factor,) * (x.ndim - 2)
    sizes = tuple(s * f for s, f in zip(shape[1:-1], factors, strict=True))
    assert y.shape == (shape[0], *sizes, shape[-1] // int(np.prod(factors)))
    np.testing.assert_array_equal(nn.pixel_unshuffle(factor).predict((), (), y), x)
    nn.check_layer(shuffled, np.asarray(x)).require()
    nn.check_layer(nn.pixel_unshuffle(factor), np.asarray(y)).require()


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda: nn.pixel_shuffle(2).init(None, jnp.ones((1, 2, 2, 6))),
            ValueError,
            "expected factor 2 to divide the channels of x, 4 of them for each of y, got 6",
        ),
        (
            lambda: nn.pixel_unshuffle((1, 2)).init(None, jnp.ones((1, 2, 3, 1))),
            ValueError,
            r"expected factor \(1, 2\) to divide the spatial sizes of x, got \(2, 3\)",
        ),
        (
            lambda: nn.pixel_shuffle(0),
            ValueError,
            "pixel_shuffle: expected factor to be at least 1",
        ),
        (lambda: nn.pixel_shuffle((2, 2)).init(None, jnp.ones((1, 2, 4))), ValueError, "pixel_sh"),
        (lambda: nn.pixel_shuffle(1).init(None, jnp.ones((1, 2, 4), int)), TypeError, "floating"),
        (lambda: nn.pixel_shuffle(2.0), TypeError, "pixel_shuffle: expected factor to be an"),
    ],
)
def test_pixels_that_cannot_be_shuffled_are_refused(run, error, message, untyped):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("layer", [nn.flatten(), nn.reshape(4)])
def test_ids_of_an_embedding_can_be_reshaped(layer):
    network = nn.serial(layer, nn.embedding(7, 3), nn.flatten(), nn.dense(2))
    x, arguments = jnp.arange(8).reshape(2, 2, 2) % 7, (jnp.asarray([0, 1]),)
    params, state = network.init(jax.random.key(0), x)
    loss = nn.softmax_cross_entropy()
    found, expected = (
        gradient(network, loss)(params, state, x, *arguments)[1]
        for gradient in (nn.backprop, nn.autodiff)
    )
    assert_agree(found, expected, 1e-6)
