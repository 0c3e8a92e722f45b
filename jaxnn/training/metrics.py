"""Metrics by name, computed by scikit-learn on the host, and what becomes of those undefined."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnn.core.task import Task
from jaxnn.core.validation import brief, printable, unknown_name
from jaxnn.data.optional import require_library


class Undefined(ValueError):
    """A metric has no value on these examples; the message says why."""


class Outcome(NamedTuple):
    """What a network answered, and what is right: what a metric is computed from."""

    truth: np.ndarray
    """Labels [n]; truth values [n, labels]; or numbers [n, outputs], in the units of the data."""
    answer: np.ndarray
    """What the network decided, of the same form."""
    prediction: np.ndarray
    """What the network returned, [n, outputs]."""
    probabilities: np.ndarray | None = None
    """[n, classes] or [n, labels], float64; None where the loss is not one of probabilities."""
    names: tuple[str, ...] = ()
    """Of the classes, labels or outputs."""
    weights: np.ndarray | None = None
    """[n], what each example counts, float64; None where all count the same."""


class Metric(NamedTuple):
    """One way to score an `Outcome`."""

    of: Callable[[Outcome], Any]
    """A number, or an array with one for each of the names."""
    tasks: tuple[str, ...]
    """Among classes, labels and numbers: what it can be of."""
    falls: bool = False
    """Whether the smallest value is the best."""
    several: bool = False
    """Whether it has one number for each class, label or output."""


CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"


def kind_of(task: Task) -> str:
    """What a task decides: classes, labels (truth values) or numbers."""
    if task.decide is None:
        return NUMBERS
    return LABELS if task.outputs is None else CLASSES


def outcome_of(task: Task, prediction: Any, target: Any, weights: Any = None) -> Outcome:
    """The outcome of predictions for targets as the loss takes them, from ``task.prepare``."""
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    y = np.asarray(prediction, np.float64)
    weights = None if weights is None else np.asarray(weights, np.float64)
    if task.decide is None:
        numbers = (np.asarray(a, np.float64) for a in (target, task.numbers(prediction)))
        truth, answer = (a * task.deviation + task.mean for a in numbers)
        return Outcome(truth, answer, y, None, _names(task, y.shape[-1]), weights)
    is_labels = jnp.issubdtype(target.dtype, jnp.integer)
    truth, answer = target if is_labels else task.decide(target), task.decide(prediction)
    probabilities = None
    if task.probabilities is not None:
        probabilities = np.asarray(task.probabilities(prediction), np.float64)
        if kind_of(task) == CLASSES:  # float32 rounds them to other sums than 1
            probabilities = probabilities / probabilities.sum(1, keepdims=True)
    names = _names(task, y.shape[-1] if task.outputs is None else max(task.outputs, 2))
    return Outcome(np.asarray(truth), np.asarray(answer), y, probabilities, names, weights)


def _names(task: Task, count: int) -> tuple[str, ...]:
    return task.names if len(task.names) == count else tuple(map(str, range(count)))


def _sklearn() -> Any:
    return require_library("sklearn.metrics", "metrics")


def _of_decisions(which: int, several: bool) -> Callable[[Outcome], Any]:
    """Precision (0), recall (1) or F1 (2), 0 where nothing was decided so."""

    def score(outcome: Outcome) -> Any:
        average, options = "macro", {}
        if several:
            average = None
            options = {} if outcome.truth.ndim == 2 else {"labels": range(len(outcome.names))}
        found = _sklearn().precision_recall_fscore_support(
            outcome.truth,
            outcome.answer,
            average=average,
            zero_division=0,
            sample_weight=outcome.weights,
            **options,
        )
        if not several:
            return found[which]
        return np.where(found[3] > 0, found[which], np.nan)  # nothing is known of others

    return score


def _balanced_accuracy(outcome: Outcome) -> float:
    return float(np.nanmean(_of_decisions(1, several=True)(outcome)))


def _probabilities(outcome: Outcome) -> np.ndarray:
    if outcome.probabilities is None:
        raise Undefined("the loss is not one of probabilities")
    return outcome.probabilities


def _one_hot(outcome: Outcome) -> np.ndarray:
    if outcome.truth.ndim == 2:
        return outcome.truth
    return (outcome.truth[:, None] == np.arange(len(outcome.names))).astype(int)


def _areas(outcome: Outcome) -> np.ndarray:
    """The area under the ROC curve of each class against the others; NaN where there is none."""
    truth = _one_hot(outcome)
    scores = outcome.prediction if outcome.probabilities is None else outcome.probabilities
    if scores.shape[1] == 1:
        scores = np.concatenate([-scores, scores], axis=1)
    elif outcome.probabilities is None and scores.shape[1] == 2 and outcome.truth.ndim == 1:
        scores = scores - scores[:, ::-1]
    area = _sklearn().roc_auc_score
    return np.array(
        [
            area(t, s, sample_weight=outcome.weights) if _are_both(t, outcome.weights) else np.nan
            for t, s in zip(truth.T, scores.T, strict=True)
        ]
    )


def _are_both(truth: np.ndarray, weights: np.ndarray | None) -> bool:
    counted = truth if weights is None else truth[weights > 0]
    return bool(0 < counted.sum() < len(counted))


def _roc_auc(outcome: Outcome) -> float:
    areas = _areas(outcome)
    if np.isnan(areas).any():
        name = printable(outcome.names[int(np.argmax(np.isnan(areas)))])
        raise Undefined(f"either none or all of the examples are {brief(name)}")
    return float(np.mean(areas))


def _log_loss(outcome: Outcome) -> float:
    p, truth = _probabilities(outcome), _one_hot(outcome)
    if outcome.truth.ndim == 2:
        tiny = np.finfo(p.dtype).eps
        p = np.clip(p, tiny, 1 - tiny)
        own = -np.mean(truth * np.log(p) + (1 - truth) * np.log(1 - p), 1)
        return float(np.average(own, weights=outcome.weights))
    labels = range(len(outcome.names))
    return _sklearn().log_loss(outcome.truth, p, labels=labels, sample_weight=outcome.weights)


def _brier(outcome: Outcome) -> float:
    """Of two classes mean (p − t)², of more the mean of the sum over the classes."""
    squares = np.square(_probabilities(outcome) - _one_hot(outcome))
    several = outcome.truth.ndim == 1 and len(outcome.names) > 2
    own = squares.sum(1) if several else squares.mean(1)
    return float(np.average(own, weights=outcome.weights))


def _top(k: int) -> Callable[[Outcome], float]:
    def score(outcome: Outcome) -> float:
        classes = len(outcome.names)
        if k >= classes or outcome.prediction.shape[1] != classes:
            raise Undefined(f"every class is among the {k} best of {classes}")
        return _sklearn().top_k_accuracy_score(
            outcome.truth,
            outcome.prediction,
            k=k,
            labels=range(classes),
            sample_weight=outcome.weights,
        )

    return score


def _r2(outcome: Outcome) -> np.ndarray:
    truth, weights = outcome.truth, outcome.weights
    center = np.average(truth, 0, weights)
    spread = np.average(np.square(truth - center), 0, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1 - np.average(np.square(truth - outcome.answer), 0, weights) / spread
    return np.where(spread > 0, r2, np.nan)


def _by_output(name: str) -> Callable[[Outcome], Any]:
    def score(outcome: Outcome) -> Any:
        function = getattr(_sklearn(), name)
        options = {"multioutput": "raw_values", "sample_weight": outcome.weights}
        return function(outcome.truth, outcome.answer, **options)

    return score


def _mean(function: Callable[[Outcome], Any]) -> Callable[[Outcome], float]:
    return lambda outcome: float(np.mean(function(outcome)))


_BOTH = (CLASSES, LABELS)
_MAE, _RMSE = _by_output("mean_absolute_error"), _by_output("root_mean_squared_error")
METRICS: dict[str, Metric] = {
    "balanced_accuracy": Metric(_balanced_accuracy, _BOTH),
    "brier": Metric(_brier, _BOTH, falls=True),
    "f1": Metric(_of_decisions(2, several=False), _BOTH),
    "f1_each": Metric(_of_decisions(2, several=True), _BOTH, several=True),
    "log_loss": Metric(_log_loss, _BOTH, falls=True),
    "mae_each": Metric(_MAE, (NUMBERS,), falls=True, several=True),
    "median_absolute_error": Metric(
        _mean(_by_output("median_absolute_error")), (NUMBERS,), falls=True
    ),
    "precision": Metric(_of_decisions(0, several=False), _BOTH),
    "precision_each": Metric(_of_decisions(0, several=True), _BOTH, several=True),
    "r2_each": Metric(_r2, (NUMBERS,), several=True),
    "recall": Metric(_of_decisions(1, several=False), _BOTH),
    "recall_each": Metric(_of_decisions(1, several=True), _BOTH, several=True),
    "rmse": Metric(_mean(_RMSE), (NUMBERS,), falls=True),
    "rmse_each": Metric(_RMSE, (NUMBERS,), falls=True, several=True),
    "roc_auc": Metric(_roc_auc, _BOTH),
    "roc_auc_each": Metric(_areas, _BOTH, several=True),
}
"""Beside the loss, and accuracy or r2 and mae, which are always there; ``top_2``, ``top_5`` …, how
often the class is among so many best, too. Those of several classes are their mean (macro), and
``_each`` has one number for each class, label or output."""
ALWAYS = {
    "loss": Metric(lambda o: None, (*_BOTH, NUMBERS), falls=True),
    "accuracy": Metric(lambda o: None, _BOTH),
    "r2": Metric(lambda o: None, (NUMBERS,)),
    "mae": Metric(lambda o: None, (NUMBERS,), falls=True),
}
"""Those of `jaxnn.training.evaluation.measures`, which can be compiled."""


def metric_called(name: str, kind: str) -> Metric:
    """The metric of this name, those of `measures` included.

    Args:
        name: A key of `METRICS`, top_K, loss, accuracy, r2 or mae.
        kind: From `kind_of`.

    Raises:
        ValueError: There is none for this kind of task; the message has the nearest that is.
    """
    known = {name: metric for name, metric in (METRICS | ALWAYS).items() if kind in metric.tasks}
    if kind == CLASSES and (top := re.fullmatch(r"top_([1-9]\d{0,8})", str(name))):
        return Metric(_top(int(top[1])), (CLASSES,))
    if name not in known:
        valid = [*known, *(["top_5"] if kind == CLASSES else [])]
        raise ValueError(unknown_name(f"metric of {kind}", name, valid))
    return known[name]


def named_metrics(
    metrics: Iterable[str] | Mapping[str, Callable[[Outcome], Any]], kind: str
) -> dict[str, Callable[[Outcome], Any]]:
    """(outcome) -> value, by name, without those that are always there; raises as
    `metric_called`, and TypeError for what is no function."""
    if isinstance(metrics, Mapping):
        for name, function in metrics.items():
            if not callable(function):
                raise TypeError(
                    f"metrics: expected {brief(name)} to be a function of an Outcome, got "
                    f"{brief(function)}"
                )
        return dict(metrics)
    if isinstance(metrics, str):
        raise TypeError(f"metrics: expected names in a tuple, got {brief(metrics)}")
    called = {name: metric_called(name, kind).of for name in metrics}
    return {name: function for name, function in called.items() if name not in ALWAYS}


def score(
    functions: Mapping[str, Callable[[Outcome], Any]], outcome: Outcome
) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of every metric, and of those that have none why.

    A value is a number, NaN where it is undefined, or a dict of numbers by class or output.
    """
    values, reasons = {}, {}
    for name, function in functions.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scikit-learn, about what is undefined
                value = _as_numbers(name, function(outcome), outcome.names)
        except Undefined as error:
            value, reasons[name] = float("nan"), str(error)
        values[name] = value
        numbers = value if isinstance(value, dict) else {"": value}
        missing = [key for key, number in numbers.items() if not np.isfinite(number)]
        if missing and name not in reasons:
            of = f" of {', '.join(map(brief, missing[:5]))}" if missing != [""] else ""
            reasons[name] = f"the examples do not tell{of}"
    return values, reasons


def _as_numbers(name: str, value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): float(number) for key, number in value.items()}
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.shape not in ((), (len(names),)):
        raise TypeError(
            f"metrics: expected {name} to return a number, or one for each of the {len(names)} "
            f"classes or outputs, got {brief(value)}"
        )
    if array.ndim:
        return dict(zip(names, map(float, array), strict=True))
    return float(array)
