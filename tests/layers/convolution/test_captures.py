import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import initialized, normal

import jaxnn as nn


def captured(layer, x, seed=0):
    """The params of a layer, its residuals and a capture, in float64."""
    params, state = initialized(layer, x, seed)
    y, _, residuals = jax.jit(layer.forward)(params, state, x, None)
    dy = normal(seed + 1, y.shape)
    return params, residuals, dy, jax.jit(layer.backward)(params, residuals, dy)[1]


@jax.jit
def linear_gradient(capture):
    """The gradient by way of the linear capture."""
    return capture.fold(capture.linear().gradient())


CASES = [
    nn.conv(6, (3, 2), strides=(2, 1), dilation=(1, 2)),
    nn.conv(6, (3, 2), groups=2, padding="CIRCULAR"),
    nn.conv(6, (2, 2), groups=2, use_bias=False),
    nn.conv_transpose(6, (3, 2), strides=2),
    nn.conv(6, 3, padding=2, padding_mode="reflect", strides=2),
    nn.conv(6, 3, padding=1, padding_value=2.0, groups=2),
    nn.conv_transpose(6, 3, strides=3, padding=1, output_padding=2),
    nn.conv_transpose(6, (3, 3), strides=2, groups=2, padding=1),
]


@pytest.mark.parametrize("layer", CASES)
def test_the_capture_of_patches_is_a_linear_one_with_the_same_gradient(layer):
    with jax.enable_x64(True):
        _, _, _, capture = captured(layer, normal(0, (3, 5, 4, 4)))
        linear = jax.eval_shape(lambda capture: capture.linear(), capture)
        assert isinstance(linear, nn.LinearCapture | nn.StackedCapture)
        expected = jax.jit(nn.contract)(capture)
        assert_trees_all_close(linear_gradient(capture), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", CASES[:4])
def test_examples_on_patches_sum_to_the_gradient(layer):
    # Per-example gradients, the way a statistic takes them.
    with jax.enable_x64(True):
        _, _, _, capture = captured(layer, normal(0, (3, 5, 4, 4)))
        single = jax.tree.map(lambda a: a[:, None], capture)
        each = jax.jit(jax.vmap(linear_gradient))(single)
        total = jax.tree.map(lambda g: np.sum(g, 0), each)
        expected = jax.jit(nn.contract)(capture)
        assert_trees_all_close(total, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
def test_uses_of_different_sizes_join_to_the_sum_of_their_gradients(make):
    with jax.enable_x64(True):
        layer = make(2, (3, 3), groups=2)
        small, large = normal(0, (3, 4, 4, 2)), normal(1, (3, 6, 5, 2))
        uses = [captured(layer, x)[3] for x in (small, large, small)]
        joined = uses[0].join(uses[1]).join(uses[2])
        contract = jax.jit(nn.contract)
        assert_trees_all_close(contract(joined), contract(nn.join(*uses)), rtol=1e-12)
        gradients = [contract(use) for use in uses]
        expected = jax.tree.map(lambda *g: np.sum(g, 0), *gradients)
        assert_trees_all_close(contract(joined), expected, rtol=1e-10)
        assert_trees_all_close(linear_gradient(joined), expected, rtol=1e-10, atol=1e-12)


def test_shared_and_repeated_convolutions_agree_with_autodiff():
    with jax.enable_x64(True):
        layer = nn.serial(nn.conv(2, (3, 3)), nn.tanh())
        network = nn.serial(
            nn.share(nn.repeat(layer, 2)), nn.concatenate(), nn.flatten(), nn.dense(1)
        )
        x = (normal(0, (2, 4, 4, 2)), normal(1, (2, 4, 4, 2)))
        params, state = initialized(network, x)
        loss = nn.half_squared_error()
        against = {"autodiff": nn.autodiff(network, loss)}
        nn.check_gradients(
            network, loss, params, state, x, jnp.ones((2, 1)), against=against
        ).require()


@pytest.mark.parametrize("algorithm", [None, "direct", "patches", "winograd"])
def test_a_backward_pass_mapped_over_cotangents_maps_the_deltas_alone(algorithm):
    with jax.enable_x64(True):
        layer = nn.conv(3, (3, 3), algorithm=algorithm)
        params, residuals, dy, capture = captured(layer, normal(0, (2, 4, 4, 2)))
        backward = jax.vmap(
            lambda d: layer.backward(params, residuals, d)[1],
            out_axes=nn.ConvCapture(None, 0, capture.geometry, True, algorithm),  # type: ignore
        )
        mapped = jax.jit(backward)(np.stack([dy, 2 * np.asarray(dy)]))
        assert mapped.inputs.shape == capture.inputs.shape
        assert mapped.deltas.shape == (2, *dy.shape)
        contract = jax.jit(nn.contract)
        gradient = jax.tree.map(np.asarray, contract(capture))
        second = nn.ConvCapture(mapped.inputs, mapped.deltas[1], capture.geometry, True, algorithm)
        expected = jax.tree.map(lambda g: 2 * g, gradient)
        assert_trees_all_close(contract(second), expected, rtol=1e-10)
        stacked = jax.tree.map(lambda a: jnp.asarray(np.stack([a, 3 * np.asarray(a)])), capture)
        expected = {
            "weight": np.stack([gradient["weight"], 9 * gradient["weight"]]),
            "bias": np.stack([gradient["bias"], 3 * gradient["bias"]]),
        }
        values = contract(nn.StackedCapture(stacked))
        assert_trees_all_close(values, expected, rtol=1e-10, atol=1e-12)


def pooled_capture(x, seed=0):
    return captured(nn.conv_relu_max_pool(nn.conv(3, (3, 3))), x, seed)[3]


def every_capture():
    """One of each kind, of three examples."""
    x, conv = normal(0, (3, 6, 4, 1)), nn.conv(3, (3, 3))
    plain, pooled = captured(conv, x)[3], pooled_capture(x)
    transposed = captured(nn.conv_transpose(3, (3, 3)), x)[3]
    return [plain, transposed, pooled, plain.join(plain), pooled.join(pooled_capture(x[:, :4]))]


def test_mapped_deltas_weigh_every_example_in_every_quantity():
    with jax.enable_x64(True):
        weights = jnp.asarray([2.0, 0.0, -1.0])
        for capture in every_capture():
            weighted = capture.map_deltas(lambda d: d * weights.reshape(-1, *(1,) * (d.ndim - 1)))
            each = jax.jit(jax.vmap(linear_gradient))(jax.tree.map(lambda a: a[:, None], capture))
            expected = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), each)
            gradient = jax.jit(nn.contract)(weighted)
            assert_trees_all_close(gradient, expected, rtol=1e-10, atol=1e-12)
            assert_trees_all_close(linear_gradient(weighted), expected, rtol=1e-10, atol=1e-12)


