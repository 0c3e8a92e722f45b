"""Weights of few values: what they are, and the gradient that they are learnt by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn import statistics

LEVELS = ["binary", "ternary", 2, 4]
W = np.array([[0.5, -3.0], [-1.5, 0.0], [4.0, 6.0]])
EXPECTED = {
    "binary": [[2, -3], [-2, 3], [2, 3]],
    "ternary": [[0, -4.5], [-2.75, 0], [2.75, 4.5]],
    2: [[0, 0], [0, 0], [4, 6]],
    3: [[0, -4], [-4 / 3, 0], [4, 6]],
}


@pytest.mark.parametrize("levels", EXPECTED)
def test_weights_are_those_of_the_definition_for_each_output(levels, x64):
    layer = nn.quantized(nn.dense(2, use_bias=False), levels)
    _, state = layer.init(jax.random.key(0), jnp.ones((1, 3)))
    y = layer.predict({"weight": jnp.asarray(W)}, state, jnp.eye(3))
    # Halves go to the even number: -3 / 2 is between -1 and -2 steps.
    np.testing.assert_allclose(y, EXPECTED[levels], atol=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(
    "inner", [nn.dense(3), nn.conv(3, (2, 2), groups=1)], ids=["dense", "conv"]
)
def test_the_gradient_is_that_of_the_layer_with_the_weights_of_few_values(inner, levels, x64):
    layer = nn.quantized(inner, levels)
    x = normal(1, (4, 5) if isinstance(inner, nn.dense) else (4, 3, 3, 2))
    params, state = started(layer, x)
    y, dx, gradients = passes(layer, params, state, x)
    given, _ = layer._given(params, ())
    assert (
        len(np.unique(given["weight"][..., 0])) <= {"binary": 2, "ternary": 3, 2: 3, 4: 15}[levels]
    )
    expected, vjp = jax.vjp(lambda p, x: inner.predict(p, (), x), given, x)
    by_params, by_x = vjp(jnp.ones_like(y))
    assert_agree((y, dx, gradients), (expected, by_x, by_params), 1e-12)
    assert all((g == 0).all() for g in [passes(nn.plain(layer), params, state, x)[2]["weight"]])


def test_examples_have_gradients_of_their_own(x64):
    network, loss = nn.serial(nn.quantized(nn.dense(3), "ternary")), nn.softmax_cross_entropy()
    x, labels = normal(1, (4, 5)), jnp.array([0, 1, 2, 0])
    params, state = started(network, x)

    @jax.jit
    def both():
        each = statistics.per_example_gradients(network, loss)(params, state, x, labels)
        return jax.tree.map(lambda g: g.mean(0), each), nn.backprop(network, loss)(
            params, state, x, labels
        )[1]

    assert_agree(*both(), 1e-12)


def test_weights_of_zeros_stay_zeros():
    for levels in LEVELS:
        layer = nn.quantized(nn.dense(2, use_bias=False), levels)
        _, state = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        y = layer.predict({"weight": jnp.zeros((3, 2))}, state, jnp.ones((1, 3)))
        np.testing.assert_array_equal(y, 0)


def test_a_network_of_two_values_learns():
    """XOR, of which the weights that are used have one size for each unit."""
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels, loss = jnp.array([0, 1, 1, 0]), nn.softmax_cross_entropy()
    network = nn.serial(nn.quantized(nn.dense(16)), nn.tanh(), nn.quantized(nn.dense(2)))

    @jax.jit
    def learn():
        params, state = network.init(jax.random.key(0), x)
        gradient = nn.backprop(network, loss)

        def step(params, _):
            gradients = gradient(params, state, x, labels)[1]
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradients), None

        params, _ = jax.lax.scan(step, params, length=500)
        return network.predict(params, state, x).argmax(1)

    np.testing.assert_array_equal(learn(), labels)


@pytest.mark.parametrize("levels", [1, 9, "trinary", True])
def test_other_levels_are_refused(levels, untyped):
    with pytest.raises((TypeError, ValueError), match="expected levels to be"):
        nn.quantized(nn.dense(2), levels)


def test_outputs_of_a_transposed_convolution_are_along_another_axis():
    layer = nn.quantized(nn.conv_transpose(3, (2, 2)), axis=-2)
    x = normal(1, (2, 3, 3, 5))
    params, state = started(layer, x)
    weight = layer._given(params, state.own)[0]["weight"]
    sizes = jnp.abs(params["weight"]).mean((0, 1, 3), keepdims=True)
    np.testing.assert_allclose(jnp.abs(weight), jnp.broadcast_to(sizes, weight.shape), rtol=1e-6)
    with pytest.raises(ValueError, match="quantized: expected axis to name one of the weight"):
        nn.quantized(nn.dense(2), axis=2).init(jax.random.key(0), jnp.ones((1, 3)))
