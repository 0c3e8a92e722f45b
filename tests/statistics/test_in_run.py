"""What examples do for a validation loss while training, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.training import create_state, train
from jaxnn.training.drawing import drawn, shuffled

LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(nn.conv(2, (2, 2)), nn.tanh(), nn.flatten(), nn.dense(3))
BATCH = 5


def data(seed, count):
    return normal(seed, (count, 3, 3, 1)), jnp.arange(count) % 3


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0, 0.5]])
def test_values_are_products_of_each_gradient_with_the_validation_gradient(weights, x64):
    x, labels = data(1, BATCH)
    held_out = data(2, 4)
    weights = None if weights is None else jnp.array(weights)
    params, state = started(NETWORK, x)
    quantity = statistics.in_run_values.with_options(validation=held_out)

    @jax.jit
    def both():
        found = quantity(NETWORK, LOSS)(params, state, x, labels, None, weights)
        each = jax.vmap(
            lambda a, t: nn.autodiff(NETWORK, LOSS)(params, state, a[None], t[None])[1]
        )(x, labels)
        rows = jax.vmap(lambda tree: jax.flatten_util.ravel_pytree(tree)[0])(each)
        validation = nn.autodiff(NETWORK, LOSS)(params, state, *held_out)[1]
        batch = nn.backprop(NETWORK, LOSS)(params, state, x, labels, None, weights)[1]
        products = [jax.flatten_util.ravel_pytree(t)[0] for t in (validation, batch)]
        return found, rows @ products[0], products[0] @ products[1]

    found, expected, whole = both()
    share = jnp.full(BATCH, 1 / BATCH) if weights is None else weights / weights.sum()
    np.testing.assert_allclose(found, share * expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.sum(), whole, rtol=1e-12)


def test_values_times_a_small_rate_are_what_leaving_an_example_out_of_a_step_costs(x64):
    """By brute force: the step is taken again without the example's part of the gradient."""
    (x, labels), held_out = data(1, BATCH), data(2, 4)
    params, state = started(NETWORK, x)
    found = statistics.in_run_values.with_options(validation=held_out)(NETWORK, LOSS)
    values = jax.jit(found)(params, state, x, labels)
    rate = 1e-6

    @jax.jit
    def after(present):
        def loss_of(params):
            each = LOSS.value(NETWORK.predict(params, state, x), labels)
            return jnp.sum(each * present) / BATCH

        moved = jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss_of)(params))
        return jnp.mean(LOSS.value(NETWORK.predict(moved, state, held_out[0]), held_out[1]))

    everyone = jnp.ones(BATCH)
    costs = [after(everyone.at[b].set(0)) - after(everyone) for b in range(BATCH)]
    np.testing.assert_allclose(jnp.array(costs) / rate, values, rtol=1e-4, atol=1e-8)


def test_training_measures_them_and_the_examples_of_each_step_are_known(x64):
    (x, labels), held_out = data(1, 10), data(2, 4)
    optimizer = optax.sgd(0.1)
    before = create_state(NETWORK, optimizer, jax.random.key(0), x[:1])
    quantity = statistics.in_run_values.with_options(validation=held_out)
    options = {"epochs": 1, "batch_size": BATCH, "measure": {"values": quantity}}
    (epoch,) = train(NETWORK, LOSS, optimizer, before, x, labels, crosscheck=None, **options)
    assert epoch.measures["values"].shape == (2, BATCH)
    first = drawn(shuffled, before, 10, BATCH)[0].indices[0]
    alone = jax.jit(quantity(NETWORK, LOSS))
    expected = alone(before.params, before.state, x[first], labels[first])
    np.testing.assert_allclose(epoch.measures["values"][0], expected, rtol=1e-9)


def test_validation_is_without_noise(x64):
    """Examples have their gradients in training, with what dropout draws of them."""
    network = nn.serial(nn.dense(4), nn.tanh(), nn.dropout(0.5), nn.dense(3))
    x, labels = normal(1, (BATCH, 5)), jnp.arange(BATCH) % 3
    held_out, key = (normal(2, (4, 5)), jnp.arange(4) % 3), jax.random.key(3)
    params, state = started(network, x)
    found = statistics.in_run_values(network, LOSS, validation=held_out)

    @jax.jit
    def both():
        quiet = nn.autodiff(nn.in_inference_mode(network), LOSS)(params, state, *held_out)[1]
        batch = nn.autodiff(network, LOSS)(params, state, x, labels, key)[1]
        flat = [jax.flatten_util.ravel_pytree(tree)[0] for tree in (quiet, batch)]
        return found(params, state, x, labels, key).sum(), flat[0] @ flat[1]

    np.testing.assert_allclose(*both(), rtol=1e-12)


def test_validation_examples_are_asked_for(untyped):
    for wrong in (None, 3, (jnp.ones((2, 3)),)):
        with pytest.raises(TypeError, match="expected validation to be a tuple"):
            statistics.in_run_values(NETWORK, LOSS, validation=wrong)
    with pytest.raises(ValueError, match="at least one example, got none"):
        statistics.in_run_values(NETWORK, LOSS, validation=data(0, 0))
    with pytest.raises(TypeError, match="unknown option 'validations'"):
        statistics.in_run_values.with_options(validations=data(0, 1))
