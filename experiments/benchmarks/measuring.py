"""What all benchmarks share: contenders take turns, and their figures become a table and a file.

Other programs on the machine, its clock and its caches change from second to second. So the
contenders of one workload take turns within one process, many short turns each, and what counts is
a ratio of minima from the same turns; the median beside it tells how restless the machine was. The
processor time, summed over all threads, is the figure to look at where other programs run beside.

PyTorch, NumPy's BLAS and XLA each keep a pool of threads whose members go on spinning for a while
after their work is done, at the cost of whoever comes next. Before every turn there is therefore a
pause, then one run that is not timed: it wakes the contender's own threads and brings its data back
into the caches. What the one before leaves behind still counts, so every round has an order of its
own. All share one process, hence one allocator and one set of processor cores.
"""

import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxnn.core.files import write_file
from jaxnn.core.validation import unknown_name
from jaxnn.kernels.convolution.limits import processor

PAUSE = 0.005  # seconds; libgomp's idle threads spin for up to about 1 ms, XLA's for less


@dataclass(frozen=True)
class Settings:
    """What is measured, and how long."""

    repeats: int = 20
    """How often every contender takes its turn."""
    seconds: float = 20.0
    """The longest time for one workload, if that comes before the repeats (3 at least)."""
    contenders: tuple[str, ...] = ()
    """Their names; all unless given. Ratios are to the first that takes part."""
    only: str = ""
    """Workloads whose name contains this text."""

    def takes(self, contender: str) -> bool:
        """Whether this contender takes part."""
        return not self.contenders or contender in self.contenders

    def wants(self, workload: str) -> bool:
        """Whether this workload is measured."""
        return self.only in workload

    def require_contenders(self, valid: Iterable[str]) -> None:
        """Raise ValueError unless every contender asked for is among ``valid``."""
        valid = list(valid)
        for name in self.contenders:
            if name not in valid:
                raise ValueError(unknown_name("contender", name, valid))


class Program(NamedTuple):
    """What XLA says about a compiled program."""

    lower_seconds: float
    """Tracing and lowering, before XLA has it."""
    compile_seconds: float
    temporary_bytes: int
    """The memory that it takes beside its arguments and results, at its peak."""


class Contender(NamedTuple):
    """One way to do the work of a workload."""

    run: Callable[[], object]
    """The work; returns when it is done."""
    prepare: Callable[[], object] = lambda: None
    """Called before every turn, not timed."""
    program: Program | None = None
    """For contenders compiled by XLA."""
    work: int = 1
    """How many units of work (steps, epochs) one run does: times are given for one unit."""
    note: str = ""


class Figures(NamedTuple):
    """The times of one contender, in seconds for one unit of work."""

    minimum: float
    median: float
    processor: float
    """The least processor time, summed over all threads."""
    ratio: float
    """How many times as long as the first contender: minimum to minimum."""
    processor_ratio: float
    lower_seconds: float | None = None
    compile_seconds: float | None = None
    temporary_bytes: int | None = None
    note: str = ""


def inspect_program(function: Callable, *arguments: Any) -> Program:
    """Compile a jitted function for these arguments, and say what that took.

    Before its first call: JAX does not compile the same program again.
    """
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    between = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - between
    return Program(between - start, seconds, compiled.memory_analysis().temp_size_in_bytes)


def take_turns(
    contenders: Mapping[str, Contender], repeats: int, seconds: float = float("inf")
) -> dict[str, Figures]:
    """Let every contender run ``repeats`` times, one after the other in each round's random order.

    Args:
        contenders: By name; the ratios are those to the first.
        repeats: The number of rounds.
        seconds: No further round begins after this time, 3 at least being done.
    """
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    begin, names, shuffle = time.perf_counter(), list(contenders), random.Random(0).shuffle
    for repeat in range(repeats):
        if repeat >= 3 and time.perf_counter() - begin > seconds:
            break
        shuffle(names)
        for name in names:
            contender = contenders[name]
            contender.prepare()
            time.sleep(PAUSE)
            contender.run()
            start, start_processor = time.perf_counter(), time.process_time()
            contender.run()
            wall[name].append((time.perf_counter() - start) / contender.work)
            processor[name].append((time.process_time() - start_processor) / contender.work)
    first = next(iter(contenders))
    return {
        name: Figures(
            minimum=min(wall[name]),
            median=statistics.median(wall[name]),
            processor=min(processor[name]),
            ratio=min(wall[name]) / min(wall[first]),
            processor_ratio=min(processor[name]) / min(processor[first]),
            lower_seconds=contender.program and contender.program.lower_seconds,
            compile_seconds=contender.program and contender.program.compile_seconds,
            temporary_bytes=contender.program and contender.program.temporary_bytes,
            note=contender.note,
        )
        for name, contender in contenders.items()
    }


