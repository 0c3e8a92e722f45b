from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn

NETWORK = nn.serial(nn.dense(3), nn.tanh(), nn.layer_norm(), nn.dense(2))
LOSS = nn.softmax_cross_entropy()
WEIGHTS = {"none": None, "some zero": [0.0, 2.0, 0.5, 0.0], "equal": [3.0] * 4}


def batch(n=4, network=NETWORK):
    x, target = normal(0, (n, 4)), jnp.asarray(np.arange(n) % 2)
    return (*started(network, x), x, target)


@cache
def jitted(make, network=NETWORK):
    """A gradient function that is compiled once for all tests that call it on the same shapes."""
    return jax.jit(make(network, LOSS))


def weights(name):
    return None if WEIGHTS[name] is None else jnp.asarray(WEIGHTS[name])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("n", [4, 1])
def test_the_three_gradient_functions_agree(name, n, x64):
    w = None if name == "none" else weights(name)[1 : n + 1] if n == 1 else weights(name)
    arguments = (*batch(n), None, w)
    (value, _), gradients = jitted(nn.backprop)(*arguments)
    for make, tolerance in [(nn.autodiff, 1e-10), (nn.numerical, 1e-7)]:
        (reference_value, _), reference = jitted(make)(*arguments)
        assert_agree(value, reference_value, 1e-14)
        assert_agree(gradients, reference, tolerance)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_no_weights_are_equal_weights_of_any_size(make, x64):
    arguments = batch()
    run = jitted(make)
    assert_agree(run(*arguments, None, weights("equal")), run(*arguments, None, None), 1e-12)


def test_an_example_of_weight_zero_counts_as_absent(x64):
    params, state, x, target = batch()
    run = jitted(nn.backprop)
    expected = run(params, state, x[1:3], target[1:3], None, jnp.asarray([2.0, 0.5]))
    assert_agree(run(params, state, x, target, None, weights("some zero")), expected, 1e-12)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff, nn.numerical])
def test_the_new_state_is_that_of_the_forward_pass(make, x64):
    network = nn.serial(nn.batch_norm(), nn.dense(2))
    params, state, x, target = batch(network=network)
    (_, new_state), _ = jax.jit(make(network, LOSS))(params, state, x, target)
    expected = jax.jit(lambda *a: network.forward(*a, None)[1])(params, state, x)
    assert_agree(new_state, expected, 1e-14)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_gradients_of_an_empty_batch_are_zero_and_its_mean_is_nan(make):
    (value, _), gradients = jitted(make)(*batch(0))
    assert np.isnan(value)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_one_key_gives_every_gradient_function_the_same_noise(make, x64):
    network = nn.serial(nn.dropout(0.5), nn.dense(2))
    arguments = (*batch(network=network), jax.random.key(3))
    expected = jax.jit(nn.numerical(network, LOSS))(*arguments)
    assert_agree(jax.jit(make(network, LOSS))(*arguments), expected, 1e-7)


def test_backprop_runs_without_jit_under_vmap_and_scan(x64):
    params, state, x, target = batch()
    run = nn.backprop(NETWORK, LOSS)
    xs = jnp.asarray(np.stack([x, 2 * np.asarray(x)]))
    one_by_one = [run(params, state, member, target) for member in xs]
    stacked = jax.tree.map(lambda *a: np.stack(a), *one_by_one)
    mapped = jax.jit(jax.vmap(lambda x: run(params, state, x, target)))(xs)
    _, scanned = jax.lax.scan(lambda c, x: (c, run(params, state, x, target)), None, xs)
    assert_agree(mapped, stacked, 1e-12)
    assert_agree(scanned, stacked, 1e-12)


