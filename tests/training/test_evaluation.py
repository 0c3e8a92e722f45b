import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

import jaxnn as nn
from jaxnn.training import make_predict, metrics_of, task_of

ERRORS = [
    nn.mean_squared_error(),
    nn.half_squared_error(),
    nn.sum_squared_error(),
    nn.sum_absolute_error(),
    nn.huber(),
]
CATEGORICAL = [nn.softmax_cross_entropy(), nn.categorical_cross_entropy()]
BINARY = [nn.sigmoid_binary_cross_entropy(), nn.binary_cross_entropy(), nn.hinge()]


def name_of(loss):
    return loss.name


def test_every_loss_of_the_library_is_tested_here():
    tested = {loss.name for loss in (*ERRORS, *CATEGORICAL, *BINARY)}
    losses = {
        n for n, f in vars(nn).items() if getattr(f, "__annotations__", {}).get("return") is nn.Loss
    }
    # Those of sequences are scored by the experiments that train on them.
    assert tested == losses - {"ctc", "projected_cross_entropy", "sequence_loss"}


@pytest.mark.parametrize("loss", [*ERRORS, *CATEGORICAL], ids=name_of)
def test_several_classes_are_decided_by_the_largest_output(loss):
    task = task_of(loss, 3)
    labels = np.array([0, 2, 1, 1], np.int32)
    prediction = jnp.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.0, 0.9, 0.1]])
    metrics = metrics_of(loss, task, prediction, jnp.asarray(task.prepare(labels)))
    assert task.outputs == 3
    assert metrics["accuracy"] == 0.75
    values = loss.value(prediction, jnp.asarray(task.prepare(labels)))
    assert metrics["loss"] == pytest.approx(float(jnp.mean(values)))


@pytest.mark.parametrize("loss", BINARY, ids=name_of)
def test_two_classes_are_decided_by_one_output(loss):
    task = task_of(loss, 2)
    labels = np.array([0, 1, 1, 0], np.int32)
    sure = jnp.array([[0.1], [0.9], [0.2], [0.3]])  # probabilities; 3 of 4 are right
    prediction = sure if loss.name == "binary_cross_entropy" else 4 * sure - 2
    metrics = metrics_of(loss, task, prediction, jnp.asarray(task.prepare(labels)))
    assert task.outputs == 1
    assert metrics["accuracy"] == 0.75
    assert metrics["loss"] > 0


def test_hinge_is_given_minus_one_and_one():
    target = task_of(nn.hinge(), 2).prepare(np.array([0, 1], np.int32))
    np.testing.assert_array_equal(target, [[-1.0], [1.0]])


@pytest.mark.parametrize("loss", ERRORS, ids=name_of)
def test_regression_has_r2_and_mae_as_scikit_learn_defines_them(loss):
    noise = np.random.default_rng(0)
    target = noise.normal(size=(20, 1)).astype(np.float32)
    prediction = target + noise.normal(size=(20, 1)).astype(np.float32) / 2
    task = task_of(loss, 0)
    metrics = metrics_of(loss, task, jnp.asarray(prediction), jnp.asarray(task.prepare(target)))
    assert task.outputs is None
    assert metrics["r2"] == pytest.approx(r2_score(target, prediction), rel=1e-5)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(target, prediction), rel=1e-5)


@pytest.mark.parametrize("loss", CATEGORICAL, ids=name_of)
def test_classification_losses_refuse_numbers(loss):
    with pytest.raises(ValueError, match=f"{loss.name}: expected data with classes"):
        task_of(loss, 0)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("loss", BINARY, ids=name_of)
def test_binary_losses_refuse_data_without_two_classes(loss, classes):
    with pytest.raises(ValueError, match=f"{loss.name}: expected data with 2 classes"):
        task_of(loss, classes)


@pytest.mark.parametrize("examples", [0, 1, 3, 4, 6])
def test_predictions_by_batches_are_those_of_all_at_once(examples):
    network = nn.serial(nn.dense(2))
    x = jnp.arange(examples * 3.0).reshape(examples, 3)
    params, state = network.init(jax.random.key(0), jnp.zeros((1, 3)))
    batched = make_predict(network, batch_size=3)(params, state, x)
    assert batched.shape == (examples, 2)
    chex.assert_trees_all_close(batched, network.predict(params, state, x), rtol=1e-6)
