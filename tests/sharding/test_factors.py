"""Captures sent in place of gradients: the same numbers, and as many bytes as the formula says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn.sharding import DATA, make_mesh, sent_bytes
from jaxnn.sharding.factors import send_captures

LOSS = nn.softmax_cross_entropy()
LABELS = np.arange(8, dtype=np.int32) % 3
NETWORK = nn.serial(
    nn.embedding(60, 6),
    nn.conv(4, 2),
    nn.batch_norm(),
    nn.flatten(),
    nn.dense(16),
    nn.dropout(0.3),
    nn.repeat(nn.skip(nn.dense(16), nn.tanh()), 2),
    nn.weight_norm(nn.dense(16)),
    nn.dense(3),
)
IDS = np.arange(8 * 3).reshape(8, 3) % 50


def mesh_of(devices):
    return make_mesh(devices, devices=jax.devices()[:devices])


@pytest.mark.parametrize("devices", [2, 4])
def test_gradients_are_those_of_one_device(devices, x64):
    params, state = started(NETWORK, IDS)
    key, weights = jax.random.key(3), jnp.asarray(1.0 + np.arange(8))
    arguments = params, state, jnp.asarray(IDS), jnp.asarray(LABELS), key, weights
    expected = jax.jit(nn.backprop(NETWORK, LOSS))(*arguments)
    mesh, gradient = mesh_of(devices), send_captures(NETWORK, LOSS)
    split, whole = NamedSharding(mesh, P(DATA)), NamedSharding(mesh, P())
    placed = jax.device_put(arguments, (whole, whole, split, split, whole, split))
    with jax.set_mesh(mesh):
        found = jax.jit(gradient, out_shardings=whole)(*placed)
    assert_agree(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected), 1e-10)
    assert {row.sends_captures for row in gradient.plan(*arguments[:4], key)} == {True, False}


def test_without_a_mesh_it_is_backprop():
    x, network = normal(0, (8, 4), np.float32), nn.serial(nn.dense(5), nn.dense(3))
    params, state = started(network, x)
    run = jax.jit(
        lambda: [f(network, LOSS)(params, state, x, jnp.asarray(LABELS)) for f in functions]
    )
    functions = send_captures, nn.backprop
    assert_agree(*run(), 1e-6)


@pytest.mark.parametrize("devices", [2, 4])
def test_bytes_sent_are_those_of_the_formula_and_fewer_than_of_gradients(devices):
    network = nn.serial(nn.dense(512), nn.relu(), nn.dense(256), nn.relu(), nn.dense(10))
    mesh = mesh_of(devices)
    split, whole = NamedSharding(mesh, P(DATA)), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((16 * devices, 784), jnp.float32, sharding=split)
    labels = jax.ShapeDtypeStruct((16 * devices,), jnp.int32, sharding=split)
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)
    params = jax.tree.map(lambda a: a.update(sharding=whole), params)

    def compiled(gradient):
        with jax.set_mesh(mesh):
            lowered = jax.jit(gradient, out_shardings=whole).lower(params, state, x, labels)
            return lowered.compile()

    gradient = send_captures(network, LOSS)
    plan = gradient.plan(params, state, x, labels)
    assert [row.sends_captures for row in plan] == [True, True, False]
    rows = 16 * devices
    assert [row.captures for row in plan] == [4 * rows * n for n in (784 + 512, 768, 266)]
    loss = 2 * (devices - 1) / devices * 4  # its value, one number
    foretold = sum(row.sent_bytes(devices) for row in plan)
    assert sent_bytes(compiled(gradient)) == foretold + loss
    whole_gradient = sum(row.gradient for row in plan)
    assert sent_bytes(compiled(nn.backprop(network, LOSS))) > 4 * foretold
    assert foretold < whole_gradient
