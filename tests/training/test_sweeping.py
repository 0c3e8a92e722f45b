import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree
from training_problems import BATCH_SIZE, data, network, start

import jaxnn as nn
from jaxnn.training import make_sweep, train

LOSS = nn.softmax_cross_entropy()
SETTINGS = {"learning_rate": (0.01, 0.03, 0.1), "weight_decay": (0.0, 1e-3, 0.0)}


def optimizer(setting):
    decay = optax.add_decayed_weights(setting["weight_decay"])
    return optax.chain(decay, optax.sgd(setting["learning_rate"]))


def sweep(epochs=2, **options):
    return make_sweep(
        network(), LOSS, optimizer, *data(), epochs=epochs, batch_size=BATCH_SIZE, **options
    )


def measure(params, state):
    return {"accuracy": jnp.mean(jnp.argmax(network().predict(params, state, data()[0]), 1) == 0)}


@pytest.fixture(scope="module")
def trials():
    return sweep(measure=measure)((3, 0), SETTINGS)


@pytest.mark.parametrize(("i", "seed"), [(0, 3), (1, 0)])
def test_every_network_is_the_one_that_its_seed_and_setting_give_by_themselves(trials, i, seed):
    alone = optimizer({name: values[1] for name, values in SETTINGS.items()})
    *_, last = train(*start(network(), alone, seed), epochs=2, batch_size=BATCH_SIZE)
    params, state = jax.tree.map(lambda a: a[i, 1], (trials.params, trials.state))
    assert_agree(params, last.train_state.params, 1e-4)
    assert_agree(state, last.train_state.state, 1e-4)
    assert trials.losses.shape == (2, 3, 2)
    np.testing.assert_allclose(trials.losses[i, 1, -1], np.mean(last.losses), rtol=1e-4)


def test_what_is_measured_is_measured_after_every_epoch(trials):
    assert trials.measures["accuracy"].shape == (2, 3, 2)
    params, state = jax.tree.map(lambda a: a[1, 2], (trials.params, trials.state))
    assert trials.measures["accuracy"][1, 2, -1] == measure(params, state)["accuracy"]


def test_more_networks_than_run_side_by_side_are_the_same(trials, monkeypatch):
    monkeypatch.setattr("jaxnn.training.sweeping.TOGETHER", 1)
    again = sweep()((3, 0), SETTINGS)
    assert_agree(again.params, trials.params, 1e-4)


def test_the_same_program_takes_other_seeds_and_settings():
    run = sweep(epochs=1)
    first = run((0,), {name: values[:2] for name, values in SETTINGS.items()})
    second = run((3,), {name: values[1:] for name, values in SETTINGS.items()})
    other = run((0,), {name: values[1:] for name, values in SETTINGS.items()})
    np.testing.assert_array_equal(first.losses[:, 1], other.losses[:, 0])
    assert not np.array_equal(second.losses, other.losses)


@pytest.mark.parametrize(
    ("seeds", "settings", "message"),
    [
        ((), SETTINGS, "expected at least one seed"),
        ((0,), {}, "got 1 seeds and no settings"),
        ((0,), SETTINGS | {"learning_rate": (0.1,)}, "as many for each"),
        ((-1,), SETTINGS, "expected every seed to be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(seeds, settings, message):
    with pytest.raises(ValueError, match=message):
        sweep()(seeds, settings)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="expected batch_size to be at most"):
        make_sweep(network(), LOSS, optimizer, *data(), epochs=1, batch_size=1000)


def test_the_devices_do_not_change_the_networks():
    seeds, settings = (3, 0, 5), {name: values[:1] for name, values in SETTINGS.items()}
    several, one = (
        sweep(epochs=1, devices=jax.devices()[:count])(seeds, settings) for count in (2, 1)
    )
    assert_agree(jax.device_get(several), jax.device_get(one), 1e-4)
