import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.learning.privacy import clipped_sum, private
from jaxnn.statistics import measuring, per_example_squared_norms

LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(nn.dense(5), nn.layer_norm(), nn.tanh(), nn.dense(3))


def batch(size, features=4):
    return normal(size, (size, features)), jnp.asarray(np.arange(size) % 3)


@given(
    size=st.sampled_from([1, 6, 7]),
    micro_batches=st.sampled_from([1, 3, 10]),
    weighted=st.booleans(),
    make=st.sampled_from([nn.backprop, nn.autodiff]),
)
def test_the_result_is_that_of_the_whole_batch(size, micro_batches, weighted, make):
    with jax.enable_x64(True):
        x, labels = batch(size)
        weights = jnp.asarray(np.arange(1.0, size + 1)) if weighted else None
        params, state = started(NETWORK, x)
        whole = make(NETWORK, LOSS)
        accumulated = nn.accumulate(whole, micro_batches, network=NETWORK)

        @jax.jit
        def both(params, weights):
            return [f(params, state, x, labels, None, weights) for f in (accumulated, whole)]

        assert_agree(*both(params, weights), 1e-10)


def test_examples_and_micro_batches_without_weight_do_not_count(x64):
    x, labels = batch(6)
    params, state = started(NETWORK, x)
    whole = nn.backprop(NETWORK, LOSS)
    weights = jnp.asarray([0.0, 2, 0, 0, 1, 0])  # of three micro-batches, one has none
    accumulated = nn.accumulate(whole, 3, network=NETWORK)
    arguments = (params, state, x, labels, None, weights)
    assert_agree(*(jax.jit(f)(*arguments) for f in (accumulated, whole)), 1e-10)


def test_float32_agrees_to_rounding():
    x, labels = batch(12)
    params, state = started(NETWORK, x)
    whole = nn.backprop(NETWORK, LOSS)
    accumulated = nn.accumulate(whole, 4, network=NETWORK)
    assert_agree(
        *(jax.jit(f)(params, state, x, labels) for f in (accumulated, whole)), tolerance=1e-5
    )


