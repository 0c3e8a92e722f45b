"""Kill training at random moments, resume it, and compare what it ends with.

python -m experiments.crash --kills 300

A small network is trained once without a break. Then the same training is started again and again
and killed (SIGKILL, so that nothing of it can react) at random moments, and resumed until it is
finished; then the next one is started, until there were enough kills. Every run must end with the
files of the first one, the same parameters, optimiser state and metrics bit for bit, and no
checkpoint that was there after a kill may be gone after the next.

The moments are drawn uniformly from the time that the last start needed to its end, longer by a
tenth for each kill since then that found no new checkpoint, so that a machine that has become slow
gets on, too.
"""

import multiprocessing
import os
import random
import re
import shutil
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import train
from experiments.support.command_line import parse_options, run_script
from experiments.support.runs import Run, open_run, restore
from jaxnn.core.validation import require_positive_integer

# All that a resumed run could get wrong: dropout, batch norm, an order that a seed draws, a smaller
# last batch, a schedule, patience.
TRAINING = (
    "wine_mlp",
    *("--network", "batch_norm()", "dropout(0.2)", "dense(3)"),
    *("--schedule", "cosine()", "--data.validation-fraction", "0.1", "--patience", "100"),
    *("--save-seconds", "0", "--tensorboard"),
)
IN_STAGES = (
    "--network",
    "dense(8)",
    "dropout(0.2)",
    "dense(8)",
    "dense(3)",
    "--micro-batches",
    "4",
)
"""Of a run in stages, where batch norm would mix the examples of a micro-batch."""
PRELOADED = ["experiments.train", "orbax.checkpoint", "tensorboardX", "sklearn.datasets"]


@dataclass(frozen=True)
class Options:
    """Kill training at random moments, resume it, and compare what it ends with."""

    kills: int = 300
    """How many."""
    epochs: int = 12
    """Of each training; a checkpoint is saved after every one."""
    seed: int = 0
    """Draws the moments."""
    stages: int = 1
    """In how many stages the network is trained, each on a device of its own."""
    output: Path | None = None
    """Keep the run folders here; it must not exist. They are removed unless given."""


def main(arguments: list[str]) -> None:
    """Print what was found; exit with 1 if anything was lost or different."""
    options = parse_options(Options, "crash", arguments)
    require_positive_integer("crash", "kills", options.kills)
    require_positive_integer("crash", "epochs", options.epochs)
    require_positive_integer("crash", "stages", options.stages)
    if options.output is not None:
        options.output.mkdir(parents=True)
    with TemporaryDirectory(prefix="jaxnn-crash-") as temporary:
        folder = options.output or Path(temporary)
        found = crash(options.kills, options.epochs, options.seed, folder, options.stages)
    for moment, count in found.moments.most_common():
        print(f"  {count} {moment}")
    print(found)
    for problem in found.lost + found.different:
        print(f"  {problem}")
    if found.lost or found.different:
        sys.exit(1)


@dataclass
class Found:
    """What the kills did."""

    moments: Counter[str]
    """How many hit where."""
    lost: list[str]
    """Runs that could not be resumed, and checkpoints that went back."""
    different: list[str]
    """Runs that ended otherwise than the one without a break."""
    runs: int = 0
    """Those that were finished, or could not be."""
    starts: int = 0
    """Processes, those that were not killed included."""

    def __str__(self) -> str:
        return (
            f"{self.moments.total()} kills in {self.runs} runs and {self.starts} starts: "
            f"{len(self.lost)} lost, {len(self.different)} different"
        )


def crash(kills: int, epochs: int, seed: int, folder: Path, stages: int = 1) -> Found:
    """Kill runs in ``folder``, until there were as many kills, each run to its end."""
    found, draw = Found(Counter(), [], []), random.Random(seed)
    start = _Starts(folder, epochs, stages)
    start(folder / "cold")  # fills the cache of compiled programs
    began = time.monotonic()
    if start(folder / "reference") != 0:
        raise RuntimeError(f"crash: training fails by itself: {start.log.read_text()[-2000:]}")
    seconds = time.monotonic() - began
    print(f"a run of {epochs} epochs without a break takes {seconds:.1f} s", flush=True)
    reference = _outcome(folder / "reference")
    while found.moments.total() < kills:
        found.runs += 1
        run, saved = folder / f"run-{found.runs}", None
        while True:
            found.starts += 1
            limit = draw.uniform(0, seconds) if found.moments.total() < kills else None
            began = time.monotonic()
            status = start(run, limit)
            before, saved = saved, _newest(run)
            if before is not None and (saved is None or saved < before):
                found.lost.append(f"{run}: its newest checkpoint was {before}, then {saved}")
            if status is not None:
                seconds = time.monotonic() - began
                break
            seconds *= 1.1 if saved == before else 1.0
            found.moments[_moment(run)] += 1
        if status != 0:
            found.lost.append(f"{run}: cannot be resumed: {start.log.read_text()[-500:]}")
        elif difference := _difference(reference, _outcome(run)):
            found.different.append(f"{run}: {difference}")
        else:
            shutil.rmtree(run)
        print(found, flush=True)
    return found


class _Starts:
    """Starts training in processes that have all libraries imported already.

    They are forked off a process that never computes anything, and compiled programs are cached.
    """

    def __init__(self, folder: Path, epochs: int, stages: int):
        self.log = folder / "log.txt"
        self._cache, self._stages = folder / "cache", ("--stages", str(stages))
        self._arguments = [*TRAINING, *(IN_STAGES if stages > 1 else ()), "--epochs", str(epochs)]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def __call__(self, run: Path, limit: float | None = None) -> int | None:
        """Start or resume a run; its exit status, None if it was killed after ``limit`` seconds."""
        arguments = [*self._arguments, *self._stages, "--output", str(run)]
        if (run / "config.toml").exists():
            arguments = ["--resume", str(run), "--save-seconds", "0", *self._stages]
        process = self._context.Process(target=_train, args=(arguments, self.log, self._cache))
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            return None
        return process.exitcode


def _train(arguments: list[str], log: Path, cache: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    tqdm.set_lock(threading.RLock())  # its own one is a semaphore, which a killed process leaks
    sys.argv[1:] = arguments
    run_script(train.main)


def _newest(run: Path) -> int | None:
    names = [path.name for path in (run / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=None)


def _moment(run: Path) -> str:
    """What a process was at when it was killed, as its folder shows it."""
    if not (run / "config.toml").exists():
        return "before there was a configuration"
    metrics = run / "metrics.jsonl"
    if metrics.exists() and '"test"' in metrics.read_text(encoding="utf-8"):
        return "after training, at the test and the pictures"
    if any(not path.name.isdigit() for path in (run / "checkpoints").glob("*")):
        return "while a checkpoint was saved"
    if _newest(run) is None:
        return "before the first checkpoint"
    return "between checkpoints"


def _outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same, by name."""
    run = Run(folder)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    _, _, epoch, state = restore(open_run(folder))
    state = state._replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    checkpoints = sorted(path.name for path in run.checkpoints.iterdir())
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "checkpoints": checkpoints,
        "configuration": run.read_config(),
        "metrics": [re.sub(r'"seconds": [^,}]*', "", line) for line in lines],
        "epoch": epoch,
        **{name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()},
    }


def _difference(expected: dict[str, Any], given: dict[str, Any]) -> str | None:
    for name in {**expected, **given}:
        if expected.get(name) != given.get(name):
            return (
                f"{name} is {given.get(name)!r:.300}, without a break {expected.get(name)!r:.300}"
            )
    return None


if __name__ == "__main__":
    run_script(main)
