import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close

import jaxnn as nn


def captured(layer, x, seed=0):
    """The params of a layer, its residuals and a capture, in float64."""
    params, state = layer.init(jax.random.key(seed), x)
    y, _, residuals = layer.forward(params, state, x, None)
    dy = jax.random.normal(jax.random.key(seed + 1), y.shape, y.dtype)
    return params, residuals, dy, layer.backward(params, residuals, dy)[1]


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def linear_gradient(capture):
    return capture.unfolded().gradient()


CASES = [
    nn.conv(6, (3, 2), strides=(2, 1), dilation=(1, 2)),
    nn.conv(6, (3, 2), groups=2, padding="CIRCULAR"),
    nn.conv(6, (2, 2), groups=2, use_bias=False),
    nn.conv_transpose(6, (3, 2), strides=2),
    nn.conv_transpose(6, (3, 3), strides=2, groups=2, padding=1),
]


@pytest.mark.parametrize("layer", CASES)
def test_the_unfolded_capture_is_a_linear_one_with_the_same_gradient(layer):
    with jax.enable_x64(True):
        _, _, _, capture = captured(layer, image(3, 5, 4, 4))
        linear = capture.unfolded()
        assert isinstance(linear, nn.LinearCapture | nn.StackedCapture)
        folded = capture.folded(linear.gradient())
        assert_trees_all_close(folded, capture.gradient(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", CASES[:4])
def test_unfolded_examples_sum_to_the_gradient(layer):
    # Per-example gradients, the way a statistic takes them.
    with jax.enable_x64(True):
        _, _, _, capture = captured(layer, image(3, 5, 4, 4))
        single = [jax.tree.map(lambda a, i=i: a[i : i + 1], capture) for i in range(3)]
        total = jax.tree.map(lambda *g: sum(g), *(c.folded(linear_gradient(c)) for c in single))
        assert_trees_all_close(total, capture.gradient(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
def test_uses_of_different_sizes_join_to_the_sum_of_their_gradients(make):
    with jax.enable_x64(True):
        layer = make(2, (3, 3), groups=2)
        small, large = image(3, 4, 4, 2), image(3, 6, 5, 2, seed=1)
        uses = [captured(layer, x)[3] for x in (small, large, small)]
        joined = uses[0].join(uses[1]).join(uses[2])
        assert_trees_all_close(joined.gradient(), nn.join(*uses).gradient(), rtol=1e-12)
        expected = jax.tree.map(lambda *g: sum(g), *(use.gradient() for use in uses))
        assert_trees_all_close(joined.gradient(), expected, rtol=1e-10)
        unfolded = joined.folded(linear_gradient(joined))
        assert_trees_all_close(unfolded, expected, rtol=1e-10, atol=1e-12)


def test_shared_and_repeated_convolutions_agree_with_autodiff():
    with jax.enable_x64(True):
        layer = nn.serial(nn.conv(2, (3, 3)), nn.tanh())
        network = nn.serial(
            nn.share(nn.repeat(layer, 2)), nn.concatenate(), nn.flatten(), nn.dense(1)
        )
        x = (image(2, 4, 4, 2), image(2, 4, 4, 2, seed=1))
        params, state = network.init(jax.random.key(0), x)
        loss = nn.half_squared_error()
        against = {"autodiff": nn.autodiff(network, loss)}
        nn.check_gradients(
            network, loss, params, state, x, jnp.ones((2, 1)), against=against
        ).require()


@pytest.mark.parametrize("algorithm", [None, "direct", "patches", "winograd"])
def test_a_backward_pass_mapped_over_cotangents_maps_the_deltas_alone(algorithm):
    with jax.enable_x64(True):
        layer = nn.conv(3, (3, 3), algorithm=algorithm)
        params, residuals, dy, capture = captured(layer, image(2, 4, 4, 2))
        mapped = jax.vmap(
            lambda d: layer.backward(params, residuals, d)[1],
            out_axes=nn.ConvCapture(None, 0, capture.geometry, True, algorithm),  # type: ignore
        )(jnp.stack([dy, 2 * dy]))
        assert mapped.inputs.shape == capture.inputs.shape
        assert mapped.deltas.shape == (2, *dy.shape)
        assert_trees_all_close(
            nn.ConvCapture(
                mapped.inputs, mapped.deltas[1], capture.geometry, True, algorithm
            ).gradient(),
            jax.tree.map(lambda g: 2 * g, capture.gradient()),
            rtol=1e-10,
        )
        stacked = nn.StackedCapture(jax.tree.map(lambda a: jnp.stack([a, 3 * a]), capture))
        gradient = capture.gradient()
        assert_trees_all_close(
            stacked.gradient(),
            {
                "weight": jnp.stack([gradient["weight"], 9 * gradient["weight"]]),
                "bias": jnp.stack([gradient["bias"], 3 * gradient["bias"]]),
            },
            rtol=1e-10,
            atol=1e-12,
        )
