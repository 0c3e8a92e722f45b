"""Private training: a gradient function of the loop, on Poisson samples in the scanned epoch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.learning.privacy import clipped_sum, private
from jaxnn.training import Diverged, create_state, make_optimizer, poisson, train


def private_training(network, noise_multiplier, epochs=3, train_state=None, learning_rate=0.5):
    network, loss, optimizer, start, x, target = problems.start(
        network, make_optimizer("sgd", learning_rate)
    )
    return train(
        network,
        loss,
        optimizer,
        train_state or start,
        x,
        target,
        epochs=epochs,
        batch_size=problems.BATCH_SIZE,
        gradient=gradient(network, loss, noise_multiplier),
        draw=poisson,
    )


def gradient(network, loss, noise_multiplier):
    sizes = {"batch_size": problems.BATCH_SIZE}
    return private(network, loss, clip_norm=1.0, noise_multiplier=noise_multiplier, **sizes)


NETWORK = nn.serial(nn.dense(6), nn.tanh(), nn.dropout(0.1), nn.dense(problems.CLASSES))


def test_training_with_little_noise_learns():
    epochs = list(private_training(NETWORK, 1e-3, epochs=30))
    first, last = (np.mean([e.losses for e in part]) for part in (epochs[:5], epochs[-5:]))
    assert last < 0.5 * first


def test_noise_drowns_what_could_be_learnt():
    epochs = list(private_training(NETWORK, 100.0, epochs=3))
    weight = np.asarray(epochs[-1].train_state.params[0]["weight"])
    assert weight.std() > 1


def test_stopped_and_resumed_private_training_has_the_numbers_of_one_never_stopped():
    *_, whole = private_training(NETWORK, 0.5, epochs=3)
    *_, part = private_training(NETWORK, 0.5, epochs=1)
    *_, resumed = private_training(NETWORK, 0.5, 3, part.train_state)
    chex.assert_trees_all_equal(whole.train_state.params, resumed.train_state.params)


def test_private_training_that_diverges_says_at_which_step_and_where():
    with pytest.raises(Diverged, match=r"training diverged at step \d+: .*dense weight"):
        list(private_training(NETWORK, 1e30, learning_rate=1e30))


def test_a_gradient_function_that_sums_over_the_examples_is_refused():
    start = problems.start(NETWORK)
    with pytest.raises(ValueError, match=r"gradient to return one number as value, .*\(8,\)"):
        train(*start, epochs=1, batch_size=8, gradient=clipped_sum(*start[:2], 1.0))


@pytest.mark.parametrize("parts", [1, 2])
def test_batches_that_are_no_poisson_samples_are_refused(parts):
    network, loss, *rest = problems.start(NETWORK)
    own = gradient(network, loss, 1.0)
    own = own if parts == 1 else nn.accumulate(own, parts, network=network)
    with pytest.raises(ValueError, match=r"expected draw=poisson .* got Shuffled\(\)"):
        train(network, loss, *rest, epochs=1, batch_size=8, gradient=own)


def test_a_network_that_mixes_examples_is_refused_before_the_first_epoch():
    network = nn.serial(nn.dense(3), nn.batch_norm(), nn.dense(problems.CLASSES))
    with pytest.raises(ValueError, match="1 batch_norm mixes the examples"):
        private_training(network, 1.0)


def test_float64_trains_in_float64(x64):
    network, loss = nn.serial(nn.dense(3)), nn.softmax_cross_entropy()
    x, target = problems.data()
    x = x.astype(float)
    optimizer = make_optimizer("sgd", 0.1)
    state = create_state(network, optimizer, jax.random.key(0), x[:1])
    arguments = (network, loss, optimizer, state, x, target)
    options = {"gradient": gradient(network, loss, 1.0), "draw": poisson}
    (epoch,) = train(*arguments, epochs=1, batch_size=8, **options)
    assert epoch.train_state.params[0]["weight"].dtype == jnp.float64
