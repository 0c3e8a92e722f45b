"""Scattering against its definition, against kymatio, and what it is for: nothing goes back."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal
from scipy.signal import convolve2d

import jaxnn as nn
from jaxnn.layers.scattering import FREQUENCY, WIDTH, _modulus, _modulus_backward, waves

PEERS = Path(__file__).parent.parent / "references" / "peers.json"


def by_definition(image, scales, orientations):
    """[rows, columns, 1 + scales · orientations] of an image [height, width]."""

    def blurred(u, apart):
        deviation, every = WIDTH * 2 ** (scales - 1) / apart, 2**scales // apart
        reach = int(np.ceil(4 * deviation))
        weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / 2 / deviation**2)
        weights /= weights.sum()
        kernel = np.outer(weights, weights)
        return convolve2d(np.pad(u, reach, "reflect"), kernel, "valid")[::every, ::every]

    found = [blurred(image, 1)]
    for scale in range(scales):
        real, imaginary = np.split(waves(scale, orientations)[:, :, 0], 2, -1)
        for psi in np.moveaxis(real + 1j * imaginary, -1, 0):
            mirrored = np.pad(image, len(psi) // 2, "reflect")
            z = convolve2d(mirrored, psi, "valid")[:: 2**scale, :: 2**scale]
            found.append(blurred(np.abs(z), 2**scale))
    return np.stack(found, -1)


def test_scattering_is_what_its_definition_says_channel_by_channel(x64):
    x = normal(0, (2, 11, 9, 2))
    y = nn.scattering(2, 3).predict((), (), x)
    expected = [
        np.concatenate([by_definition(one[..., c], 2, 3) for c in range(2)], -1)
        for one in np.asarray(x)
    ]
    assert_agree(y, np.stack(expected), 1e-12)


def test_scattering_away_from_the_border_is_that_of_kymatio(x64):
    told = json.loads(PEERS.read_text(encoding="utf-8"))["scattering"]
    x = jnp.asarray(told["x"])[None, :, :, None]
    inner = nn.scattering(1).predict((), (), x)[0, 4:-4, 4:-4]
    order = np.array([0, *(1 + (3 - np.arange(8)) % 8)])  # it counts angles from 3π/8 downwards
    found = jnp.moveaxis(inner[..., order], -1, 0)
    assert_agree(found, np.array(told["inner"]), 1e-3)  # it cuts no wave off


def test_waves_see_no_constant(x64):
    y = nn.scattering(2, 4).predict((), (), jnp.full((1, 8, 8, 1), 3.0))
    assert_agree(y[..., 0], np.full((1, 2, 2), 3.0), 1e-12)
    assert np.abs(y[..., 1:]).max() < 1e-12


@pytest.mark.parametrize("orientation", range(4))
def test_a_wave_is_seen_by_its_own_orientation_most(orientation):
    angle = np.pi * orientation / 4
    row, column = np.mgrid[:32, :32]
    wave = np.sin(FREQUENCY * (row * np.cos(angle) + column * np.sin(angle)))
    y = nn.scattering(1, 4).predict((), (), jnp.asarray(wave, jnp.float32)[None, :, :, None])
    assert np.argmax(np.asarray(y)[0, 8, 8, 1:]) == orientation


def test_the_modulus_sends_nothing_back_where_it_is_zero():
    layer, x = nn.scattering(1, 2), jnp.zeros((1, 4, 4, 1))
    y, residuals = layer.apply(x)
    dx = layer.pull_back(residuals, jnp.ones_like(y).at[..., 0].set(0))
    np.testing.assert_array_equal(dx, 0)


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_the_modulus_of_waves_far_from_1_neither_vanishes_nor_overflows(factor):
    z = jnp.array([3.0, 4.0], jnp.float32) * factor
    modulus, phase = _modulus(z)
    np.testing.assert_allclose(modulus, [5 * factor], rtol=1e-6)
    np.testing.assert_allclose(phase, [0.6, 0.8], rtol=1e-6)


def test_a_modulus_that_is_no_number_is_not_taken_for_zero():
    assert np.isnan(_modulus(jnp.array([jnp.nan, 1.0]))[1]).all()


def test_the_second_derivative_of_the_modulus_at_zero_is_that_of_autodiff(x64):
    def second(slope):
        return jax.jacobian(slope)(jnp.zeros(2))

    expected = second(jax.grad(lambda z: _modulus(z)[0][0]))
    assert_agree(second(lambda z: _modulus_backward(_modulus(z)[1], jnp.ones(1))), expected, 0)


def test_images_without_channels_stay_without():
    layer, x = nn.scattering(1, 2), jnp.zeros((2, 4, 4, 0))
    y, residuals = layer.apply(x)
    assert y.shape == (2, 2, 2, 0)
    assert layer.pull_back(residuals, y).shape == x.shape


def test_what_it_keeps_of_several_channels_can_be_compressed():
    x = normal(0, (2, 8, 8, 2))
    nn.compress(nn.scattering(1, 2), 8).init(jax.random.key(0), x)


def test_as_the_first_layer_it_is_not_gone_back_through():
    network, loss = nn.serial(nn.scattering(1, 2), nn.flatten(), nn.dense(3)), nn.hinge()
    x, target = jnp.ones((2, 16, 16, 1)), jnp.ones((2, 3))
    params, state = network.init(jax.random.key(0), x)

    def operations(function, *arguments):
        found: Any = jax.jit(function).lower(*arguments).compile().cost_analysis()
        return found["flops"]

    forward = operations(lambda x: network.predict(params, state, x), x)
    gradient = operations(nn.backprop(network, loss), params, state, x, target)
    assert gradient < 1.2 * forward


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.scattering(0), ValueError, "scattering: expected scales to be at least 1"),
        (
            lambda: nn.scattering(3).init(None, jnp.ones((1, 7, 9, 1))),
            ValueError,
            "at least 2\\^scales = 8, got \\(7, 9\\); fewer scales",
        ),
        (lambda: nn.scattering(1).init(None, jnp.ones((1, 8, 1))), ValueError, "2 spatial"),
        (lambda: nn.scattering(1).init(None, jnp.ones((1, 8, 8, 1), int)), TypeError, "floating"),
    ],
)
def test_what_cannot_be_scattered_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
