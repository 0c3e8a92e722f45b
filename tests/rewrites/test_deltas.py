"""Deltas in eight bits: the numbers of the formats, without bias where that is promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.rewrites.deltas import FORMATS, round_to

D = normal(0, (64, 40), np.float32) ** 7  # over many powers of two


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_rounding_to_the_nearest_is_that_of_the_dtype(name):
    form = FORMATS[name]
    s = jnp.max(jnp.abs(D)) / form.largest
    expected = (D / s).astype(jnp.dtype(name)).astype(jnp.float32) * s
    np.testing.assert_array_equal(round_to(D, form, "tensor"), expected)
    assert float(jnp.finfo(name).max) == form.largest


def test_int8_has_255_numbers_of_one_distance_and_ties_go_to_even():
    d = jnp.asarray([[127.0, 0.5, 1.5, -2.5, 3.2]])
    np.testing.assert_array_equal(round_to(d, FORMATS["int8"], "row"), [[127.0, 0, 2, -2, 3]])


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_at_random_has_the_mean_of_the_deltas(name):
    d, keys = D[:4, :10], jax.random.split(jax.random.key(0), 10_000)
    draws = jax.jit(jax.vmap(lambda key: round_to(d, FORMATS[name], "row", key)))(keys)
    errors = np.asarray(draws, float) - np.asarray(d)
    along = np.tensordot(errors, np.random.default_rng(1).normal(size=d.shape), 2)
    assert along.std() > 0
    assert abs(along.mean()) < 3 * along.std() / np.sqrt(len(keys))


@pytest.mark.parametrize(("scale", "axes"), [("tensor", None), ("example", (1, 2)), ("row", (2,))])
def test_each_scale_makes_its_own_largest_delta_the_largest_number(scale, axes):
    d = normal(0, (3, 4, 5), np.float32)
    rounded = np.asarray(round_to(d, FORMATS["int8"], scale))
    largest = np.max(np.abs(d), axes, keepdims=True)
    np.testing.assert_allclose(np.max(np.abs(rounded), axes, keepdims=True), largest, rtol=1e-6)
    assert np.all(np.abs(rounded - d) <= largest / 127 / 2 * (1 + 1e-5))


def test_zeros_halves_and_an_empty_batch_go_through():
    for d in (jnp.zeros((2, 3)), jnp.zeros((0, 3)), jnp.zeros((2,), jnp.bfloat16)):
        rounded = round_to(d, FORMATS["float8_e5m2"], "row")
        np.testing.assert_array_equal(rounded, d)
        assert rounded.dtype == d.dtype


X, LABELS = normal(0, (4, 6), np.float32), jnp.arange(4) % 3
NETWORK = nn.serial(nn.dense(5), nn.relu(), nn.dropout(0.2), nn.dense(3))
LOSS = nn.softmax_cross_entropy()


def test_the_first_layer_from_behind_contracts_the_rounded_deltas():
    network, key = nn.low_precision_deltas(NETWORK, "int8", "row"), jax.random.key(0)
    params, state = started(network, X)
    run = jax.jit(lambda: [nn.backward_pass(n, LOSS)(params, state, X, LABELS, key) for n in both])
    both = network, NETWORK
    own, exact = run()
    assert_agree(own.prediction, exact.prediction, 1e-6)
    expected = round_to(exact.captures[3].deltas, FORMATS["int8"], "row")
    assert_agree(own.captures[3].deltas, expected, 1e-6)
    assert np.any(np.asarray(own.captures[0].deltas) != np.asarray(exact.captures[0].deltas))
    assert nn.plain(network) == NETWORK


def test_one_scale_for_the_batch_mixes_the_examples_and_one_for_each_row_does_not():
    network = nn.serial(nn.dense(5), nn.dense(3))
    params, state = started(network, X)
    norms = statistics.per_example_squared_norms(
        nn.low_precision_deltas(network, scale="row"), LOSS
    )
    assert norms(params, state, X, LABELS).shape == (4,)
    mixed = statistics.per_example_squared_norms(nn.low_precision_deltas(network), LOSS)
    with pytest.raises(ValueError, match="dense mixes the examples"):
        mixed(params, state, X, LABELS)


def test_what_is_no_format_and_noise_without_a_key_are_refused(untyped):
    with pytest.raises(ValueError, match=r"low_precision_deltas: unknown format .int4"):
        nn.low_precision_deltas(NETWORK, "int4")
    with pytest.raises(ValueError, match=r"low_precision_deltas: unknown scale .column"):
        nn.low_precision_deltas(NETWORK, scale="column")
    layer = nn.low_precision_deltas(nn.dense(3), stochastic=True)
    params, state = started(layer, X)
    with pytest.raises(ValueError, match="low_precision_deltas: expected key to be a random key"):
        layer.forward(params, state, X, None)
