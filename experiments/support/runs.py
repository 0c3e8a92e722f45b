"""Run folders: what a training run leaves behind, and how it is found again.

config.toml            the resolved configuration
metrics.jsonl          one line for each epoch, then one for the test set
checkpoints/           train states, the newest few
tensorboard/           the metrics as event files, where they were asked for
*.png                  learning curves, confusion matrix, mistakes
.lock                  held by the process that trains

A process may be killed at any moment. A file is there whole or not at all, but for the last line of
the metrics and the last event; a checkpoint is written only after the metrics of its epochs; and
what comes after the newest checkpoint is written again by the run that resumes.
"""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tomli_w
from filelock import FileLock, Timeout

from experiments.support.config import Config, read_config, to_table
from experiments.support.files import leftovers, sync, write_file, writing
from experiments.support.processes import is_first, text_of_first
from experiments.support.tracking import Events
from jaxnn.data import Splits
from jaxnn.training import TrainState, create_state
from jaxnn.training.checkpoints import Checkpoints

RUNS = Path("runs")
LOCK = ".lock"


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
        self._config = folder / "config.toml"
        self._metrics = folder / "metrics.jsonl"
        self._tensorboard = folder / "tensorboard"
        self._events: Events | None = None
        self._lock = FileLock(folder / LOCK)

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

    def read_config(self) -> Config:
        """The configuration that the run was started with."""
        return read_config(self._config)

    @_by_the_first
    def write_config(self, config: Config) -> None:
        """Write the resolved configuration."""
        text = tomli_w.dumps(to_table(config), multiline_strings=False)
        write_file(self._config, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)

    def restore(self, like: TrainState) -> tuple[int, TrainState]:
        """The epoch and train state of the newest checkpoint; see `Checkpoints.restore`."""
        with Checkpoints(self.checkpoints, read_only=True) as checkpoints:
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
                records.append(json.loads(line))
            except json.JSONDecodeError:
                if number < len(lines):
                    raise ValueError(
                        f"expected line {number} of {self._metrics} to be JSON, got {line[:60]!r}"
                    ) from None
        return records

    @_by_the_first
    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._events is not None:
            with writing(self._tensorboard):
                self._events.write(record)

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
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_file(self._metrics, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)
        if tensorboard or self._tensorboard.exists():
            with writing(self._tensorboard):
                self._events = Events(self._tensorboard, records)


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
    if output.is_dir() and {*output.iterdir()} <= {output / LOCK, *leftovers(output)}:
        return
    raise FileExistsError(
        f"expected output to be a new or empty folder, {output} is neither: choose "
        f"another, or continue that run with --resume {output}"
    )


def open_run(folder: Path) -> Run:
    """An existing run folder.

    Raises:
        FileNotFoundError: There is none, or it is not a run folder.
    """
    run = Run(folder)
    if not (folder / "config.toml").is_file():
        known = sorted(str(path.parent) for path in RUNS.glob("*/config.toml"))
        hint = f"; there are {', '.join(known)}" if known else ""
        raise FileNotFoundError(f"expected {folder} to be a run folder with config.toml{hint}")
    return run


def restore(run: Run) -> tuple[Config, Splits, int, TrainState]:
    """A run's configuration, data, and the epoch and train state of its newest checkpoint."""
    config = run.read_config()
    splits = config.data.load()
    return config, splits, *run.restore(like=initial_state(config, splits))


def initial_state(config: Config, splits: Splits) -> TrainState:
    """The train state that a configuration starts from."""
    optimizer = config.make_optimizer(len(splits.train.x))
    key = jax.random.key(config.seed)
    return create_state(config.layers, optimizer, key, splits.train.x[:1])
