"""Run folders: what a training run leaves behind, and how it is found again.

config.toml            the resolved configuration, with its digest
run.json               what is known of the data (names, kinds, preparation, digests), the network
                       as an expression, versions of packages
arrays.npz             the numbers of the preparation, and the held-out examples of somebody's file
metrics.jsonl          one line for each epoch, then one for the test set
checkpoints/           train states, the newest few
best/                  the parameters of the epoch that was the best in validation
start/                 the train state that fine-tuning started from, where there was any
tensorboard/           the metrics as event files, where they were asked for
folds.json             alone beside config.toml, of a cross-validation: the metrics of each fold
*.png                  learning curves, confusion matrix, mistakes
.lock                  held by the process that trains

A process may be killed at any moment. A file is there whole or not at all, but for the last line of
the metrics and the last event; a checkpoint is written only after the metrics of its epochs; and
what comes after the newest checkpoint is written again by the run that resumes. Nothing in the
folder can run code, and nothing outside of it is needed to predict.
"""

import functools
import hashlib
import itertools
import json
import math
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tomli_w
from filelock import FileLock, Timeout

from experiments.support.calling import command
from experiments.support.config import RUN, Config, read_config, read_toml, to_table
from experiments.support.files import as_json, leftovers
from experiments.support.processes import is_first, text_of_first, versions
from experiments.support.tracking import Events
from jaxnn.core.files import sync, write_file, writing
from jaxnn.data import Dataset, Preparation, Splits
from jaxnn.data.facts import BAD_FACTS, parse_facts
from jaxnn.data.npz import read_npz
from jaxnn.data.preparation import ARRAYS, from_facts
from jaxnn.data.splitting import Source
from jaxnn.training import TrainState, at_evaluation, create_state
from jaxnn.training.checkpoints import Checkpoints

RUNS = Path("runs")
LOCK = ".lock"
FOLDS = "folds.json"
"""What a cross-validation leaves behind: numbers, but no network."""
KEPT = ("validation", "test")
"""The splits of somebody's own file that a run keeps,"""
MOST_KEPT = 1 << 28
"""where the arrays have at most so many bytes."""
FORMAT = 2
"""Of run.json; the runs of jaxnn 0.1 have none."""


class Record(NamedTuple):
    """What a run knows of its data."""

    preparation: Preparation
    source: Source
    examples: dict[str, int]
    """How many each split has."""
    network: str
    """The expression that builds it."""


def _by_the_first(method: Callable) -> Callable:
    """The same method, which of several processes only the first one carries out."""

    @functools.wraps(method)
    def run(*arguments: Any, **options: Any):
        return method(*arguments, **options) if is_first() else None

    return run