def test_scaled_captures_have_scaled_gradients():
    with jax.enable_x64(True):
        contract = jax.jit(nn.contract)
        for capture in every_capture():
            expected = jax.tree.map(lambda g: 3 * g, contract(capture))
            assert_trees_all_close(contract(capture.scaled(3)), expected, rtol=1e-12)


def test_deltas_cast_to_float32_have_a_gradient_in_float32():
    layers = [nn.conv(4, (3, 3)), nn.conv_transpose(4, 3), nn.conv_relu_max_pool(nn.conv(4, 3))]
    x = normal(0, (2, 6, 6, 1), jnp.bfloat16)
    for layer in layers:

        def gradient(x, layer=layer):
            params, _ = layer.init(jax.random.key(0), x)
            y, _, residuals = layer.forward(params, (), x, None)
            capture = layer.backward(params, residuals, y)[1]
            return nn.contract(capture.map_deltas(lambda d: d.astype(jnp.float32)))

        dtypes = {g.dtype for g in jax.tree.leaves(jax.eval_shape(gradient, x))}
        assert dtypes == {jnp.dtype("float32")}


def test_pooled_uses_join_to_the_sum_of_their_gradients():
    with jax.enable_x64(True):
        uses = [pooled_capture(normal(s, (3, 6, 4 + s, 1)), s) for s in range(3)]
        joined = uses[0].join(uses[1]).join(uses[2])
        gradients = [jax.jit(nn.contract)(use) for use in uses]
        expected = jax.tree.map(lambda *g: np.sum(g, 0), *gradients)
        assert_trees_all_close(jax.jit(nn.contract)(joined), expected, rtol=1e-10)
        assert_trees_all_close(linear_gradient(joined), expected, rtol=1e-10, atol=1e-12)
