import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PUBLIC
from sklearn.metrics import mean_absolute_error, r2_score

import jaxnn as nn
from jaxnn.training import make_predict, metrics_of, task_of

ERRORS = [
    nn.mean_squared_error(),
    nn.half_squared_error(),
    nn.sum_squared_error(),
    nn.mean_absolute_error(),
    nn.sum_absolute_error(),
    nn.huber(),
    nn.quantile(),
]
CATEGORICAL = [
    nn.softmax_cross_entropy(),
    nn.categorical_cross_entropy(),
    nn.softmax_focal(),
    nn.negative_log_likelihood(),
    nn.kl_divergence(),
    nn.projected_cross_entropy(),
]
BINARY = [
    nn.sigmoid_binary_cross_entropy(),
    nn.binary_cross_entropy(),
    nn.focal(),
    nn.hinge(),
]
FROM_PYTHON = [
    nn.ctc(),
    nn.sequence_loss(nn.hinge()),
    nn.gaussian_nll(),
    nn.cosine_embedding(),
    nn.triplet_margin(),
    nn.contrastive(),
]


def name_of(loss):
    return loss.name


def test_every_loss_of_the_library_is_tested_here():
    tested = {type(loss) for loss in (*ERRORS, *CATEGORICAL, *BINARY, *FROM_PYTHON)}
    losses = {f for f in PUBLIC.values() if isinstance(f, type) and issubclass(f, nn.Loss)}
    assert tested == losses - {nn.Loss, nn.poisson_nll}


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


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("loss", FROM_PYTHON, ids=name_of)
def test_losses_of_other_forms_refuse_data_sets_and_say_what_to_do(loss, classes):
    with pytest.raises(ValueError, match=f"{loss.name}: expected a loss of one .* from Python"):
        task_of(loss, classes)


@pytest.mark.parametrize(("log_input", "prediction"), [(True, [0.0, np.log(3)]), (False, [1, 3])])
def test_counts_are_scored_by_the_rate(log_input, prediction):
    loss = nn.poisson_nll(log_input)
    task = task_of(loss, 0)
    counts = task.prepare(np.array([[2.0], [3.0]], np.float32))
    metrics = metrics_of(loss, task, jnp.array(prediction, jnp.float32)[:, None], counts)
    assert metrics["mae"] == pytest.approx(0.5)
    assert metrics["r2"] == pytest.approx(-1)


def test_counts_below_0_and_classes_are_refused():
    with pytest.raises(ValueError, match=r"counts of at least 0 as target, got -1.0 at example 0"):
        task_of(nn.poisson_nll(), 0).prepare(np.array([[-1.0]], np.float32))
    with pytest.raises(ValueError, match="poisson_nll: expected data with counts, got 3 classes"):
        task_of(nn.poisson_nll(), 3)


class absolute(nn.Loss):
    """A loss of one's own, for data of one's own choice."""

    def value(self, prediction, target):
        return jnp.abs(prediction - target).mean(1)

    def gradient(self, prediction, target):
        return jnp.sign(prediction - target) / prediction.shape[1]


def test_a_loss_of_ones_own_says_what_data_it_takes():
    with pytest.raises(ValueError, match="absolute: expected a loss of one label or number"):
        task_of(absolute(), 0)

    class of_numbers(absolute):
        def task(self, classes):
            return nn.mean_squared_error().task(classes)

    assert task_of(of_numbers(), 0).outputs is None


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("loss", [*ERRORS, *BINARY], ids=name_of)
def test_a_label_that_is_no_class_is_refused_where_it_becomes_a_number(loss, label):
    task = task_of(loss, 2 if loss in BINARY else 3)
    with pytest.raises(ValueError, match="task: expected labels to lie in 0 … "):
        task.prepare(np.array([0, label], np.int8))


def test_labels_of_8_bits_are_scored_among_more_classes_than_they_hold():
    loss = nn.softmax_cross_entropy()
    labels, prediction = np.array([5, 250], np.uint8), np.zeros((2, 300), np.float32)
    prediction[[0, 1], [5, 261]] = 9
    metrics = metrics_of(loss, task_of(loss, 300), jnp.asarray(prediction), labels)
    assert metrics["accuracy"] == 0.5


@pytest.mark.parametrize("one", [True, False])
def test_the_mae_of_standardised_targets_is_in_their_original_units(one):
    random = np.random.default_rng(0)
    deviation = np.float32(7) if one else np.array([1.0, 10.0, 500.0], np.float32)
    target, error = random.normal(size=(2, 20, 3)).astype(np.float32)
    loss = nn.mean_squared_error()
    scaled = task_of(loss, 0)._replace(deviation=deviation)
    arguments = jnp.asarray(target + error), jnp.asarray(target)
    metrics = metrics_of(loss, scaled, *arguments)
    assert metrics["mae"] == pytest.approx(np.mean(deviation * np.abs(error)), rel=1e-5)
    assert metrics["r2"] == metrics_of(loss, task_of(loss, 0), *arguments)["r2"]


def test_a_deviation_of_another_shape_is_refused():
    loss, y = nn.mean_squared_error(), jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"deviation to be .* shape \(3,\), got shape \(1,\)"):
        metrics_of(loss, task_of(loss, 0)._replace(deviation=np.ones(1)), y, y)


@pytest.mark.parametrize("examples", [0, 1, 3, 4, 6])
def test_predictions_by_batches_are_those_of_all_at_once(examples):
    network = nn.serial(nn.dense(2))
    x = jnp.arange(examples * 3.0).reshape(examples, 3)
    params, state = network.init(jax.random.key(0), jnp.zeros((1, 3)))
    batched = make_predict(network, batch_size=3)(params, state, x)
    assert batched.shape == (examples, 2)
    chex.assert_trees_all_close(batched, network.predict(params, state, x), rtol=1e-6)