class Run:
    """One run folder; a context manager that unlocks it. Of several processes the first writes.

    Args:
        folder: Where it is; see `new_run` and `open_run`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.best = folder / "best"
        self.start = folder / "start"
        self._config = folder / "config.toml"
        self._record = folder / "run.json"
        self._arrays = folder / "arrays.npz"
        self._metrics = folder / "metrics.jsonl"
        self._tensorboard = folder / "tensorboard"
        self._events: Events | None = None
        self._lock = FileLock(folder / LOCK)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        """Are told every record of the metrics, once it is written."""

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    @_by_the_first
    def lock(self) -> None:
        """Keep other processes from training here, until the end of the ``with`` block or of this
        process, however it ends.

        Raises:
            RuntimeError: Another process trains here.
            OSError: The folder cannot be written.
        """
        with writing(self.folder / LOCK):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RuntimeError(
                    f"expected {self.folder} to be free: another process is training in it"
                ) from None
        for path in leftovers(self.folder):
            path.unlink()

    def read_config(self, *, allow_changes: bool = False) -> Config:
        """The configuration that the run was started with.

        Raises:
            ValueError: It has been edited since, unless that is allowed: then it is a warning.
        """
        table = read_toml(self._config)
        known = self._facts()
        if self.has_record and known.pop("sha256", None) != _digest({**table, RUN: known}):
            complain(
                f"{self._config}: the configuration is not the one that the run was trained with, "
                "it has been edited",
                allow_changes,
            )
        return read_config(self._config)

    def _facts(self) -> dict[str, Any]:
        """What config.toml says beside the configuration."""
        facts = read_toml(self._config).get(RUN, {})
        return facts if isinstance(facts, dict) else {}

    @property
    def tuned_after(self) -> int:
        """The epoch after which the last fine-tuning began; 0 without any."""
        return self._facts().get("tuned_after", 0)

    @_by_the_first
    def write_config(self, config: Config, tuned_after: int = 0) -> None:
        """Write the resolved configuration: the folder then is that of a run."""
        table = to_table(config)
        kept = [path for path in (self._record, self._arrays) if path.is_file()]
        table[RUN] = {"tuned_after": tuned_after, **{p.name: _sha256(p) for p in kept}}
        table[RUN]["sha256"] = _digest(table)
        text = tomli_w.dumps(table, multiline_strings=False)
        write_file(self._config, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)

    @property
    def has_record(self) -> bool:
        """Whether the run says what its data were: those of jaxnn 0.1 do not."""
        return self._record.is_file()

    @_by_the_first
    def write_record(self, config: Config, splits: Splits) -> None:
        """Keep what is known of the data."""
        facts, arrays = splits.preparation.facts()
        parts = {name: getattr(splits, name) for name in ("train", *KEPT)}
        kept = {name: parts[name] for name in KEPT}
        own = {
            f"{name}.{field}": array
            for name, part in kept.items()
            for field, array in _arrays_of(part, splits.preparation).items()
            if array is not None
        }
        if not config.data.is_named and sum(a.nbytes for a in own.values()) <= MOST_KEPT:
            arrays |= own
        record = {
            "format": FORMAT,
            "network": repr(config.layers),
            "data": splits.source._asdict(),
            "examples": {name: len(part.target) for name, part in parts.items()},
            "preparation": facts,
            "versions": versions(),
        }

        def write_arrays(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]

        write_file(self._arrays, write_arrays, overwrite=True)
        text = as_json(record, indent=1, ensure_ascii=False) + "\n"
        write_file(self._record, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)

    def read_record(self, *, allow_changes: bool = False) -> Record:
        """What `write_record` kept.

        Raises:
            ValueError: It cannot be read, or has been changed since, unless that is allowed.
        """
        known = self._facts()
        for path in (self._record, self._arrays):
            if known.get(path.name) != _sha256(path):
                complain(
                    f"{path}: the record of the data is not the one of the training, it has been "
                    "changed",
                    allow_changes,
                )
        record = parse_facts(self._record, self._record.read_bytes())
        try:
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}")
            source = Source(**record["data"])
            examples = {name: int(record["examples"][name]) for name in ("train", *KEPT)}
            facts, network = record["preparation"], str(record["network"])
        except BAD_FACTS as error:
            raise ValueError(
                f"{self._record}: expected a record of format {FORMAT}, as this version of jaxnn "
                f"writes it, got {error}"
            ) from None
        arrays = read_npz(self._arrays, ARRAYS)
        preparation = from_facts(str(self._record), facts, arrays)
        return Record(preparation, source, examples, network)

    def read_kept(self, split: str, preparation: Preparation) -> Dataset | None:
        """The examples of a split, if the run has kept it."""
        needed = ("target", *preparation.x_names)
        found = read_npz(self._arrays, (), [f"{split}.{name}" for name in ("weights", *needed)])
        named = {name.partition(".")[2]: array for name, array in found.items()}
        if not {*needed} <= {*named}:
            return None
        names = preparation.feature_names, preparation.class_names
        x, weights = preparation.joined(named), named.get("weights")
        return Dataset(x, named["target"], *names, weights=weights)

    def restore(self, like: TrainState) -> tuple[int, TrainState]:
        """The epoch and train state of the newest checkpoint; see `Checkpoints.restore`.

        Of the epoch after which fine-tuning began, it is the state that this began with.
        """
        folder, tuned_after = self.checkpoints, self.tuned_after
        if tuned_after:
            with Checkpoints(folder, read_only=True) as checkpoints:
                is_start = checkpoints.latest == tuned_after
            folder = self.start if is_start else folder
        with Checkpoints(folder, read_only=True) as checkpoints:
            return checkpoints.restore(like)

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything has been saved, be it damaged."""
        if not self.checkpoints.is_dir():
            return False
        with Checkpoints(self.checkpoints, read_only=True) as checkpoints:
            return checkpoints.latest is not None

    def epochs(self, until: int | None = None) -> list[dict[str, Any]]:
        """The metrics of every epoch from 1 to ``until``, or to the last.

        Raises:
            ValueError: A line is no JSON object (the last one may be cut off by a crash), or an
                epoch is missing.
        """
        records = [record for record in self._records() if "epoch" in record][:until]
        expected = range(1, (len(records) if until is None else until) + 1)
        if [record["epoch"] for record in records] != list(expected):
            raise ValueError(
                f"expected {self._metrics} to have the epochs 1 to {len(expected)}, one a line"
            )
        return records

    def test(self) -> dict[str, float]:
        """The metrics on the test set; empty before the end of the training."""
        return next((record["test"] for record in self._records() if "test" in record), {})

    def _records(self) -> list[dict[str, Any]]:
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").splitlines()
        records = []
        for number, line in enumerate(lines, 1):
            try:
                where = f"{self._metrics}, line {number}"
                records.append(_with_infinities(parse_facts(where, line)))
            except ValueError:
                if number < len(lines):
                    raise
        return records

    @_by_the_first
    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(as_json(record) + "\n")
        if self._events is not None:
            with writing(self._tensorboard):
                self._events.write(record)
        for tell in self.listeners:
            tell(record)

    @_by_the_first
    def sync(self) -> None:
        """Wait until the metrics are on the disk: a checkpoint must not be there before them."""
        with writing(self._metrics):
            sync(self._metrics)

    @_by_the_first
    def write_epochs(self, records: Sequence[dict[str, Any]], *, tensorboard: bool = False) -> None:
        """Make these the metrics: a resumed run does again what came after its checkpoint.

        Args:
            records: One for each epoch.
            tensorboard: Whether to write event files too; where there are some, they go on.
        """
        text = "".join(as_json(record) + "\n" for record in records)
        write_file(self._metrics, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)
        if tensorboard or self._tensorboard.exists():
            with writing(self._tensorboard):
                self._events = Events(self._tensorboard, records)


