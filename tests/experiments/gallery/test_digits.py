import jax
import numpy as np
import pytest

from experiments.gallery import digits
from jaxnn.data import load


@pytest.fixture(scope="module")
def splits():
    return load("digits", standardize="all", validation_fraction=0.2)


@pytest.fixture(scope="module")
def plain(splits):
    few = digits.first(splits.train, 100)
    return digits.fit(few, splits.validation, (32,), epochs=100, batch_size=20)


@pytest.fixture(scope="module")
def decayed(splits):
    # A decay so strong that it undoes what is learned: the best epoch is not the last.
    few = digits.first(splits.train, 100)
    options = {"epochs": 100, "batch_size": 20, "weight_decay": 100.0}
    return digits.fit(few, splits.validation, (32,), **options)


def test_a_perceptron_learns_digits_it_has_not_seen(plain):
    assert plain.held_out_accuracy[0] < 0.7
    assert plain.held_out_accuracy[-1] > 0.8


def test_few_images_are_fitted_much_better_than_others(plain):
    assert plain.training_loss[-1] < 0.3 * plain.held_out_loss[-1]


def test_the_measured_curves_are_those_of_the_parameters_that_are_returned(plain, splits):
    validation = splits.validation
    decided = digits.decide(plain, plain.params, validation.x)
    accuracy = np.mean(decided == validation.target)
    np.testing.assert_allclose(accuracy, plain.held_out_accuracy[-1], rtol=1e-6)


def test_early_stopping_keeps_the_parameters_of_the_best_epoch(decayed, splits):
    best = int(np.argmin(decayed.held_out_loss))
    assert best < 99
    decided = digits.decide(decayed, decayed.best_params, splits.validation.x)
    accuracy = np.mean(decided == splits.validation.target)
    np.testing.assert_allclose(accuracy, decayed.held_out_accuracy[best], rtol=1e-6)


def test_weight_decay_keeps_weights_small_and_the_training_loss_up(plain, decayed):
    sizes = [np.abs(t.params[0]["weight"]).mean() for t in (decayed, plain)]
    assert sizes[0] < 0.7 * sizes[1]
    assert decayed.training_loss[-1] > plain.training_loss[-1]


def test_dropout_follows_every_hidden_layer():
    names = [layer.name for layer in digits.perceptron((8, 8), dropout_rate=0.5).parts]
    assert names == ["dense", "relu", "dropout", "dense", "relu", "dropout", "dense"]


def test_a_data_set_that_is_not_here_is_left_out_with_the_reason(monkeypatch):
    def without_fashion(name, **options):
        if name == "fashion_mnist":
            raise FileNotFoundError("get it there")
        return load(name, **options)

    monkeypatch.setattr(digits, "load", without_fashion)
    splits, left_out = digits.available()
    assert list(splits) == ["digits"]
    assert left_out == ["Fashion-MNIST: get it there"]


def test_the_first_layer_sees_every_pixel(plain):
    assert jax.tree.map(np.shape, plain.params[0]) == {"weight": (64, 32), "bias": (32,)}
