"""Metrics by name are those of scikit-learn, and undefined ones are NaN with a reason."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

import jaxnn as nn
from jaxnn.core.task import of_many_labels
from jaxnn.training import METRICS, metrics_of, task_of
from jaxnn.training.evaluation import scores_of
from jaxnn.training.metrics import CLASSES, LABELS, NUMBERS, Undefined, metric_called

RANDOM = np.random.default_rng(0)
NAMES = ("ant", "bee", "cat")
LABELS_OF_3 = RANDOM.integers(0, 3, 40).astype(np.int32)
LOGITS = RANDOM.normal(size=(40, 3)).astype(np.float32) + 1.5 * np.eye(3)[LABELS_OF_3]
LOGITS = LOGITS.astype(np.float32)
SOFTMAX = nn.softmax_cross_entropy()


def of_three(labels=LABELS_OF_3, logits=LOGITS, metrics=()):
    task = task_of(SOFTMAX, 3)._replace(names=NAMES)
    return scores_of(SOFTMAX, task, jnp.asarray(logits), jnp.asarray(labels), metrics)


def softmax(logits):
    p = np.exp(logits.astype(np.float64))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("precision", lambda t, a, p: sk.precision_score(t, a, average="macro")),
        ("recall", lambda t, a, p: sk.recall_score(t, a, average="macro")),
        ("f1", lambda t, a, p: sk.f1_score(t, a, average="macro")),
        ("balanced_accuracy", lambda t, a, p: sk.balanced_accuracy_score(t, a)),
        ("roc_auc", lambda t, a, p: sk.roc_auc_score(t, p, multi_class="ovr")),
        ("top_2", lambda t, a, p: sk.top_k_accuracy_score(t, p, k=2)),
        ("log_loss", lambda t, a, p: sk.log_loss(t, p)),
        ("brier", lambda t, a, p: sk.brier_score_loss(t, p)),
    ],
)
def test_a_metric_of_classes_is_that_of_scikit_learn(name, expected):
    values, reasons = of_three(metrics=(name,))
    probabilities = softmax(LOGITS)
    wanted = expected(LABELS_OF_3, probabilities.argmax(1), probabilities)
    assert values[name] == pytest.approx(wanted, rel=1e-5)
    assert not reasons


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_a_metric_of_each_class_has_its_name(name):
    values, _ = of_three(metrics=(f"{name}_each",))
    function = getattr(sk, f"{name}_score")
    expected = function(LABELS_OF_3, LOGITS.argmax(1), average=None)
    assert values[f"{name}_each"] == pytest.approx(dict(zip(NAMES, expected, strict=True)))


@pytest.mark.parametrize("loss", [nn.sigmoid_binary_cross_entropy(), nn.hinge()], ids=repr)
def test_two_classes_by_one_output_have_their_roc_auc(loss):
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    scores = np.array([[-1.0], [2.0], [-0.5], [0.5], [1.0]], np.float32)
    task = task_of(loss, 2)
    values = metrics_of(loss, task, jnp.asarray(scores), task.prepare(labels), ("roc_auc", "f1"))
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, scores[:, 0]))
    assert values["f1"] == pytest.approx(sk.f1_score(labels, scores[:, 0] > 0, average="macro"))


def test_two_logits_are_ranked_by_their_difference():
    labels = np.array([0, 1, 0, 1], np.int32)
    logits = np.array([[5.0, 4], [1.0, 3], [0.0, -1], [9.0, 8.9]], np.float32)
    loss = nn.mean_squared_error()
    task = task_of(loss, 2)
    values = metrics_of(loss, task, jnp.asarray(logits), task.prepare(labels), ("roc_auc",))
    assert values["roc_auc"] == 1.0


def test_two_classes_have_the_brier_score_of_the_second():
    labels, p = np.array([0, 1, 1], np.int32), np.array([[0.2], [0.7], [0.4]], np.float32)
    loss = nn.binary_cross_entropy()
    task = task_of(loss, 2)
    values = metrics_of(loss, task, jnp.asarray(p), task.prepare(labels), ("brier", "log_loss"))
    assert values["brier"] == pytest.approx(sk.brier_score_loss(labels, p[:, 0]), rel=1e-5)
    assert values["log_loss"] == pytest.approx(sk.log_loss(labels, p[:, 0]), rel=1e-5)


def test_several_labels_are_scored_label_by_label():
    truth = RANDOM.integers(0, 2, (30, 2))
    logits = (RANDOM.normal(size=(30, 2)) + truth).astype(np.float32)
    loss = nn.sigmoid_binary_cross_entropy()
    task = of_many_labels(0.0, (0.0, 1.0), loss.probability)._replace(names=("red", "blue"))
    names = ("f1", "recall_each", "roc_auc", "log_loss", "brier")
    values = metrics_of(loss, task, jnp.asarray(logits), task.prepare(truth), names)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert values["f1"] == pytest.approx(sk.f1_score(truth, logits > 0, average="macro"))
    expected = sk.recall_score(truth, logits > 0, average=None)
    assert values["recall_each"] == pytest.approx({"red": expected[0], "blue": expected[1]})
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, p))
    mean = np.mean([sk.log_loss(truth[:, k], p[:, k]) for k in range(2)])
    assert values["log_loss"] == pytest.approx(mean, rel=1e-5)
    assert values["brier"] == pytest.approx(np.mean((p - truth) ** 2), rel=1e-5)


def test_errors_are_in_the_units_of_the_data_output_by_output():
    standard = RANDOM.normal(size=(20, 2)).astype(np.float32)
    error = RANDOM.normal(size=(20, 2)).astype(np.float32)
    mean, deviation = np.array([5.0, -3.0]), np.array([10.0, 0.5])
    loss = nn.mean_squared_error()
    task = task_of(loss, 0)._replace(mean=mean, deviation=deviation, names=("cost", "size"))
    own = {"first": lambda o: o.truth[0, 0]}
    prediction, target = jnp.asarray(standard + error), jnp.asarray(standard)
    names = ("rmse", "rmse_each", "mae_each", "r2_each", "median_absolute_error")
    values = metrics_of(loss, task, prediction, target, names)
    t, y = (np.asarray(a, np.float64) * deviation + mean for a in (standard, standard + error))
    rmse = sk.root_mean_squared_error(t, y, multioutput="raw_values")
    r2 = sk.r2_score(t, y, multioutput="raw_values")
    assert values["rmse"] == pytest.approx(rmse.mean(), rel=1e-5)
    assert values["rmse_each"] == pytest.approx({"cost": rmse[0], "size": rmse[1]}, rel=1e-5)
    assert values["r2_each"] == pytest.approx({"cost": r2[0], "size": r2[1]}, rel=1e-5)
    assert values["mae_each"]["cost"] == pytest.approx(np.abs(t - y)[:, 0].mean(), rel=1e-5)
    assert values["mae"] == pytest.approx(np.abs(t - y).mean(), rel=1e-5)
    middle = sk.median_absolute_error(t, y)
    assert values["median_absolute_error"] == pytest.approx(middle, rel=1e-5)
    assert metrics_of(loss, task, prediction, target, own)["first"] == pytest.approx(t[0, 0])


@pytest.mark.parametrize("rows", [1, 5])
def test_one_class_is_scored_and_what_is_undefined_says_why(rows):
    names = tuple(name for name, m in METRICS.items() if CLASSES in m.tasks)
    values, reasons = of_three(np.zeros(rows, np.int32), LOGITS[:rows], names)
    assert {"accuracy", "f1", "log_loss", "brier"}.isdisjoint(reasons)
    assert np.isnan(values["roc_auc"])
    assert reasons["roc_auc"] == "either none or all of the examples are 'ant'"
    assert np.isnan(values["recall_each"]["cat"])
    assert "'bee', 'cat'" in reasons["recall_each"]


def test_one_row_of_a_regression_has_no_r2_and_says_so():
    loss = nn.mean_squared_error()
    names = tuple(name for name, m in METRICS.items() if NUMBERS in m.tasks)
    y = jnp.ones((1, 2))
    values, reasons = scores_of(loss, task_of(loss, 0), y, y + 1, names)
    assert np.isnan(values["r2"])
    assert values["rmse"] == 1
    assert {"r2", "r2_each"} == set(reasons)


def test_a_loss_without_probabilities_has_no_log_loss_and_says_so():
    loss = nn.mean_squared_error()
    task = task_of(loss, 3)
    target = task.prepare(LABELS_OF_3)
    values, reasons = scores_of(loss, task, jnp.asarray(LOGITS), target, ("log_loss",))
    assert np.isnan(values["log_loss"])
    assert reasons == {"log_loss": "the loss is not one of probabilities"}


def test_a_metric_of_ones_own_is_a_function_of_the_outcome():
    own = {"f2": lambda o: sk.fbeta_score(o.truth, o.answer, beta=2, average="macro")}
    values, _ = of_three(metrics=own)
    expected = sk.fbeta_score(LABELS_OF_3, LOGITS.argmax(1), beta=2, average="macro")
    assert values["f2"] == pytest.approx(expected)


def test_a_metric_of_ones_own_may_be_undefined():
    def never(outcome):
        raise Undefined("it never is")

    values, reasons = of_three(metrics={"never": never})
    assert np.isnan(values["never"])
    assert reasons == {"never": "it never is"}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (("f3",), "unknown metric of classes 'f3': did you mean 'f1'"),
        (("rmse",), "unknown metric of classes 'rmse'"),
        (("top_0",), "unknown metric of classes 'top_0'"),
        ("f1", "expected names in a tuple, got 'f1'"),
        ({"mine": 3}, "expected 'mine' to be a function of an Outcome, got 3"),
        ({"mine": lambda o: "x"}, "expected mine to return a number"),
    ],
)
def test_what_is_no_metric_is_refused(metrics, message):
    with pytest.raises((ValueError, TypeError), match=message):
        of_three(metrics=metrics)


def test_more_best_ones_than_classes_are_undefined():
    _, reasons = of_three(metrics=("top_3",))
    assert reasons == {"top_3": "every class is among the 3 best of 3"}


def test_a_metric_knows_whether_it_falls():
    falling = {n for n, m in METRICS.items() if m.falls and not m.several}
    assert falling == {"brier", "log_loss", "rmse", "median_absolute_error"}
    assert metric_called("loss", LABELS).falls
    assert not metric_called("top_5", CLASSES).falls


OF_CLASSES = ("f1", "recall_each", "roc_auc", "log_loss", "brier", "top_2", "balanced_accuracy")
ERRORS = ("rmse", "mae_each", "r2_each", "median_absolute_error")


@pytest.mark.parametrize("names", [OF_CLASSES, ERRORS])
def test_whole_weights_count_as_repetitions_in_every_metric(names):
    weights = np.array([0, 1, 3] * 8)
    repeated = np.repeat(np.arange(24), weights)
    y = RANDOM.normal(size=(24, 3)).astype(np.float32)
    loss = SOFTMAX if names is OF_CLASSES else nn.half_squared_error()
    task = task_of(loss, 3 * (names is OF_CLASSES))
    target = np.arange(24, dtype=np.int32) // 3 % 3 if names is OF_CLASSES else np.sin(y + 1)
    found = metrics_of(loss, task, jnp.asarray(y), target, names, weights.astype(np.float32))
    expected = metrics_of(loss, task, jnp.asarray(y[repeated]), target[repeated], names)
    assert {*names} < {*found}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
