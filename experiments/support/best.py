"""The epoch that was the best in validation: which metric says so, and its parameters on disk."""

import math
from collections.abc import Sequence

from experiments.support.config import Config
from experiments.support.runs import Run
from jaxnn.data import Splits
from jaxnn.training import TrainState, at_evaluation
from jaxnn.training.checkpoints import Checkpoints
from jaxnn.training.metrics import kind_of, metric_called, named_metrics


def require_best(config: Config, splits: Splits) -> None:
    """Raise ValueError unless ``best`` and ``metrics`` are metrics that the data have."""
    kind = kind_of(config.task(splits))
    if config.best != "last" and metric_called(config.best, kind).several:
        raise ValueError(
            f"train: expected best to be a metric of one number, got {config.best}, which has one "
            f"for each of several: say {config.best.removesuffix('_each')}"
        )
    named_metrics(config.metrics, kind)
    if config.best not in ("last", "loss") and not len(splits.validation.target):
        raise ValueError(
            f"train: expected validation data where best is {config.best}: say "
            "--data.validation-fraction 0.1, for example"
        )


class Best:
    """The parameters of the epoch that was the best in validation; a context manager.

    They are written before the checkpoint of the same time, and some older ones are kept until the
    end, so that a run which has to go back to an older checkpoint finds the best until then.
    """

    def __init__(self, run: Run, config: Config, splits: Splits, past: Sequence[dict]):
        self._metric = f"validation_{config.best}"
        self._pending: tuple[int, TrainState] | None = None
        self._epoch, self._value = 0, math.inf
        self._kept = None
        if config.best != "last" and len(splits.validation.target):
            falls = metric_called(config.best, kind_of(config.task(splits))).falls
            self._sign = 1 if falls else -1
            self._kept = Checkpoints(run.best, keep=4)
            self._kept.discard_after(len(past))
            if (latest := self._kept.latest) is not None:
                self._epoch, self._value = latest, self._value_of(past[latest - 1])

    def __enter__(self) -> "Best":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._kept is not None:
            self._kept.__exit__(*exception)

    def see(self, number: int, record: dict, train_state: TrainState) -> None:
        """Look at an epoch."""
        if self._kept is None:
            return
        value = self._value_of(record)
        if value < self._value or not self._epoch:
            self._epoch, self._value = number, value
            self._pending = number, at_evaluation(train_state)._replace(optimizer_state=())

    def save(self) -> None:
        """Write the best until now, if that is a new one."""
        if self._kept is not None and self._pending is not None:
            self._kept.save(*self._pending)
            self._kept.wait()
            self._pending = None

    def parameters(self, last: TrainState) -> tuple[TrainState, str]:
        """The best, and what they are called; the ``last`` where there are none of validation."""
        if self._kept is None or not self._epoch:
            return at_evaluation(last), ""
        self.save()
        epoch, train_state = self._kept.restore(last._replace(optimizer_state=()))
        return train_state, f" with the weights of epoch {epoch}, the best in validation"

    def _value_of(self, record: dict) -> float:
        value = self._sign * record.get(self._metric, math.nan)
        return math.inf if math.isnan(value) else value
