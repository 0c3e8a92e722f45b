import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, initialized, normal, passes, started

import jaxnn as nn
from jaxnn import statistics


def network():
    return nn.serial(
        nn.conv(6, (3, 3)),
        nn.relu(),
        nn.max_pool(2),
        nn.skip(nn.conv(6, (3, 3)), nn.relu()),
        nn.serial(nn.conv(40, (3, 3), padding="VALID"), nn.relu(), nn.max_pool(2)),
        nn.conv(33, (3, 3)),
        nn.relu(),
        nn.max_pool((2, 2), strides=2),
        nn.flatten(),
        nn.dense(3),
    )


def names(layer):
    return [part.name for _, part in nn.walk(layer)]


def test_a_fused_network_has_the_values_and_gradients_of_the_network(x64):
    x, target = normal(0, (5, 19, 16, 1)), jnp.asarray(np.arange(5) % 3)
    plain, fused = network(), nn.fuse(network())
    params, state = initialized(plain, x)
    chex.assert_trees_all_equal(params, initialized(fused, x)[0])
    ((value, _), gradient), ((fused_value, _), fused_gradient) = (
        jax.jit(nn.backprop(layer, nn.softmax_cross_entropy()))(params, state, x, target)
        for layer in (plain, fused)
    )
    chex.assert_trees_all_close(value, fused_value, rtol=1e-12)
    chex.assert_trees_all_close(gradient, fused_gradient, rtol=1e-9, atol=1e-13)


def test_fusing_joins_convolutions_with_their_relu_and_pooling_and_nothing_else():
    assert names(nn.fuse(network())) == [
        *("conv_relu_max_pool", "identity", "identity"),
        *names(network())[3:-8],
        *("conv_relu_max_pool", "identity", "identity"),
        *("conv_relu_max_pool", "identity", "identity"),
        *("flatten", "dense"),
    ]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(3)),
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, strides=1)),
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, padding="SAME")),
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, dilation=2)),
        (nn.conv(4, (3, 3), algorithm="direct"), nn.relu(), nn.max_pool(2)),
        (nn.conv(4, (3, 3)), nn.tanh(), nn.max_pool(2)),
        (nn.conv(4, (3, 3)), nn.relu(), nn.avg_pool(2)),
    ],
)
def test_layers_of_another_kind_stay_as_they_are(layers):
    assert names(nn.fuse(nn.serial(*layers))) == [layer.name for layer in layers]


@pytest.mark.parametrize(
    ("channels", "conv"),
    [
        (1, nn.conv(3, (3, 3))),
        (1, nn.conv(3, (5, 4), use_bias=False)),
        (32, nn.conv(32, (3, 3), padding=((0, 2), (1, 0)))),
    ],
)
def test_the_layer_keeps_the_laws(channels, conv):
    nn.check_layer(nn.conv_relu_max_pool(conv), normal(0, (3, 7, 6, channels))).require()


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("channels", [1, 32])
def test_a_batch_of_one_or_no_example_has_the_gradients_of_autodiff(channels, batch, x64):
    conv = nn.conv(32, (3, 3))
    fused, plain = nn.conv_relu_max_pool(conv), nn.serial(conv, nn.relu(), nn.max_pool(2))
    x, dy = normal(0, (batch, 6, 4, channels)), normal(1, (batch, 3, 2, 32))
    params, _ = started(fused, x)

    @jax.jit
    def both(params, x):
        y, vjp = jax.vjp(lambda x, p: plain.predict((p, (), ()), ((), (), ()), x), x, params)
        return passes(fused, params, (), x, dy), (y, *vjp(dy))

    assert_agree(*both(params, x), 1e-10)


@pytest.mark.parametrize(
    ("shape", "conv"),
    [
        ((2, 8, 8, 3), nn.conv(4, (3, 3))),
        ((2, 8, 8, 1), nn.conv(4, (3, 3), padding="CIRCULAR")),
        ((2, 8, 8, 4), nn.conv(4, (3, 3), groups=2)),
        ((2, 9, 1), nn.conv(4, (3,), strides=2)),
        ((2, 8, 8, 1), nn.conv(4, (3, 3), algorithm="direct")),
    ],
)
def test_a_convolution_without_phases_is_computed_layer_by_layer(shape, conv):
    nn.check_layer(nn.conv_relu_max_pool(conv), normal(0, shape)).require()


def test_a_tie_goes_to_the_first_element_and_a_negative_window_to_none():
    layer = nn.conv_relu_max_pool(nn.conv(1, (3, 3), use_bias=False))
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[1, 1] = 1
    x = np.array([[2.0, 2.0, -1.0, -2.0], [1.0, 2.0, 0.0, -3.0]], np.float32)
    y, dx, _ = passes(layer, {"weight": weight}, (), x.reshape(1, 2, 4, 1))
    np.testing.assert_array_equal(np.ravel(y), [2, 0])
    np.testing.assert_array_equal(np.reshape(dx, (2, 4)), [[1, 0, 0, 0], [0, 0, 0, 0]])


def test_statistics_of_a_fused_network_are_those_of_the_network(x64):
    x, target = normal(0, (4, 16, 16, 1)), jnp.asarray(np.arange(4) % 3)
    params, state = started(network(), x)
    norms, fused_norms = (
        jax.jit(statistics.per_example_squared_norms(layer, nn.softmax_cross_entropy()))(
            params, state, x, target
        )
        for layer in (network(), nn.fuse(network()))
    )
    chex.assert_trees_all_close(norms, fused_norms, rtol=1e-9)


def test_a_batch_that_chunks_do_not_divide_has_the_same_gradient(monkeypatch):
    monkeypatch.setattr("jaxnn.layers.convolution.pooled.CHUNK_BYTES", 4096)
    layer = nn.conv_relu_max_pool(nn.conv(3, (3, 3)))
    nn.check_layer(layer, normal(0, (7, 6, 6, 1))).require()


def test_a_layer_that_is_no_convolution_is_refused():
    with pytest.raises(ValueError, match="expected a conv layer, got 'conv_transpose'"):
        nn.conv_relu_max_pool(nn.conv_transpose(3, (3, 3)))