def test_half_precision_is_summed_in_float32():
    network, loss = nn.dense(1, use_bias=False), nn.half_squared_error()
    # Every example's gradient is 1: in bfloat16 a sum of ones stops growing at 256.
    x = jnp.ones((1024, 1), jnp.bfloat16)
    params = {"weight": jnp.zeros((1, 1), jnp.bfloat16)}
    gradient = nn.accumulate(nn.backprop(network, loss), 1024, network=network)
    (value, _), gradients = jax.jit(gradient)(params, (), x, -x)
    assert (value.dtype, gradients["weight"].dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert float(gradients["weight"][0, 0]) == 1


def test_state_passes_through_and_every_micro_batch_draws_its_own_numbers():
    network = nn.serial(nn.dense(64), nn.dropout(0.5))
    x = jnp.ones((2, 3))
    params, state = started(network, x)

    def spying(params, state, x, target, key, weights):
        return (jnp.float32(0), state + 1), network.forward(params, ((), ()), x, key)[0]

    gradient = nn.accumulate(spying, 2, network=nn.identity())
    (_, count), mean = jax.jit(gradient)(params, jnp.int32(5), x, x, jax.random.key(0))
    assert count == 7
    # Of two masks, some units are dropped in one alone: half of what they are where both keep them.
    y = 2 * np.asarray(jax.jit(network.predict)(params, state, x)[0])
    ratio = np.round(np.asarray(mean[0]) / y, 3)
    assert set(ratio) == {0.0, 0.5, 1.0}


def test_an_empty_batch_has_the_mean_of_nothing():
    x, labels = jnp.ones((0, 4)), jnp.zeros(0, jnp.int32)
    params, state = started(NETWORK, x)
    gradient = nn.accumulate(nn.backprop(NETWORK, LOSS), 2, network=NETWORK)
    (value, _), _ = jax.jit(gradient)(params, state, x, labels)
    assert np.isnan(value)


@pytest.mark.parametrize("around", [lambda f: f, lambda f: nn.repeat(f, 2), nn.recompute])
def test_what_mixes_the_examples_of_a_batch_is_refused_by_name(around):
    x, labels = batch(6)
    network = nn.serial(nn.tanh(), around(nn.batch_norm()), nn.dense(3))
    params, state = started(network, x)
    gradient = nn.accumulate(nn.backprop(network, LOSS), 2, network=network)
    with pytest.raises(ValueError, match=r"accumulate: expected layers .* but 1[.0]* batch_norm"):
        jax.eval_shape(gradient, params, state, x, labels)
    inference = nn.in_inference_mode(network)
    allowed = nn.accumulate(nn.backprop(inference, LOSS), 2, network=inference)
    jax.eval_shape(allowed, params, state, x, labels)


@pytest.mark.parametrize(("micro_batches", "error"), [(0, ValueError), (2.0, TypeError)])
def test_a_wrong_number_of_micro_batches_is_refused(micro_batches, error, untyped):
    with pytest.raises(error, match="accumulate: expected micro_batches to be"):
        nn.accumulate(nn.backprop(NETWORK, LOSS), micro_batches, network=NETWORK)


@pytest.mark.parametrize("micro_batches", [4, 16])
def test_the_memory_of_the_compiled_program_is_what_the_summary_foretells(micro_batches):
    network = nn.serial(*[nn.dense(64), nn.gelu()] * 4)
    x = jax.ShapeDtypeStruct((2048, 64), jnp.float32)
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)
    whole = nn.backprop(network, nn.mean_squared_error())

    def temporary_bytes(gradient):
        compiled = jax.jit(gradient).lower(params, state, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept = nn.summarize(network, x).total.residual_bytes
    foretold = kept * (1 - 1 / micro_batches)
    accumulated = nn.accumulate(whole, micro_batches, network=network)
    saved = temporary_bytes(whole) - temporary_bytes(accumulated)
    assert 0.85 * foretold < saved < 1.15 * foretold


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_clipped_sums_of_micro_batches_add_up_to_that_of_the_batch(size, weighted, x64):
    network, loss = nn.serial(nn.dense(4), nn.tanh(), nn.dense(2)), nn.softmax_cross_entropy()
    x, labels = normal(0, (size, 3)), jnp.arange(size) % 2
    weights = jnp.linspace(0, 2, size) if weighted else None
    params, state = started(network, x)
    whole = clipped_sum(network, loss, 0.5)
    expected = jax.jit(whole)(params, state, x, labels, None, weights)
    parts = nn.accumulate(whole, 4, network=network)
    assert_agree(jax.jit(parts)(params, state, x, labels, None, weights), expected, 1e-12)


def test_the_noise_of_a_private_gradient_is_drawn_once_for_the_whole_batch(x64):
    network, loss = nn.dense(400), nn.half_squared_error()
    x, target = normal(0, (8, 50)), jnp.zeros((8, 400))
    params, state = started(network, x)
    gradient = private(network, loss, clip_norm=1e-3, noise_multiplier=2.0, batch_size=8)
    parts = nn.accumulate(gradient, 4, network=network)
    key = jax.random.key(3)
    found, expected = (
        jax.jit(function)(params, state, x, target, key)[1]["weight"]
        for function in (parts, gradient)
    )
    deviation = 2.0 * 1e-3 / 8
    assert abs(float(jnp.std(found)) / deviation - 1) < 0.05
    assert_agree(found, expected, 1e-9)  # the same key draws the same noise


def test_measures_of_micro_batches_are_refused():
    network, loss = nn.serial(nn.dense(2)), nn.softmax_cross_entropy()
    x, labels = normal(0, (4, 3)), jnp.asarray([0, 1, 1, 0])
    gradient = measuring(network, loss, norms=per_example_squared_norms)
    with pytest.raises(ValueError, match="accumulate: expected gradient to return one number"):
        nn.accumulate(gradient, 2, network=network)(*started(network, x), x, labels)
