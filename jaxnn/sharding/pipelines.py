"""Schedules of pipelines as data, and what they cost.

A network is cut into S stages, one after the other, a batch into m micro-batches. A stage has three
kinds of work for each: F, forward; D, the deltas of its input; W, the gradients of its parameters
from the captures, for which nobody waits. B is D and W at once. F of a stage needs F of the one
before it, D needs D (or B) of the one behind it. With costs f, d, w of a micro-batch in a stage,
where sending costs nothing and w ≤ min(f, d), and m ≥ S, a stage has nothing to do for

    GPipe, 1F1B        (S − 1) (f + d + w)
    zero-bubble (H1)   (S − 1) (f + d − w)

(Huang et al., 2019; Narayanan et al., 2019; Qi et al., 2023). GPipe holds what backward needs of m
micro-batches in each stage, the other two of S at most.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxnn.core.validation import require_positive_integer
from jaxnn.core.value import Value

KINDS = "F", "D", "W", "B"


class Task(NamedTuple):
    """One piece of work of one stage."""

    kind: str
    """One of "F", "D", "W", "B"."""
    micro_batch: int


class Step(NamedTuple):
    """A task with its time."""

    start: float
    end: float
    stage: int
    task: Task


class Costs(NamedTuple):
    """How long a stage takes for a micro-batch."""

    forward: float = 1.0
    deltas: float = 1.0
    weights: float = 1.0
    send: float = 0.0
    """From one stage to the next, while both go on."""

    def of(self, kind: str) -> float:
        """Of one kind of work."""
        named = {"F": self.forward, "D": self.deltas, "W": self.weights}
        return named[kind] if kind in named else self.deltas + self.weights


class schedule(Value):
    """What each stage does, in its order.

    Raises:
        ValueError: A stage leaves out a micro-batch, does work twice or before what it needs, or
            stages wait for each other for ever; names stage and task.
    """

    orders: tuple[tuple[Task, ...], ...]
    """Of each stage."""

    def validate(self) -> None:
        """Raise where it cannot be run."""
        counts = {sum(task.kind == "F" for task in order) for order in self.orders}
        if len(counts) != 1 or not min(counts, default=0):
            raise ValueError(
                "schedule: expected stages that all run the same micro-batches forward, got "
                f"{sorted(counts)} of them"
            )
        for stage, order in enumerate(self.orders):
            self._require_whole(stage, order)
        self.simulate()

    @property
    def stages(self) -> int:
        """S."""
        return len(self.orders)

    @property
    def micro_batches(self) -> int:
        """m."""
        return sum(task.kind == "F" for task in self.orders[0])

    def _require_whole(self, stage: int, order: tuple) -> None:
        done: set[tuple[str, int]] = set()
        for kind, micro_batch in order:
            where = f"schedule: expected stage {stage} to"
            if kind not in KINDS or not 0 <= micro_batch < self.micro_batches:
                raise ValueError(
                    f"{where} have tasks {KINDS} of micro-batches below {self.micro_batches}, "
                    f"got {kind}{micro_batch}"
                )
            own = {"B": ("D", "W")}.get(kind, (kind,))
            if done & {(part, micro_batch) for part in own}:
                raise ValueError(f"{where} do each task once, got {kind}{micro_batch} again")
            needed = {"F": None, "D": "F", "B": "F", "W": "D"}[kind]
            if needed and (needed, micro_batch) not in done:
                raise ValueError(f"{where} do {needed}{micro_batch} before {kind}{micro_batch}")
            done |= {(part, micro_batch) for part in own}
        missing = {(k, i) for k in "FDW" for i in range(self.micro_batches)} - done
        if missing:
            kind, micro_batch = min(missing)
            raise ValueError(
                f"schedule: expected stage {stage} to do {kind}{micro_batch}, which it leaves out"
            )

    def simulate(self, costs: Costs = Costs()) -> "Simulation":  # noqa: B008
        """When each task runs, each as soon as its stage and what it needs are done."""
        steps: list[Step] = []
        ends: dict[tuple[str, int, int], float] = {}
        places, free = [0] * self.stages, [0.0] * self.stages
        while waiting := [s for s, order in enumerate(self.orders) if places[s] < len(order)]:
            ready = []
            for stage in waiting:
                task = self.orders[stage][places[stage]]
                since = _ready(ends, self.stages, stage, task, costs)
                if since is not None:
                    ready.append((max(since, free[stage]), stage, task))
            if not ready:
                tasks = (self.orders[s][places[s]] for s in waiting)
                pairs = zip(waiting, tasks, strict=True)
                stuck = (f"stage {s} at {t.kind}{t.micro_batch}" for s, t in pairs)
                raise ValueError(
                    f"schedule: expected stages that do not wait for ever, got {', '.join(stuck)}"
                )
            start, stage, task = min(ready)
            free[stage] = start + costs.of(task.kind)
            steps.append(Step(start, free[stage], stage, task))
            _finish(ends, stage, task, free[stage])
            places[stage] += 1
        return Simulation(tuple(steps), self.stages)

    def in_ticks(self) -> "Ticks":
        """What every stage does in each tick of a clock: F, D and W take one, and B is D and then
        W. It is the simulation with costs of 1, and the table that devices go through together."""
        rows: list[list[Task | None]] = []
        for start, end, stage, (kind, micro_batch) in self.simulate().steps:
            empty: list[Task | None] = [None] * self.stages
            rows += [[*empty] for _ in range(round(end) - len(rows))]
            for after, part in enumerate({"B": "DW"}.get(kind, kind)):
                rows[round(start) + after][stage] = Task(part, micro_batch)
        return Ticks(tuple(map(tuple, rows)))


class Ticks(NamedTuple):
    """A schedule as a table: a row for each tick, in it a task, or None, for each stage."""

    rows: tuple[tuple[Task | None, ...], ...]

    @property
    def idle_share(self) -> float:
        """Of all places of the table, the empty ones."""
        places = [task for row in self.rows for task in row]
        return places.count(None) / len(places)

    def spans(self, stage: int, first: str, last: str) -> list[tuple[int, int]]:
        """For each micro-batch, the ticks in which a stage does these two kinds of work."""
        ticks = {row[stage]: tick for tick, row in enumerate(self.rows)}
        return [(ticks[Task(first, i)], ticks[Task(last, i)]) for i in range(self.micro_batches)]

    @property
    def micro_batches(self) -> int:
        """m."""
        return sum(row[0] is not None and row[0].kind == "F" for row in self.rows)

    def held(self) -> tuple[int, ...]:
        """For each stage, of how many micro-batches it holds at most what backward needs: from F
        until W."""
        stages = range(len(self.rows[0]))
        return tuple(max(allot(self.spans(stage, "F", "W"))) + 1 for stage in stages)

    def __str__(self) -> str:
        """A line for each stage, a column for each tick: the task's kind and number."""
        names = [["" if t is None else f"{t.kind}{t.micro_batch}" for t in r] for r in self.rows]
        width = max(len(name) for row in names for name in row)
        lines = (" ".join(name.ljust(width) for name in own) for own in zip(*names, strict=True))
        return "\n".join(line.rstrip() for line in lines)


