"""The printed numbers of the notes that the library starts from, digit by digit."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

BITS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
EXTENDED = np.concatenate([BITS, np.ones((4, 1))], 1)


def weight(*rows):
    """The parameters of a dense layer without bias, whose rows are those of W in W x."""
    return {"weight": jnp.asarray(np.array(rows, float).T)}


@pytest.mark.parametrize(
    ("row", "truth"),
    [((1, 1, -1), BITS.all(1)), ((1, 1, 0), BITS.any(1)), ((-1, -1, 1.1), ~BITS.all(1))],
    ids=["AND", "OR", "NAND"],
)
def test_gates(row, truth, x64):
    gate = nn.serial(nn.dense(1, use_bias=False), nn.heaviside())
    y = gate.predict((weight(row), ()), ((), ()), jnp.asarray(EXTENDED))
    np.testing.assert_array_equal(y[:, 0], truth)


def test_xor_is_a_network_of_two_matrices_and_steps(x64):
    network = nn.serial(
        nn.dense(3, use_bias=False), nn.heaviside(), nn.dense(1, use_bias=False), nn.heaviside()
    )
    params = (weight((1, 1, 0), (-1, -1, 1.1), (0, 0, 1)), (), weight((1, 1, -1)), ())
    y = network.predict(params, ((),) * 4, jnp.asarray(EXTENDED))
    np.testing.assert_array_equal(y[:, 0], [0, 1, 1, 0])


def test_the_forward_pass_of_three_layers(x64):
    def dense(rows, bias):
        return weight(*rows) | {"bias": jnp.asarray(bias)}

    params = (
        dense([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], [0.1, 0.2, 0.3]),
        (),
        dense([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], [0.1, 0.2]),
        (),
        dense([[0.1, 0.2], [0.3, 0.4]], [0.1, 0.2]),
    )
    layers = (nn.dense(3), nn.sigmoid(), nn.dense(2), nn.sigmoid(), nn.dense(2))
    printed = [
        [0.3, 0.7, 1.1],
        [0.57444252, 0.66818777, 0.75026011],
        [0.51615984, 1.21402696],
        [0.62624937, 0.7710107],
        [0.31682708, 0.69627909],
    ]
    y = jnp.asarray([[1.0, 0.5]])
    for layer, own, expected in zip(layers, params, printed, strict=True):
        y = layer.predict(own, (), y)
        np.testing.assert_allclose(y[0], expected, atol=5e-9, rtol=0)


ROWS = (weight((3, 1, 2), (-2, -3, -1)), weight((3, 2)))


def plain_dense(features):
    return nn.dense(features, use_bias=False)


def test_a_relu_network_gives_33_and_the_squared_error_169():
    x = jnp.asarray([[2.0, 3.0, 1.0]])
    u = plain_dense(2).predict(ROWS[0], (), x)
    h = nn.relu().predict((), (), u)
    y = plain_dense(1).predict(ROWS[1], (), h)
    np.testing.assert_array_equal(u, [[11, -14]])
    np.testing.assert_array_equal(h, [[11, 0]])
    np.testing.assert_array_equal(y, [[33]])
    loss = nn.sum_squared_error().value(y, jnp.asarray([[20.0]]))
    np.testing.assert_array_equal(loss, [169])


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_the_printed_gradients_of_a_sigmoid_network(make, x64):
    network = nn.serial(plain_dense(2), nn.sigmoid(), plain_dense(1), nn.sigmoid())
    params = tuple({"weight": p["weight"].astype(float)} for p in ROWS)
    params = (params[0], (), params[1], ())
    x, target = jnp.asarray([[2.0, 3.0, 1.0]]), jnp.asarray([[20.0]])
    np.testing.assert_allclose(network.predict(params, ((),) * 4, x), [[0.95257194]], atol=5e-9)
    run = make(network, nn.sum_squared_error())
    _, gradients = run(params, ((),) * 4, x, target)
    printed_second = [[-1.72104507e00, -1.43112111e-06]]
    printed_first = [
        [-1.72463398e-04, -2.58695098e-04, -8.62316992e-05],
        [-5.72447970e-06, -8.58671954e-06, -2.86223985e-06],
    ]
    np.testing.assert_allclose(gradients[2]["weight"].T, printed_second, rtol=5e-9)
    np.testing.assert_allclose(gradients[0]["weight"].T, printed_first, rtol=5e-9)


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "printed"),
    [
        (nn.mean_squared_error(), [3, 5, 8], [2, 4, 6], 2),
        (nn.half_squared_error(), [3, 5, 8], [2, 4, 6], 3),
        (nn.sum_absolute_error(), [0.9, 0.2, 0.1, 0.4, 0.9], [1, 0, 0, 1, 1], 1.1),
        (nn.sum_squared_error(), [0.9, 0.2, 0.1, 0.4, 0.9], [1, 0, 0, 1, 1], 0.43),
    ],
)
def test_losses(loss, prediction, target, printed, x64):
    value = loss.value(*(jnp.asarray([a], float) for a in (prediction, target)))
    np.testing.assert_allclose(value, [printed], rtol=1e-14)


def test_softmax_and_cross_entropy_have_the_gradient_y_minus_t_over_the_batch(x64):
    z, labels = jnp.asarray([[1.0, 2.0, -1.0], [0.0, 3.0, 1.0]]), jnp.asarray([2, 1])
    network = plain_dense(3)
    _, gradients = nn.backprop(network, nn.softmax_cross_entropy())(
        {"weight": z}, (), jnp.eye(2), labels
    )
    y = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(gradients["weight"], (y - np.eye(3)[labels]) / 2, rtol=1e-12)


def test_every_sigmoid_multiplies_the_gradient_by_at_most_a_quarter(x64):
    layer = nn.serial(nn.sigmoid(), nn.sigmoid())
    x = jnp.linspace(-8, 8, 161)[:, None]
    _, _, residuals = layer.forward(((), ()), ((), ()), x, None)
    dx, _ = layer.backward(((), ()), residuals, jnp.ones_like(x))
    assert float(dx.max()) <= 0.0625
    _, _, kept = nn.sigmoid().forward((), (), x, None)
    np.testing.assert_allclose(nn.sigmoid().backward((), kept, jnp.ones_like(x))[0].max(), 0.25)
