"""Cross-validation: every example is in the test part of one fold, whose network never saw it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measuring import align
from experiments.support.config import Config
from experiments.support.files import as_json
from experiments.support.intervals import CONFIDENCE, interval
from experiments.support.processes import is_first, versions
from experiments.support.runs import FOLDS, Run
from jaxnn.core.files import write_file
from jaxnn.core.validation import printable, require_integer
from jaxnn.data import Splits
from jaxnn.training import Folds, stack_folds, train_folds
from jaxnn.training.evaluation import measures, scores_of
from jaxnn.training.metrics import ALWAYS, kind_of, metric_called

METHOD = (
    f"{CONFIDENCE:.0%} confidence by Student's t over the folds, whose networks share most of "
    "their training examples"
)


def require_foldable(config: Config, folds: int) -> None:
    """Raise ValueError for options that have no meaning where there are folds."""
    require_integer("train", "folds", folds, 2)
    for name, values in (
        ("stream", (False,)),
        ("gradient", ("manual",)),
        ("micro_batches", (1,)),
        ("in_backward", (False,)),
        ("patience", (None,)),
        ("class_weights", ("",)),
        ("best", ("last", *ALWAYS)),
    ):
        if (given := getattr(config, name)) not in values:
            expected = " or ".join(map(str, values))
            option = name.replace("_", "-")
            raise ValueError(
                f"train: expected {name} to be {expected} with --folds, got {given!r}: leave "
                f"--{option} out, or --folds"
            )
    if config.data.is_mapped:
        raise ValueError(
            f"train: expected data that are drawn into folds, got the folder {config.data.name}, "
            "whose splits are fixed: leave --folds out"
        )


def load_folds(config: Config, folds: int) -> list[Splits]:
    """The splits of every fold, each prepared by its own training examples alone.

    A feature that only some of them have (a category, say) is 0 in the others, so that all have the
    same.
    """
    every = [config.load(fold=(index, folds)) for index in range(folds)]
    names = list(dict.fromkeys(n for splits in every for n in splits.train.feature_names))
    if all(len(splits.train.feature_names) == len(names) for splits in every):
        return every
    return [_with_features(splits, names) for splits in every]


def _with_features(splits: Splits, names: list[str]) -> Splits:
    place = {name: column for column, name in enumerate(names)}
    columns = [place[name] for name in splits.train.feature_names]

    def widened(part: Any) -> Any:
        numbers, *codes = part.x if isinstance(part.x, tuple) else (part.x,)
        x = np.zeros((len(part.target), len(names)), numbers.dtype)
        x[:, columns] = numbers
        return part._replace(x=(x, *codes) if codes else x, feature_names=tuple(names))

    return splits._replace(**{name: widened(getattr(splits, name)) for name in splits._fields[:3]})


def cross_validate(config: Config, every: Sequence[Splits], run: Run, devices: Any) -> None:
    """Train on all folds at once, print the metrics on their test parts, and write them."""
    found = _train(config, every, devices)
    scores = _score(config, every, found)
    rows = [("fold", *scores, "best epoch", "")]
    for fold, epoch in enumerate(found.epochs):
        cells = (f"{values[fold]:.4f}" for values in scores.values())
        rows.append((str(fold + 1), *cells, str(int(epoch)), ""))
    summary = {name: interval(values) for name, values in scores.items()}
    rows.append(("mean", *(f"{m:.4f} ± {h:.4f}" for m, h in summary.values()), "", ""))
    print(f"{printable(align(rows))}\n± {METHOD}")
    facts = {
        "folds": [
            {
                "data": splits.source.data,
                "split": splits.source.split,
                "examples": {
                    name: len(getattr(splits, name).target) for name in splits._fields[:3]
                },
                "epoch": int(epoch),
                "losses": losses.tolist(),
            }
            for splits, epoch, losses in zip(every, found.epochs, found.losses, strict=True)
        ],
        "metrics": {
            name: {"values": values, "mean": summary[name][0], "half_width": summary[name][1]}
            for name, values in scores.items()
        },
        "interval": METHOD,
        "network": repr(config.layers),
        "versions": versions(),
    }
    text = as_json(facts, indent=1, ensure_ascii=False) + "\n"
    path = run.folder / FOLDS
    if is_first():
        write_file(path, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)
    run.write_config(config)
    print(f"{run.folder}: {FOLDS}")


def _train(config: Config, every: Sequence[Splits], devices: Any) -> Folds:
    tasks = [config.task(splits) for splits in every]
    pairs = [config.supervised(s.train, task) for s, task in zip(every, tasks, strict=True)]
    data = [(s.train.x, target) for s, (_, target) in zip(every, pairs, strict=True)]
    options = {}
    if config.best != "last" and len(every[0].validation.target):
        parts = [splits.validation for splits in every]
        held_out = stack_folds(
            [
                (part.x, task.prepare(part.target), _weights_of(part))
                for part, task in zip(parts, tasks, strict=True)
            ]
        )
        deviations = np.stack([np.asarray(task.deviation, np.float32) for task in tasks])
        falls = metric_called(config.best, kind_of(tasks[0])).falls

        def score(params: Any, state: Any, held_out: Any) -> jax.Array:
            (x, target, weights), deviation = held_out
            task = tasks[0]._replace(deviation=deviation)
            prediction = config.layers.predict(params, state, x)
            value = measures(config.loss_function, task, prediction, target, weights)[config.best]
            return (1 if falls else -1) * value.astype(jnp.float32)

        options = {"score": score, "held_out": (held_out, deviations)}
    longest = max(len(splits.train.target) for splits in every)
    found = train_folds(
        config.fused_layers,
        pairs[0][0],
        config.make_optimizer(longest),
        data,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        devices=devices,
        **options,
    )
    found = jax.tree.map(np.asarray, found)
    if not np.isfinite(found.losses).all():
        fold, epoch = (int(i) + 1 for i in np.argwhere(~np.isfinite(found.losses))[0])
        raise RuntimeError(
            f"train: fold {fold} diverged in epoch {epoch}: a smaller learning rate or clip_norm "
            "may help"
        )
    return found


def _score(config: Config, every: Sequence[Splits], found: Folds) -> dict[str, list[float]]:
    """The metrics of every fold on its test part, in the units of the data."""
    parts = [splits.test for splits in every]
    predict = jax.jit(jax.vmap(config.layers.predict))
    predictions = predict(found.params, found.state, stack_folds([part.x for part in parts]))
    scores: dict[str, list[float]] = {}
    for splits, part, prediction in zip(every, parts, predictions, strict=True):
        task = config.task(splits)
        values, _ = scores_of(
            config.loss_function,
            task,
            prediction[: len(part.target)],
            task.prepare(part.target),
            config.all_metrics,
            part.weights,
        )
        for name, value in values.items():
            of = value if isinstance(value, dict) else {"": value}
            for key, number in of.items():
                scores.setdefault(f"{name} {key}".strip(), []).append(number)
    return scores


def _weights_of(part: Any) -> np.ndarray:
    return np.ones(len(part.target), np.float32) if part.weights is None else part.weights