def stem_of(data: str) -> str:
    """What a run on these data is called: the file without its suffixes."""
    path = Path(data)
    return path.with_suffix("").stem if path.suffix.lower() == ".gz" else path.stem


def new_run(name: str, output: Path | None) -> Run:
    """A new, empty run folder, locked: ``output``, or a free name under runs/.

    Raises:
        FileExistsError: ``output`` exists and is not an empty folder.
        RuntimeError: another process trains in it.
        OSError: it cannot be made or written.
    """
    if not is_first():
        return Run(Path(text_of_first("")))
    if output is not None:
        _require_empty(output)
    try:
        folder = _make_free_folder(name) if output is None else output
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"expected output to be a folder that can be made: {error}") from error
    run = Run(folder)
    run.lock()
    _require_empty(folder)  # another process may have been faster
    text_of_first(str(folder))
    return run


def _make_free_folder(name: str) -> Path:
    for count in itertools.count(1):
        folder = RUNS / (name if count == 1 else f"{name}-{count}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("counting has no end")


def _require_empty(output: Path) -> None:
    """A run that was killed before it wrote anything counts as none."""
    if not output.exists():
        return
    before_config = {output / name for name in (LOCK, "run.json", "arrays.npz")}
    if output.is_dir() and {*output.iterdir()} <= {*before_config, *leftovers(output)}:
        return
    is_run = (output / "config.toml").exists()
    way_out = f", or continue that run with --resume {shlex.quote(str(output))}" * is_run
    raise FileExistsError(
        f"expected output to be a new or empty folder, {output} is neither: choose another{way_out}"
    )


def open_run(folder: Path) -> Run:
    """An existing run folder.

    Raises:
        FileNotFoundError: There is none, or it is not a run folder.
        ValueError: It is that of a cross-validation.
    """
    run = Run(folder)
    if (folder / FOLDS).is_file():
        raise ValueError(
            f"{folder}: expected a run with a network, got a cross-validation, whose numbers are "
            f"in {FOLDS}: train one without --folds"
        )
    if not (folder / "config.toml").is_file():
        known = sorted(str(path.parent) for path in RUNS.glob("*/config.toml"))
        hint = f"; there are {', '.join(known)}" if known else ""
        raise FileNotFoundError(f"expected {folder} to be a run folder with config.toml{hint}")
    return run


class Trained(NamedTuple):
    """A run that needs nothing but its folder."""

    run: Run
    config: Config
    record: Record
    epoch: int
    """How many epochs its parameters have seen."""
    train_state: TrainState

    @property
    def preparation(self) -> Preparation:
        """Of the data that it was trained on."""
        return self.record.preparation

    @property
    def inputs(self) -> tuple[str, ...] | None:
        """What the training data call x, where it has a name: an array, or a column of paths."""
        data = self.config.data
        if self.preparation.images is not None:
            return None if data.images is None else (data.images,)
        return None if self.preparation.feature_names else data.inputs


def open_trained(
    folder: Path, *, allow_changes: bool = False, weights: str = "best"
) -> tuple[Trained, Splits | None]:
    """A trained network, and its data where it is a run of jaxnn 0.1, which has no record of them.

    Args:
        folder: The run folder.
        allow_changes: Whether it is only warned of a configuration that has been edited.
        weights: "best", those of the best epoch in validation if there are any, or "last".

    Raises:
        FileNotFoundError: It is no run folder.
        ValueError: The configuration has been edited, or something in the folder is damaged.
    """
    run = open_run(folder)
    config = run.read_config(allow_changes=allow_changes)
    splits = None
    if run.has_record:
        record = run.read_record(allow_changes=allow_changes)
        if repr(config.layers) != record.network:
            complain(
                f"{folder}: the network of the configuration is not the one that was trained, "
                f"which is {record.network}",
                allow_changes,
            )
    else:
        warnings.warn(
            f"{folder} is a run of jaxnn 0.1, without a record of its data: classes, features and "
            "scaling are taken from its data as they are now; to keep them with the run, resume it "
            f"once: {command('train')} --resume {shlex.quote(str(folder))}",
            stacklevel=2,
        )
        splits = config.load()
        record = record_of(config, splits)
    like = _state_like(config, record)
    if weights == "best" and run.best.is_dir():
        with Checkpoints(run.best, read_only=True) as best:
            if best.latest is not None:
                epoch, train_state = best.restore(like._replace(optimizer_state=()))
                return Trained(run, config, record, epoch, train_state), splits
    epoch, train_state = run.restore(like)
    return Trained(run, config, record, epoch, at_evaluation(train_state)), splits


def restore(run: Run) -> tuple[Config, Splits, int, TrainState]:
    """A run's configuration, data, and the epoch and train state of its newest checkpoint."""
    trained, splits = open_trained(run.folder, weights="last")
    if splits is None:
        splits = load_data(trained)
    return trained.config, splits, trained.epoch, trained.train_state


def load_data(trained: Trained, *, allow_changes: bool = False) -> Splits:
    """The data of a run, once they are found to be those that it was trained on.

    Raises:
        FileNotFoundError: They are not where they were.
        ValueError: They, or the split, have changed, unless that is allowed.
    """
    splits = trained.config.load()
    require_same_data(trained.run, trained.record, splits, allow_changes=allow_changes)
    return splits


def require_same_data(
    run: Run, record: Record, splits: Splits, *, allow_changes: bool | None = None
) -> None:
    """Raise ValueError, or warn, unless the splits are those that the run was trained on."""
    if splits.source.data != record.source.data:
        given = {name: len(getattr(splits, name).target) for name in record.examples}
        complain(
            f"{run.folder}: the data are not those that the run was trained on: their digest is "
            f"another, there are {_counts(given)} examples and were {_counts(record.examples)}",
            allow_changes,
        )
    elif splits.source.split != record.source.split:
        complain(f"{run.folder}: the examples are split otherwise than they were", allow_changes)


def complain(message: str, allow_changes: bool | None) -> None:
    """A warning where changes are allowed, and otherwise a ValueError that says how to go on.

    Args:
        message: What has changed.
        allow_changes: None where no option allows it.
    """
    if allow_changes:
        warnings.warn(message, stacklevel=3)
        return
    way_out = (
        "train a new one for the new data"
        if allow_changes is None
        else ("go on all the same with --allow-changes")
    )
    raise ValueError(f"{message}; bring it back as it was, or {way_out}")


def record_of(config: Config, splits: Splits) -> Record:
    """The record of a run on these data."""
    examples = {name: len(getattr(splits, name).target) for name in ("train", *KEPT)}
    return Record(splits.preparation, splits.source, examples, repr(config.layers))


def initial_state(config: Config, splits: Splits) -> TrainState:
    """The train state that a configuration starts from."""
    return _state_like(config, record_of(config, splits))


def _state_like(config: Config, record: Record) -> TrainState:
    optimizer = config.make_update(record.examples["train"])
    key = jax.random.key(config.seed)
    return create_state(config.layers, optimizer, key, record.preparation.sample())


def _arrays_of(part: Dataset, preparation: Preparation) -> dict[str, np.ndarray | None]:
    """What is kept of a split."""
    return {**preparation.apart(part.x), "target": part.target, "weights": part.weights}


def _counts(examples: dict[str, int]) -> str:
    return " + ".join(str(examples[name]) for name in ("train", *KEPT))


def _digest(table: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _with_infinities(value: Any) -> Any:
    """What JSON has as null: a number that was not finite."""
    if isinstance(value, dict):
        return {key: _with_infinities(inner) for key, inner in value.items()}
    return math.nan if value is None else value
