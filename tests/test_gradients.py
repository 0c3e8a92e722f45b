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


def weights(name):
    return None if WEIGHTS[name] is None else jnp.asarray(WEIGHTS[name])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("n", [4, 1])
def test_the_three_gradient_functions_agree(name, n, x64):
    w = None if name == "none" else weights(name)[1 : n + 1] if n == 1 else weights(name)
    arguments = (*batch(n), None, w)
    (value, _), gradients = jax.jit(nn.backprop(NETWORK, LOSS))(*arguments)
    for make, tolerance in [(nn.autodiff, 1e-10), (nn.numerical, 1e-7)]:
        (reference_value, _), reference = jax.jit(make(NETWORK, LOSS))(*arguments)
        assert_agree(value, reference_value, 1e-14)
        assert_agree(gradients, reference, tolerance)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_no_weights_are_equal_weights_of_any_size(make, x64):
    arguments = batch()
    run = jax.jit(make(NETWORK, LOSS))
    assert_agree(run(*arguments, None, weights("equal")), run(*arguments), 1e-12)


def test_an_example_of_weight_zero_counts_as_absent(x64):
    params, state, x, target = batch()
    run = nn.backprop(NETWORK, LOSS)
    expected = run(params, state, x[1:3], target[1:3], None, jnp.asarray([2.0, 0.5]))
    assert_agree(run(params, state, x, target, None, weights("some zero")), expected, 1e-12)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff, nn.numerical])
def test_the_new_state_is_that_of_the_forward_pass(make, x64):
    network = nn.serial(nn.batch_norm(), nn.dense(2))
    params, state, x, target = batch(network=network)
    (_, new_state), _ = make(network, LOSS)(params, state, x, target)
    assert_agree(new_state, network.forward(params, state, x, None)[1], 1e-14)


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_gradients_of_an_empty_batch_are_zero_and_its_mean_is_nan(make):
    (value, _), gradients = make(NETWORK, LOSS)(*batch(0))
    assert np.isnan(value)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("make", [nn.backprop, nn.autodiff])
def test_one_key_gives_every_gradient_function_the_same_noise(make, x64):
    network = nn.serial(nn.dropout(0.5), nn.dense(2))
    arguments = (*batch(network=network), jax.random.key(3))
    expected = nn.numerical(network, LOSS)(*arguments)
    assert_agree(make(network, LOSS)(*arguments), expected, 1e-7)


def test_backprop_runs_under_vmap_and_scan(x64):
    params, state, x, target = batch()
    run = nn.backprop(NETWORK, LOSS)
    xs = jnp.stack([x, 2 * x])
    one_by_one = [run(params, state, member, target) for member in xs]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *one_by_one)
    mapped = jax.jit(jax.vmap(lambda x: run(params, state, x, target)))(xs)
    _, scanned = jax.lax.scan(lambda c, x: (c, run(params, state, x, target)), None, xs)
    assert_agree(mapped, stacked, 1e-12)
    assert_agree(scanned, stacked, 1e-12)


def test_backward_pass_gives_values_prediction_and_dx(x64):
    params, state, x, target = batch()
    result = nn.backward_pass(NETWORK, LOSS)(params, state, x, target)
    assert_agree(result.prediction, NETWORK.predict(params, state, x), 1e-14)
    assert_agree(result.values, LOSS.value(result.prediction, target), 1e-14)
    dx = jax.grad(lambda x: LOSS.value(NETWORK.predict(params, state, x), target).sum())(x)
    assert_agree(result.dx, dx, 1e-10)


def test_captures_of_a_backward_pass_are_not_divided_by_the_batch(x64):
    params, state, x, target = batch()
    result = nn.backward_pass(NETWORK, LOSS)(params, state, x, target)
    _, mean = nn.backprop(NETWORK, LOSS)(params, state, x, target)
    assert_agree(nn.contract(result.captures), jax.tree.map(lambda g: 4 * g, mean), 1e-12)


def test_a_backward_pass_multiplies_each_example_by_its_weight(x64):
    params, state, x, target = batch()
    w = weights("some zero")
    run = nn.backward_pass(NETWORK, LOSS)
    plain, weighted = run(params, state, x, target), run(params, state, x, target, None, w)
    assert_agree(weighted.dx, plain.dx * w[:, None], 1e-12)
    assert_agree(weighted.values, plain.values, 0)


def test_a_network_without_parameters_has_no_gradients(x64):
    for make in (nn.backprop, nn.autodiff, nn.numerical):
        _, gradients = make(nn.tanh(), LOSS)((), (), normal(0, (2, 3)), jnp.asarray([0, 1]))
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
        make(NETWORK, LOSS)(*batch(), None, wrong)


@pytest.mark.parametrize("step", [0.0, -1e-3])
def test_numerical_refuses_a_step_that_is_not_positive(step):
    with pytest.raises(ValueError, match="numerical: expected step to lie in"):
        nn.numerical(NETWORK, LOSS, step)
