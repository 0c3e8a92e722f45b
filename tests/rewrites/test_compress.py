"""Residuals in a few bits: as few bytes as that, without bias, exact where they are discrete."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics, training
from jaxnn.rewrites.compress import Packed, Rounded, rounded

LOSS = nn.softmax_cross_entropy()
IMAGES, LABELS = normal(0, (4, 4, 4, 2), np.float32), jnp.arange(4) % 3
NETWORK = nn.serial(
    nn.conv(4, (3, 3)),
    nn.relu(),
    nn.max_pool(2),
    nn.flatten(),
    nn.repeat(nn.serial(nn.dense(16), nn.gelu()), 2),
    nn.dropout(0.3),
    nn.dense(8),
    nn.leaky_relu(0.2),
    nn.dense(3),
)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_have_the_mean_of_the_values_and_never_the_wrong_neighbour(bits, x64):
    a = normal(0, (3, 5, 7))
    keys = jax.random.split(jax.random.key(1), 2000)
    draws = jax.jit(jax.vmap(lambda key: rounded(a, bits, 8, key).values()))(keys)
    step = np.asarray(rounded(a, bits, 8, keys[0]).step)
    assert np.max(np.abs(draws - a)) <= step.max() * (1 + 1e-9)
    assert np.all(np.var(draws, 0) <= step.max() ** 2 / 4 * 1.1)
    errors = np.sum(np.asarray(draws) - np.asarray(a), (1, 2, 3))
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors))


def test_zeros_equal_values_halves_and_booleans_are_kept_as_they_are():
    key, a = jax.random.key(0), jax.nn.relu(normal(0, (4, 40), np.float32))
    same = jnp.full((2, 3, 9), 1e30, jnp.float32)
    halves = same.astype(jnp.bfloat16)
    run = jax.jit(lambda *arrays: [rounded(own, 2, 16, key).values() for own in arrays])
    own, own_same, own_halves = run(a, same, halves)
    assert np.all(np.asarray(own)[np.asarray(a) == 0] == 0)
    np.testing.assert_array_equal(own_same, same)
    np.testing.assert_array_equal(own_halves, halves)
    assert own_halves.dtype == jnp.bfloat16


def test_no_examples_rounding_depends_on_another():
    a = normal(0, (4, 40), np.float32)
    other = a.at[0].multiply(100)
    key = jax.random.key(0)
    one, two = (rounded(x, 4, 16, key).values() for x in (a, other))
    np.testing.assert_array_equal(one[1:], two[1:])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_codes_of_half_precision_have_the_mean_of_the_values(dtype):
    a = normal(0, (4, 128), np.float32).astype(dtype)
    keys = jax.random.split(jax.random.key(1), 300)
    draws = jax.jit(jax.vmap(lambda key: rounded(a, 8, 128, key).values()))(keys)
    assert draws.dtype == a.dtype
    errors = np.asarray(draws, float) - np.asarray(a, float)
    step = np.asarray(rounded(a, 8, 128, keys[0]).step)[:, :1]
    assert np.max(np.abs(errors / step)) < 1.01 + 4 * (dtype == "bfloat16")  # of the last rounding
    assert abs(np.mean(errors / step)) < 0.01


@pytest.mark.parametrize("time", [4, 5])
def test_of_what_stands_behind_time_the_examples_are_rounded_apart(time):
    layer = nn.compress(nn.lstm(8), 4)
    x, key = normal(0, (4, time, 8), np.float32), jax.random.key(1)
    params, state = started(layer, x)

    @jax.jit
    def passes(x):
        y, _, residuals = layer.forward(params, state, x, key)
        dx, captures = layer.backward(params, residuals, jnp.ones_like(y))
        return dx, [c.inputs for c in jax.tree.leaves(captures, is_leaf=is_linear)]

    one, two = passes(x), passes(x.at[0].multiply(100))
    assert len(codes_of(layer, x, Rounded)) >= 3
    for before, after in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(before[1:], after[1:])


def test_the_gradient_has_the_mean_of_the_true_one_within_three_standard_errors():
    exact = nn.in_inference_mode(NETWORK)  # without dropout
    network = nn.compress(exact, 2, group=16)
    params, state = started(network, IMAGES)

    def along(gradients):
        directions = [
            np.random.default_rng(i).normal(size=g.shape)
            for i, g in enumerate(jax.tree.leaves(gradients))
        ]
        leaves = zip(jax.tree.leaves(gradients), directions, strict=True)
        return jnp.stack([jnp.sum(g * d) for g, d in leaves])

    gradient = nn.backprop(network, LOSS)
    keys = jax.random.split(jax.random.key(7), 10_000)
    draws = jax.jit(
        lambda keys: jax.lax.map(
            lambda k: along(gradient(params, state, IMAGES, LABELS, k)[1]), keys, batch_size=500
        )
    )(keys)
    (_, _), expected = jax.jit(nn.backprop(exact, LOSS))(params, state, IMAGES, LABELS)
    errors = np.asarray(draws) - np.asarray(along(expected))
    deviations = errors.std(0)
    assert np.all(np.abs(errors.mean(0)) < 3 * deviations / np.sqrt(len(keys)) + 1e-5)
    assert np.count_nonzero(deviations > 1e-3) >= 6


def test_y_and_dropout_are_those_of_the_layer_and_nothing_is_rounded_at_rest():
    params, state = started(NETWORK, IMAGES)
    compressed, key = nn.compress(NETWORK), jax.random.key(3)
    run = jax.jit(lambda: [n.forward(params, state, IMAGES, key)[0] for n in (NETWORK, compressed)])
    assert_agree(*run(), 1e-6)
    for view in (nn.in_inference_mode, nn.plain):
        assert view(compressed) == view(NETWORK)


def codes_of(layer, x, kind):
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    kept = jax.eval_shape(layer.forward, params, state, x, jax.random.key(0))[2]
    nodes = jax.tree.leaves(kept, is_leaf=lambda node: isinstance(node, Rounded | Packed))
    return [node for node in nodes if isinstance(node, kind)]


def is_linear(node):
    return isinstance(node, nn.LinearCapture)


@pytest.mark.parametrize(
    ("layer", "packed", "in_codes"),
    [
        (nn.relu(), 1, 0),
        (nn.leaky_relu(0.3), 1, 0),
        (nn.hard_tanh(), 1, 0),
        (nn.dropout(0.5), 1, 0),
        (nn.tanh(), 0, 1),
        (nn.dense(3), 0, 1),
        (nn.layer_norm(), 0, 1),
        (nn.multiply(), 0, 2),
    ],
)
def test_masks_take_one_bit_and_arrays_codes(layer, packed, in_codes):
    x = jnp.ones((4, 64))
    x = (x, x + 1) if layer == nn.multiply() else x
    layer = nn.compress(layer)
    assert (len(codes_of(layer, x, Packed)), len(codes_of(layer, x, Rounded))) == (packed, in_codes)


@pytest.mark.parametrize("layer", [nn.relu(), nn.leaky_relu(0.3), nn.hard_tanh(-0.5, 0.5)])
def test_what_has_two_slopes_is_exact(layer):
    x = jnp.concatenate([normal(0, (3, 9), np.float32), jnp.zeros((1, 9))])
    dx = []
    for own in (layer, nn.compress(layer, 2)):
        y, _, residuals = own.forward((), (), x, jax.random.key(0))
        dx.append(own.backward((), residuals, jnp.cos(y))[0])
    np.testing.assert_array_equal(*dx)


BLOCK = nn.serial(nn.dense(256), nn.relu(), nn.dense(256), nn.gelu())


def test_four_bits_keep_a_fifth_of_the_bytes_and_the_compiled_program_too():
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    plain, compressed = (nn.repeat(block, 16) for block in (BLOCK, nn.compress(BLOCK)))
    kept = [nn.summarize(network, x).total.residual_bytes for network in (plain, compressed)]
    assert kept[1] <= 0.2 * kept[0]

    def temporary_bytes(network):
        gradient = nn.backprop(network, nn.mean_squared_error())
        params, state = jax.eval_shape(network.init, jax.random.key(0), x)
        arguments = params, state, x, x, jax.eval_shape(lambda: jax.random.key(0))
        compiled = jax.jit(lambda *a: gradient(*a)[1]).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(compressed) <= 0.25 * temporary_bytes(plain)


def test_rules_statistics_and_updates_on_the_way_back_work_on():
    network = nn.compress(nn.serial(nn.dense(16), nn.tanh(), nn.dense(3)))
    x, key = normal(0, (4, 16), np.float32), jax.random.key(0)
    step = training.update_in_backward(network, LOSS, optax.sgd(0.1))
    plain = training.make_step(nn.backprop(network, LOSS), optax.sgd(0.1))
    before = step.create_state(key, x)
    params, state = before.params, before.state

    @jax.jit
    def run():
        examples = statistics.per_example_gradients(network, LOSS)(params, state, x, LABELS, key)
        _, gradients = nn.backprop(network, LOSS)(params, state, x, LABELS, key)
        expected = before._replace(optimizer_state=optax.sgd(0.1).init(params))
        both = step(before, x, LABELS)[0].params, plain(expected, x, LABELS)[0].params
        return jax.tree.map(lambda g: jnp.mean(g, 0), examples), gradients, both

    mean, gradients, both = run()
    assert_agree(mean, gradients, 1e-5)
    assert_agree(*both, 1e-6)
    fed = nn.feedback_alignment(network)
    params, state = jax.eval_shape(fed.init, key, x)
    jax.eval_shape(nn.backprop(fed, LOSS), params, state, x, LABELS, key)


def test_what_cannot_be_compressed_is_refused(untyped):
    with pytest.raises(ValueError, match="compress: unknown bits 3: valid are 2, 4, 8"):
        nn.compress(nn.dense(3), 3)
    with pytest.raises(ValueError, match="flatten keeps none that 4 bits can serve"):
        nn.compress(nn.flatten()).init(jax.random.key(0), IMAGES)
    layer = nn.compress(nn.dense(3))
    with pytest.raises(ValueError, match="compress: expected key to be a random key"):
        layer.forward(*started(layer, jnp.ones((2, 16))), jnp.ones((2, 16)), None)