Workloads = Mapping[str, Callable[[], Mapping[str, Contender]]]
"""By name, what makes the contenders of a workload; the ratios are those to the first."""


def figures_of(
    workloads: Workloads, settings: Settings
) -> Iterator[tuple[str, dict[str, Figures]]]:
    """Measure the workloads that are wanted, one after the other: name and figures of each."""
    for name, make in workloads.items():
        if settings.wants(name):
            contenders = make()
            settings.require_contenders(contenders)
            chosen = {n: contender for n, contender in contenders.items() if settings.takes(n)}
            yield name, take_turns(chosen, settings.repeats, settings.seconds)


def measure(
    workloads: Workloads, settings: Settings, show: Callable[[str, dict[str, Figures]], str]
) -> dict[str, Any]:
    """Measure the workloads that are wanted, and print what ``show`` makes of each."""
    results = {}
    for name, figures in figures_of(workloads, settings):
        print(show(f"\n{name}", figures), flush=True)
        results[name] = {"figures": figures}
    return results


def sweep(workloads: Workloads, settings: Settings) -> dict[str, Any]:
    """Measure many small workloads, a line for each, then mean and worst case of the ratios."""
    results: dict[str, Any] = {}
    width = max(map(len, workloads))
    for name, figures in figures_of(workloads, settings):
        results[name] = {"figures": figures}
        cells = (
            f"{n} {in_seconds(f.minimum)} ({in_seconds(f.median)}) {f.ratio:.2f}"
            for n, f in figures.items()
        )
        note = next(iter(figures.values())).note
        print(f"  {name.ljust(width)}  {'   '.join(cells)}  {note}".rstrip(), flush=True)
    peers = list(dict.fromkeys(n for r in results.values() for n in list(r["figures"])[1:]))
    for peer in peers:
        ratios = {n: r["figures"][peer].ratio for n, r in results.items() if peer in r["figures"]}
        worst = min(ratios, key=lambda name: ratios[name])
        mean = statistics.geometric_mean(ratios.values())
        print(f"{peer}: geometric mean {mean:.2f}, worst {ratios[worst]:.2f} ({worst})")
    return results


def machine() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    packages = ("jax", "jaxlib", "optax", "flax", "torch", "scikit-learn", "numpy")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{jax.devices()[0].platform} {jax.devices()[0].device_kind}",
        "devices": jax.device_count(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "versions": {name: version for name in packages if (version := _version(name))},
    }


def heading(facts: Mapping[str, Any]) -> str:
    """The machine in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    devices = f"{facts['devices']} × {facts['device']}"
    load = "" if facts["load"] is None else f", load {facts['load']:.1f} at the start"
    return f"{facts['processor']}, {facts['cores']} cores{load}; {devices}\n{versions}"


def table(title: str, figures: Mapping[str, Figures]) -> str:
    """One line for each contender."""
    rows = [("", "minimum", "median", "ratio", "of CPU time", "lower", "compile", "temporary", "")]
    for name, f in figures.items():
        rows.append(
            (
                name,
                in_seconds(f.minimum),
                in_seconds(f.median),
                f"{f.ratio:.2f}",
                f"{f.processor_ratio:.2f}",
                "" if f.lower_seconds is None else in_seconds(f.lower_seconds),
                "" if f.compile_seconds is None else in_seconds(f.compile_seconds),
                "" if f.temporary_bytes is None else f"{f.temporary_bytes / 1e6:.2f} MB",
                f.note,
            )
        )
    return f"{title}\n{align(rows)}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first and the last to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        cells[-1] = row[-1]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def in_seconds(seconds: float) -> str:
    """A time with three digits and its unit."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def save(path: Path, results: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write results as JSON, `Figures` as dictionaries.

    Raises:
        FileExistsError: ``path`` exists, and ``overwrite`` is not set.
    """
    text = json.dumps(_plain(results), indent=2, ensure_ascii=False) + "\n"
    return write_file(path, lambda p: p.write_text(text, encoding="utf-8"), overwrite=overwrite)


def _plain(value: Any) -> Any:
    if isinstance(value, Figures):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