def allot(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A place for each span, from its first tick to its last; no two have one place in one tick,
    and there are as few as can be."""
    places, ends = [0] * len(spans), []
    for number in sorted(range(len(spans)), key=lambda n: spans[n]):
        first, last = spans[number]
        free = next((p for p, end in enumerate(ends) if end < first), len(ends))
        ends[free : free + 1] = [last]
        places[number] = free
    return places


class Simulation(NamedTuple):
    """A schedule in time."""

    steps: tuple[Step, ...]
    """In the order of their starts."""
    stages: int

    @property
    def length(self) -> float:
        """When the last task ends."""
        return max(step.end for step in self.steps)

    @property
    def idle(self) -> float:
        """Of a stage, the mean time in which it does nothing."""
        worked = sum(step.end - step.start for step in self.steps)
        return self.length - worked / self.stages

    @property
    def idle_share(self) -> float:
        """Of the whole time."""
        return self.idle / self.length

    @property
    def held(self) -> tuple[int, ...]:
        """For each stage, of how many micro-batches it holds at most what backward needs: from F
        until W."""
        most = []
        for stage in range(self.stages):
            now = high = 0
            for step in self.steps:
                if step.stage == stage:
                    now += {"F": 1, "D": 0}.get(step.task.kind, -1)
                    high = max(high, now)
            most.append(high)
        return tuple(most)

    def __str__(self) -> str:
        """A line for each stage, a column for each unit of time: the task's kind and number."""
        width = max(len(f"{s.task.kind}{s.task.micro_batch}") for s in self.steps)
        lines = []
        for stage in range(self.stages):
            cells = [" " * width] * round(self.length)
            for step in self.steps:
                if step.stage == stage:
                    name = f"{step.task.kind}{step.task.micro_batch}".ljust(width)
                    for column in range(round(step.start), round(step.end)):
                        cells[column] = name
            lines.append(" ".join(cells).rstrip())
        return "\n".join(lines)


def gpipe(stages: int, micro_batches: int) -> schedule:
    """All micro-batches forward, then all back (Huang et al., 2019)."""
    _require("gpipe", stages, micro_batches)
    order = [Task("F", i) for i in range(micro_batches)]
    order += [Task("B", i) for i in range(micro_batches)]
    return schedule((tuple(order),) * stages)


def one_forward_one_backward(stages: int, micro_batches: int) -> schedule:
    """As many forward as there are stages behind, then one forward, one back (Narayanan et al.,
    2019)."""
    _require("one_forward_one_backward", stages, micro_batches)

    def order(stage: int) -> tuple[Task, ...]:
        ahead = min(stages - stage - 1, micro_batches)
        tasks = [Task("F", i) for i in range(ahead)]
        for i in range(micro_batches):
            if i + ahead < micro_batches:
                tasks.append(Task("F", i + ahead))
            tasks.append(Task("B", i))
        return tuple(tasks)

    return schedule(tuple(map(order, range(stages))))


def zero_bubble(stages: int, micro_batches: int) -> schedule:
    """1F1B with B in two: D at once, and W of stage s behind the D of the micro-batch s further on,
    so that W stand where the later stages would wait (H1 of Qi et al., 2023)."""
    _require("zero_bubble", stages, micro_batches)

    def order(stage: int) -> tuple[Task, ...]:
        ahead = min(stages - stage - 1, micro_batches)
        tasks = [Task("F", i) for i in range(ahead)]
        for i in range(micro_batches):
            if i + ahead < micro_batches:
                tasks.append(Task("F", i + ahead))
            tasks.append(Task("D", i))
            if i >= stage:
                tasks.append(Task("W", i - stage))
        left = range(max(micro_batches - stage, 0), micro_batches)
        return (*tasks, *(Task("W", i) for i in left))

    return schedule(tuple(map(order, range(stages))))


SCHEDULES: dict[str, Callable] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "zero_bubble": zero_bubble,
}
"""Schedules by name: (stages, micro_batches) -> `schedule`."""


def _ready(ends: dict, stages: int, stage: int, task: Task, costs: Costs) -> float | None:
    """When what a task needs is there; None where it is not yet known."""
    kind, i = task
    if kind == "F":
        return 0.0 if stage == 0 else _after(ends, ("F", stage - 1, i), costs.send)
    if kind == "W":
        return _after(ends, ("D", stage, i), 0)
    own = _after(ends, ("F", stage, i), 0)
    behind = own if stage == stages - 1 else _after(ends, ("D", stage + 1, i), costs.send)
    return None if own is None or behind is None else max(own, behind)


def _after(ends: dict, what: tuple, send: float) -> float | None:
    return ends[what] + send if what in ends else None


def _finish(ends: dict, stage: int, task: Task, end: float) -> None:
    for kind in {"B": "DW"}.get(task.kind, task.kind):
        ends[kind, stage, task.micro_batch] = end


def _require(where: str, stages: Any, micro_batches: Any) -> None:
    require_positive_integer(where, "stages", stages)
    require_positive_integer(where, "micro_batches", micro_batches)
