"""Run folders: what a training run leaves behind, and how it is found again.

config.toml            the resolved configuration
metrics.jsonl          one line for each epoch, then one for the test set
checkpoints/           train states, the newest few
*.png                  learning curves, confusion matrix, mistakes
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tomli_w

from experiments.config import Config, read_config, to_table
from experiments.files import write_file, writing
from jaxnn.data import Splits
from jaxnn.training import TrainState, create_state
from jaxnn.training.checkpoints import Checkpoints

RUNS = Path("runs")


class Run:
    """One run folder.

    Args:
        folder: Where it is; see `new_run` and `open_run`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._config = folder / "config.toml"
        self._metrics = folder / "metrics.jsonl"

    def read_config(self) -> Config:
        """The configuration that the run was started with."""
        return read_config(self._config)

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration."""
        text = tomli_w.dumps(to_table(config), multiline_strings=False)
        write_file(self._config, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)

    def restore(self, like: TrainState) -> tuple[int, TrainState]:
        """The epoch and train state of the newest checkpoint; see `Checkpoints.restore`."""
        with Checkpoints(self.checkpoints, read_only=True) as checkpoints:
            return checkpoints.restore(like)

    def epochs(self, until: int | None = None) -> list[dict[str, Any]]:
        """The metrics of every epoch from 1 to ``until``, or to the last.

        Raises:
            ValueError: A line is no JSON object (the last one may be cut off by a crash), or an
                epoch is missing.
        """
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
        records = [record for record in records if "epoch" in record][:until]
        expected = range(1, (len(records) if until is None else until) + 1)
        if [record["epoch"] for record in records] != list(expected):
            raise ValueError(
                f"expected {self._metrics} to have the epochs 1 to {len(expected)}, one a line"
            )
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_epochs(self, records: Sequence[dict[str, Any]]) -> None:
        """Make these the metrics: a resumed run does again what came after its checkpoint."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_file(self._metrics, lambda p: p.write_text(text, encoding="utf-8"), overwrite=True)


def new_run(name: str, output: Path | None) -> Run:
    """A new, empty run folder: ``output``, or a free name under runs/.

    Raises:
        FileExistsError: ``output`` exists and is not an empty folder.
        OSError: it cannot be made or written.
    """
    if output is not None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise FileExistsError(
                f"expected output to be a new or empty folder, {output} is neither: choose "
                f"another, or continue that run with --resume {output}"
            )
        folder = output
    else:
        folder, count = RUNS / name, 1
        while folder.exists():
            count += 1
            folder = RUNS / f"{name}-{count}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"expected output to be a folder that can be made: {error}") from error
    return Run(folder)


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
