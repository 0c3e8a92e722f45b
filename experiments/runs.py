"""Run folders: what a training run leaves behind, and how it is found again.

config.toml            the resolved configuration
metrics.jsonl          one line for each epoch, then one for the test set
checkpoints/           train states, the newest few
*.png                  learning curves, confusion matrix, mistakes
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import tomli_w

from experiments.config import Config, read_config, to_table
from experiments.files import write_file
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

    def epochs(self) -> list[dict[str, Any]]:
        """The metrics of the epochs so far.

        Raises:
            ValueError: A line is no JSON object; the last one may be cut off by a crash.
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
        return [record for record in records if "epoch" in record]

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_after(self, epoch: int) -> None:
        """Drop the metrics of what a resumed run will do again."""
        kept = [record for record in self.epochs() if record["epoch"] <= epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
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
        output.mkdir(parents=True, exist_ok=True)
        folder = output
    else:
        folder, count = RUNS / name, 1
        while folder.exists():
            count += 1
            folder = RUNS / f"{name}-{count}"
        folder.mkdir(parents=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"expected output to be writable, {folder} is not")
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
    like = initial_state(config, splits)
    with Checkpoints(run.checkpoints) as checkpoints:
        return config, splits, *checkpoints.restore(like)


def initial_state(config: Config, splits: Splits) -> TrainState:
    """The train state that a configuration starts from."""
    optimizer = config.make_optimizer(len(splits.train.x))
    key = jax.random.key(config.seed)
    return create_state(config.layers, optimizer, key, splits.train.x[:1])
