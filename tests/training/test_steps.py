import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.training import (
    create_state,
    epoch_order,
    make_epoch,
    make_optimizer,
    make_step,
    steps_per_epoch,
)


def test_one_step_of_gradient_descent_is_what_one_computes_by_hand():
    network, loss = nn.serial(nn.dense(1)), nn.half_squared_error()
    optimizer = make_optimizer("sgd", 0.5)
    x, target = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([[1.0], [0.0]])
    train_state = create_state(network, optimizer, jax.random.key(0), x)
    weight = jnp.array([[1.0], [1.0]])
    train_state = train_state._replace(params=({"weight": weight, "bias": jnp.array([0.0])},))
    # Errors 3 − 1 = 2 and 2 − 0 = 2; mean gradient of w is (2·[1, 2] + 2·[3, −1]) / 2 = [4, 1].
    after, value = make_step(nn.backprop(network, loss), optimizer)(train_state, x, target)
    chex.assert_trees_all_close(value, (2.0 + 2.0) / 2)
    expected = {"weight": jnp.array([[-1.0], [0.5]]), "bias": jnp.array([-1.0])}
    chex.assert_trees_all_close(after.params[0], expected)
    assert int(after.step) == 1


def test_a_step_takes_weights_of_the_examples():
    network, loss, optimizer, train_state, x, target = problems.start(nn.serial(nn.dense(3)))
    step = jax.jit(make_step(nn.backprop(network, loss), optimizer))
    weights = jnp.zeros(len(x)).at[:4].set(1.0)
    weighted, _ = step(train_state, x, target, weights)
    without, _ = step(train_state, x[:4], target[:4])
    chex.assert_trees_all_close(weighted.params, without.params, rtol=1e-5)


def test_every_step_draws_its_own_random_numbers():
    network = nn.serial(nn.dropout(0.5))
    optimizer = optax.sgd(0.0)
    x = jnp.ones((1, 1000))
    train_state = create_state(network, optimizer, jax.random.key(0), x)
    step = make_step(nn.backprop(network, nn.sum_squared_error()), optimizer)
    train_state, first = step(train_state, x, jnp.zeros_like(x))
    _, second = step(train_state, x, jnp.zeros_like(x))
    assert first != second


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 4), (13, 4), (5, 5), (7, 1)])
def test_an_epoch_uses_every_example_once_and_its_last_batch_may_be_smaller(examples, batch_size):
    seen = []

    def step(train_state, x, target):
        jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), target, ordered=True)
        return train_state._replace(step=train_state.step + 1), jnp.float32(0)

    x = jnp.arange(float(examples))[:, None]
    train_state = create_state(nn.identity(), optax.sgd(0.1), jax.random.key(0), x)
    after, values = make_epoch(step, batch_size)(train_state, x, jnp.arange(examples))
    jax.effects_barrier()
    rest = examples % batch_size
    sizes = [batch_size] * (examples // batch_size) + ([rest] if rest else [])
    assert [len(rows) for rows in seen] == sizes
    assert len(values) == int(after.step) == steps_per_epoch(examples, batch_size) == len(sizes)
    assert sorted(np.concatenate(seen)) == list(range(examples))


def test_an_epoch_is_its_steps_one_after_another():
    network = nn.serial(nn.dropout(0.3), nn.dense(3))
    network, loss, optimizer, train_state, x, target = problems.start(network)
    step = make_step(nn.backprop(network, loss), optimizer)
    whole, values = make_epoch(step, problems.BATCH_SIZE, donate=False)(train_state, x, target)
    order = np.asarray(epoch_order(train_state, len(x), problems.BATCH_SIZE))
    one_step = jax.jit(step)
    for start in range(0, len(x), problems.BATCH_SIZE):
        batch = order[start : start + problems.BATCH_SIZE]
        train_state, value = one_step(train_state, x[batch], target[batch])
        chex.assert_trees_all_close(values[start // problems.BATCH_SIZE], value, rtol=1e-5)
    plain, stepped = (s._replace(key=jax.random.key_data(s.key)) for s in (whole, train_state))
    chex.assert_trees_all_close(plain, stepped, rtol=1e-4, atol=1e-6)


def test_epochs_differ_in_their_order_and_repeat_it_for_the_same_state():
    *_, train_state, _, _ = problems.start(nn.serial(nn.dense(3)))
    later = train_state._replace(step=train_state.step + 3)
    first, again, second = (epoch_order(s, 23, 8) for s in (train_state, train_state, later))
    chex.assert_trees_all_equal(first, again)
    assert (first != second).any()


def test_donation_takes_the_memory_of_the_given_state_and_only_if_asked():
    network, loss, optimizer, train_state, x, target = problems.start(nn.serial(nn.dense(3)))
    step = make_step(nn.backprop(network, loss), optimizer)
    kept, _ = make_epoch(step, 8, donate=False)(train_state, x, target)
    assert not train_state.params[0]["weight"].is_deleted()
    given, _ = make_epoch(step, 8)(train_state, x, target)
    assert train_state.params[0]["weight"].is_deleted()
    chex.assert_trees_all_equal(kept.params, given.params)


@pytest.mark.parametrize("batch_size", [0, -1, 24, 2.5])
def test_a_batch_size_that_cannot_be_is_refused(batch_size):
    *_, train_state, x, target = problems.start(nn.serial(nn.dense(3)))
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        make_epoch(lambda *a: a, batch_size)(train_state, x, target)
