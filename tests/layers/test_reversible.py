"""Reversible blocks: gradients of the true function, from an input that is computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics, training
from jaxnn.learning.privacy import private

F = nn.serial(nn.dense(3), nn.tanh(), nn.dropout(0.2))
G = nn.serial(nn.dense(3, use_bias=False), nn.batch_norm(), nn.silu())
PAIR = nn.reversible(F, G)
MOMENTUM = nn.reversible(F, momentum=0.8)
X = normal(0, (4, 6), np.float32)
APART = nn.reversible(nn.serial(nn.dense(2), nn.tanh()), nn.dense(4)), (X[:, :2], X[:, 2:])
LAYERS = {
    "halves": (PAIR, X),
    "momentum": (MOMENTUM, X),
    "members of two shapes": APART,
    "repeated": (nn.serial(nn.repeat(nn.reversible(nn.dense(3), nn.tanh()), 2), nn.tanh()), X),
    "empty batch": (nn.reversible(nn.dense(3), nn.dense(3)), X[:0]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_reversible_layers_keep_the_laws(name):
    layer, x = LAYERS[name]
    nn.check_layer(layer, x).require()


def test_gradients_of_many_blocks_are_those_of_autodiff(x64):
    network = nn.serial(nn.repeat(PAIR, 12), MOMENTUM, MOMENTUM)
    x, key = normal(0, (4, 6)), jax.random.key(3)
    params, state = started(network, x)
    both = [f(network, nn.mean_squared_error()) for f in (nn.backprop, nn.autodiff)]
    own, expected = jax.jit(lambda p: [f(p, state, x, 0 * x, key) for f in both])(params)
    assert_agree(own, expected, 1e-10)


def test_what_is_kept_does_not_grow_with_depth():
    block = nn.serial(nn.dense(32), nn.gelu(), nn.dense(32))

    def temporary_bytes(n, wrap=lambda layer: layer):
        network = wrap(nn.repeat(nn.reversible(block, block), n))
        loss, x = nn.mean_squared_error(), jax.ShapeDtypeStruct((256, 64), jnp.float32)
        step = training.update_in_backward(network, loss, optax.sgd(0.1))
        zeros = jnp.zeros(x.shape, x.dtype)
        start = jax.eval_shape(lambda key: step.create_state(key, zeros), jax.random.key(0))
        compiled = jax.jit(step, donate_argnums=0).lower(start, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert abs(temporary_bytes(64) / temporary_bytes(4) - 1) < 0.1


def test_backward_keeps_one_output_as_the_summary_says():
    x = jax.ShapeDtypeStruct((16, 8), jnp.float32)
    block = nn.reversible(nn.serial(nn.dense(4), nn.tanh()), nn.dense(4))
    size = 16 * 8 * 4
    for network in (nn.repeat(block, 5), nn.serial(*[block] * 5)):
        total = nn.summarize(nn.serial(network, nn.dense(8), nn.tanh()), x).total
        # The output of the blocks, which dense keeps too, and that of tanh.
        assert total.residual_bytes == 2 * size
        assert total.saved_bytes > 5 * size


def test_steps_on_the_way_back_are_those_of_plain_backprop(x64):
    network = nn.serial(nn.repeat(PAIR, 2), MOMENTUM)
    loss, optimizer, x = nn.mean_squared_error(), optax.sgd(0.1), normal(0, (4, 6))
    step = training.update_in_backward(network, loss, optimizer)
    plain = training.make_step(nn.backprop(network, loss), optimizer)
    own = step.create_state(jax.random.key(0), x)
    expected = training.create_state(network, optimizer, jax.random.key(0), x)
    own, expected = jax.jit(lambda a, b: (step(a, x, x), plain(b, x, x)))(own, expected)
    assert_agree((own[0].params, own[0].state), (expected[0].params, expected[0].state), 1e-10)


def test_examples_have_gradients_of_their_own(x64):
    network, loss = nn.in_inference_mode(nn.repeat(PAIR, 2)), nn.mean_squared_error()
    x, target = normal(0, (3, 6)), normal(1, (3, 6))
    params, state = started(network, x)
    norms = statistics.per_example_squared_norms(network, loss)(params, state, x, target)

    def of_one(x, t):
        gradient = nn.autodiff(network, loss)(params, state, x[None], t[None])[1]
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))

    assert_agree(norms, jax.vmap(of_one)(x, target), 1e-10)
    gradient = private(network, loss, clip_norm=1.0, noise_multiplier=1.0, batch_size=3)
    _, noisy = jax.eval_shape(gradient, params, state, x, target, jax.random.key(0))
    assert jax.tree.structure(noisy) == jax.tree.structure(params)


def test_forward_is_run_again_with_the_params_that_it_was_run_with(x64):
    layer, x = nn.reversible(nn.dense(3), nn.serial(nn.dense(3), nn.tanh())), normal(0, (4, 6))
    params, state = started(layer, x)
    others, _ = started(layer, x, seed=7)
    y, _, residuals = layer.forward(params, state, x, None)
    _, captures = layer.backward(others, residuals, y)
    np.testing.assert_allclose(captures[0].inputs, x[:, 3:], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected either g or momentum, got neither"),
        ({"g": F, "momentum": 0.5}, "expected either g or momentum, got both"),
        ({"momentum": 1.0}, r"expected momentum to lie in \(0, 1\), got 1"),
    ],
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"reversible: {message}"):
        nn.reversible(F, **arguments)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (PAIR, X[:, :5], r"expected x to have an even number of features.*got shape \(4, 5\)"),
        (nn.reversible(nn.dense(2), F), X, r"expected dense to return .*\(4, 3\).*got \(\(4, 2\)"),
    ],
)
def test_halves_that_do_not_fit_are_refused(layer, x, message):
    with pytest.raises(ValueError, match=f"reversible: {message}"):
        layer.init(jax.random.key(0), x)