def test_backward_pass_gives_values_prediction_and_dx(x64):
    params, state, x, target = batch()
    result = jitted(nn.backward_pass)(params, state, x, target)

    @jax.jit
    def by_autodiff(x):
        y, vjp = jax.vjp(lambda x: NETWORK.predict(params, state, x), x)
        values, pull_back = jax.vjp(lambda y: LOSS.value(y, target), y)
        return y, values, vjp(*pull_back(jnp.ones_like(values)))[0]

    prediction, values, dx = by_autodiff(x)
    assert_agree(result.prediction, prediction, 1e-14)
    assert_agree(result.values, values, 1e-14)
    assert_agree(result.dx, dx, 1e-10)


def test_captures_of_a_backward_pass_are_not_divided_by_the_batch(x64):
    params, state, x, target = batch()
    result = jitted(nn.backward_pass)(params, state, x, target)
    _, mean = jitted(nn.backprop)(params, state, x, target, None, None)
    total = jax.jit(nn.contract)(result.captures)
    assert_agree(total, jax.tree.map(lambda g: 4 * np.asarray(g), mean), 1e-12)


def test_a_backward_pass_multiplies_each_example_by_its_weight(x64):
    arguments, w = batch(), jnp.asarray([0.5, 2.0, 0.25, 1.0])
    run = jitted(nn.backward_pass)
    plain, weighted = run(*arguments), run(*arguments, None, w)
    assert_agree(weighted.dx, np.asarray(plain.dx) * np.asarray(w)[:, None], 1e-12)
    assert_agree(weighted.values, plain.values, 0)


BAD = [jnp.nan, jnp.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff, nn.numerical])
def test_an_example_of_weight_0_counts_as_if_it_were_not_there_whatever_it_holds(make, bad, x64):
    params, state, x, target = batch()
    w = weights("some zero")
    expected = jax.jit(make(NETWORK, LOSS))(params, state, x[1:3], target[1:3], None, w[1:3])
    x = x.at[0].set(bad).at[3, 1].set(bad)
    target = target.at[0].set(-7)
    assert_agree(jitted(make)(params, state, x, target, None, w), expected, 1e-9)


def test_an_example_of_weight_0_has_the_value_0_and_no_dx(x64):
    params, state, x, target = batch()
    w = weights("some zero")
    result = jitted(nn.backward_pass)(params, state, x.at[0].set(jnp.nan), target, None, w)
    assert np.all(np.asarray(result.values)[[0, 3]] == 0)
    assert np.all(np.asarray(result.dx)[[0, 3]] == 0)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_a_float_target_of_weight_0_may_hold_nan(make, x64):
    params, state, x, _ = batch()
    loss, w = nn.mean_squared_error(), weights("some zero")
    target = normal(5, (4, 2))
    expected = jax.jit(make(NETWORK, loss))(params, state, x, target, None, w)
    unknown = target.at[0].set(jnp.nan)
    assert_agree(jax.jit(make(NETWORK, loss))(params, state, x, unknown, None, w), expected, 1e-12)


def test_a_network_without_parameters_has_no_gradients(x64):
    for make in (nn.backprop, nn.autodiff, nn.numerical):
        run = jax.jit(make(nn.tanh(), LOSS))
        _, gradients = run((), (), normal(0, (2, 3)), jnp.asarray([0, 1]))
        assert jax.tree.leaves(gradients) == []


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff, nn.numerical])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.ones(3, np.float32), ValueError),
        (np.ones((4, 1), np.float32), ValueError),
        (np.ones(4, np.float16), ValueError),
        (np.ones(4, int), TypeError),
        ([1.0] * 4, TypeError),
    ],
)
def test_unfit_weights_are_refused(make, wrong, error, untyped):
    with pytest.raises(error, match="gradient function: expected weights to be"):
        jitted(make)(*batch(), None, wrong)


@pytest.mark.parametrize("step", [0.0, -1e-3])
def test_numerical_refuses_a_step_that_is_not_positive(step):
    with pytest.raises(ValueError, match="numerical: expected step to lie in"):
        nn.numerical(NETWORK, LOSS, step)
