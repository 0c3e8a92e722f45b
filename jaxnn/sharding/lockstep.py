"""A schedule on the devices of a mesh: all go through one table, tick by tick.

Each device of the axis `STAGE` has the parameters of its stage. In every tick it does the task that
stands in its column of `schedule.in_ticks`, and what it has for the stages beside it, activations
or deltas, goes one device on (`lax.ppermute`). What a task leaves for
a later one lies in buffers with as many places as the table needs at any time.

D computes the deltas and keeps the captures: of those, what is among the residuals stays where it
is, so that a micro-batch is held once, from F until W.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from jaxnn.core.captures import contract
from jaxnn.core.contract import Loss
from jaxnn.kernels.products import sum_dtype
from jaxnn.sharding.kept import Form, buffers_for, form_of
from jaxnn.sharding.mesh import STAGE
from jaxnn.sharding.pipelines import Ticks, allot, schedule
from jaxnn.sharding.stages import Cut, Stage, Staged


class Column(NamedTuple):
    """What the table says of a stage in a tick, or of all stages in all ticks."""

    branch: Any
    """The number of the task, of all that the stages have; 0 for none."""
    micro_batch: Any
    held: Any
    """The place of its residuals."""
    captured: Any
    """The place of its captures."""
    activations: Any
    """Of what F is given."""
    deltas: Any
    """Of what D is given."""
    arriving_activations: Any
    """Where what is sent in this tick is put; behind all places where nothing is."""
    arriving_deltas: Any


class Places(NamedTuple):
    """How many there are, in each stage."""

    held: int
    captured: int
    activations: int
    deltas: int


def places_of(table: Ticks, branches: Sequence[int]) -> tuple[Column, Places]:
    """The table as integers [ticks, S], and how many places there have to be.

    Args:
        table: The schedule.
        branches: Of each stage, the number of the first of its three branches.
    """
    stages, m = len(table.rows[0]), table.micro_batches
    spans = partial(_spans, table)
    held = [allot(spans(s, "F", s, "W")) for s in range(stages)]
    captured = [allot(spans(s, "D", s, "W")) for s in range(stages)]
    # What is sent in a tick is there in the next.
    activations = [allot(spans(s - 1, "F", s, "F", 1)) if s else [0] * m for s in range(stages)]
    deltas = [
        allot(spans(s + 1, "D", s, "D", 1)) if s < stages - 1 else [0] * m for s in range(stages)
    ]
    count = Places(*(1 + max(map(max, p)) for p in (held, captured, activations, deltas)))
    columns = Column(*(np.zeros((len(table.rows), stages), np.int32) for _ in Column._fields))
    columns.arriving_activations[:] = count.activations
    columns.arriving_deltas[:] = count.deltas
    for tick, row in enumerate(table.rows):
        for stage, task in enumerate(row):
            if task is None:
                continue
            kind, i = task
            columns.branch[tick, stage] = branches[stage] + "FDW".index(kind)
            columns.micro_batch[tick, stage] = i
            columns.held[tick, stage] = held[stage][i]
            columns.captured[tick, stage] = captured[stage][i]
            columns.activations[tick, stage] = activations[stage][i]
            columns.deltas[tick, stage] = deltas[stage][i]
            if kind == "F" and stage < stages - 1:
                columns.arriving_activations[tick, stage + 1] = activations[stage + 1][i]
            if kind == "D" and stage:
                columns.arriving_deltas[tick, stage - 1] = deltas[stage - 1][i]
    return columns, count


def _spans(table: Ticks, stage: int, kind: str, other: int, last: str, later: int = 0) -> list:
    first = table.spans(stage, kind, kind)
    final = table.spans(other, last, last)
    return [(start + later, end) for (start, _), (end, _) in zip(first, final, strict=True)]


class Forms(NamedTuple):
    """Of what a stage is given, keeps and sends."""

    given: Form
    sent: Form
    kept: Form
    dy: Form
    dx: Form
    captured: Form


class _Work:
    """The three kinds of work of one stage."""

    forms: Forms
    """Known once all stages have been looked at."""

    def __init__(self, number: int, stage: Stage, run: "Run"):
        self.number, self.stage, self.run = number, stage, run
        self.is_first, self.is_last = number == 0, number == run.stages - 1

    def params(self, held: dict) -> Any:
        return self.run.staged.arrangement.own(self.number, held["params"])

    def forward(self, held: dict, at: Column) -> dict:
        """F."""
        params = self.params(held)
        x, target, shares = self.run.examples(held, at.micro_batch)
        if not self.is_first:
            x = self.forms.given.take(held["activations"], at.activations)
        keys = self.run.keys(held, at.micro_batch, self.number)
        y, kept, values = _forward(self, params, x, target, shares, keys)
        held = dict(held)
        if self.is_last:
            held["values"] = lax.dynamic_update_index_in_dim(
                held["values"], values, at.micro_batch, 0
            )
        else:
            held["sent"] = self.forms.sent.put(y, held["sent"], 0)
        known = jax.tree.leaves(params)
        held["kept"] = self.forms.kept.put(kept, held["kept"], at.held, known)
        return held

    def backward(self, held: dict, at: Column) -> dict:
        """D."""
        params = self.params(held)
        known = jax.tree.leaves(params)
        kept = self.forms.kept.take(held["kept"], at.held, known)
        residuals, dy = kept if self.is_last else (kept, None)
        if not self.is_last:
            dy = self.forms.dy.take(held["deltas"], at.deltas)
        with self.run.place(self.number):
            dx, captures = self.stage.backward(params, residuals, dy)
        known = known + jax.tree.leaves(kept)
        held = dict(held)
        held["captured"] = self.forms.captured.put(captures, held["captured"], at.captured, known)
        if not self.is_first:
            held["returned"] = self.forms.dx.put(dx, held["returned"], 0)
        return held

    def weights(self, held: dict, at: Column) -> dict:
        """W."""
        params = self.params(held)
        known = jax.tree.leaves(params)
        known = known + jax.tree.leaves(self.forms.kept.take(held["kept"], at.held, known))
        captures = self.forms.captured.take(held["captured"], at.captured, known)
        sums = self.run.staged.arrangement.put(
            self.number, contract(captures), held["sums"], add=True
        )
        return held | {"sums": sums}


def _forward(work: _Work, params: Any, x: Any, target: Any, shares: Any, keys: Any) -> tuple:
    """(y, what is kept, values): of the last stage with the loss."""
    state = work.run.states[work.number]
    with work.run.place(work.number):
        y, _, residuals = work.stage.forward(params, state, x, keys)
    if not work.is_last:
        return y, residuals, None
    values, delta = work.run.loss.weighted(y, target, shares)
    return y, (residuals, delta), values


class Run:
    """One gradient, over the devices of a mesh."""

    value_dtype: Any
    """Of the losses; known once the last stage has been looked at."""

    def __init__(
        self,
        of: Cut,
        loss: Loss,
        order: schedule,
        staged: Staged,
        state: Any,
        examples: Any,
        key: Array | None,
        place: Callable,
    ):
        """``examples`` are (x, target, shares) of [rows, micro-batches, …]."""
        self.of, self.loss, self.order, self.staged, self.place = of, loss, order, staged, place
        self.stages, self.batch = order.stages, examples
        self.states = [of.of(stage, state) for stage in range(self.stages)]
        self.key = key
        self.rows = jax.tree.leaves(examples[0])[0].shape[0]

    def __call__(self) -> tuple[Any, Array]:
        """(sums of the gradients, laid out by stages, values [micro-batches, rows])."""
        works, branches = self._works()
        columns, count = places_of(self.order.in_ticks(), branches)
        spec = P(None, STAGE)
        sums, values = jax.shard_map(
            partial(self._on_device, works, count),
            in_specs=(self.staged.specs().rows, P(), P(), Column(*(spec for _ in columns))),
            out_specs=(P(STAGE), P(STAGE)),
            axis_names={STAGE},
            check_vma=False,
        )(self.staged.rows, self.batch, self.key, Column(*map(jnp.asarray, columns)))
        return sums, values[-1]

    def examples(self, held: dict, micro_batch: Any) -> Any:
        """(x, target, shares) of a micro-batch."""
        take = partial(lax.dynamic_index_in_dim, index=micro_batch, axis=1, keepdims=False)
        return jax.tree.map(take, held["examples"])

    def keys(self, held: dict, micro_batch: Any, stage: int) -> Array | None:
        """Of the units of a stage."""
        if held["key"] is None:
            return None
        every = self.of.keys(jax.random.fold_in(held["key"], micro_batch))
        return self.of.keys_of(stage, every)

    def _on_device(
        self, works: list, count: Places, rows: Any, examples: Any, key: Any, table: Any
    ):
        forms = [work.forms for work in works]
        buffers = partial(buffers_for, examples=self.rows)
        # One place more than there are, for what arrives where nothing was sent.
        start = {
            "activations": buffers([f.given for f in forms[1:]], count.activations + 1),
            "deltas": buffers([f.dy for f in forms[:-1]], count.deltas + 1),
            "kept": buffers([f.kept for f in forms], count.held),
            "captured": buffers([f.captured for f in forms], count.captured),
            "sent": buffers([f.sent for f in forms[:-1]], 1),
            "returned": buffers([f.dx for f in forms[1:]], 1),
            "values": jnp.zeros((self.order.micro_batches, self.rows), self.value_dtype),
            "sums": {name: jnp.zeros(a.shape[1:], sum_dtype(a.dtype)) for name, a in rows.items()},
        }
        around = {
            "params": {name: a[0] for name, a in rows.items()},
            "examples": examples,
            "key": key,
        }

        def branch(task: Callable) -> Callable:
            def run(held: dict, at: Column) -> dict:
                after = task(held | around, at)
                return {name: after[name] for name in start}

            return run

        branches = [
            branch(task) for work in works for task in (work.forward, work.backward, work.weights)
        ]

        def tick(held: dict, at: Column):
            before = jnp.array(False)
            for number, task in enumerate(branches, 1):
                held, before = _where(at.branch == number, partial(task, at=at), held, before)
            for out, place, into, way in (
                ("sent", at.arriving_activations, "activations", 1),
                ("returned", at.arriving_deltas, "deltas", -1),
            ):
                pairs = [(s, s + way) for s in range(self.stages) if 0 <= s + way < self.stages]
                arrived = lax.ppermute(held[out], STAGE, pairs)
                held[into] = {
                    name: lax.dynamic_update_slice_in_dim(buffer, arrived[name], place, 0)
                    for name, buffer in held[into].items()
                }
            return held, None

        held, _ = lax.scan(tick, start, jax.tree.map(lambda a: a[:, 0], table))
        return {name: a[None] for name, a in held["sums"].items()}, held["values"][None]

    def _works(self) -> tuple[list[_Work], list[int]]:
        """The work of each stage, and the number of its first branch."""
        stages = self.of.stages
        shapes = jax.eval_shape(
            lambda rows: [
                self.staged.arrangement.own(s, {name: row[s] for name, row in rows.items()})
                for s in range(self.stages)
            ],
            self.staged.rows,
        )
        one = jax.eval_shape(lambda: self.examples({"examples": self.batch}, 0))
        x, targets = one[0], one[1:]
        works: list[_Work] = []
        kept = []
        for number, stage in enumerate(stages):
            work = _Work(number, stage, self)
            x, forms = self._look_forward(work, shapes[number], x, targets)
            works.append(work)
            kept.append(forms)
        dy = None
        for work, (given, sent, form, tree) in reversed(list(zip(works, kept, strict=True))):
            dx, (of_dy, of_dx, captured) = self._look_back(
                work, shapes[work.number], form, tree, dy
            )
            work.forms = Forms(given, sent, form, of_dy, of_dx, captured)
            dy = dx
        return works, [1 + 3 * number for number in range(self.stages)]

    def _look_forward(self, work: _Work, params: Any, x: Any, targets: Any) -> tuple:
        """(the shapes of y, its forms), of one stage."""
        found: list = []

        def run(params: Any, x: Any, targets: Any, key: Any):
            keys = self.keys({"key": key}, 0, work.number)
            target, shares = targets
            y, kept, values = _forward(work, params, x, target, shares, keys)
            form = form_of(kept, self.rows, jax.tree.leaves(params))
            found.append((form_of(x, self.rows), form_of(y, self.rows), form))
            if values is not None:
                self.value_dtype = values.dtype
            return y, kept

        y, kept = jax.eval_shape(run, params, x, targets, self.key)
        return y, (*found[-1], kept)

    def _look_back(self, work: _Work, params: Any, form: Form, kept: Any, dy: Any) -> tuple:
        """(the shapes of dx, the forms of dy, dx and captures)."""
        found: list = []

        def run(params: Any, kept: Any, dy: Any):
            known = jax.tree.leaves(params)
            # As what is read again: an array that occurs twice is one.
            kept = form.tree.unflatten(_once(form, known, jax.tree.leaves(kept)))
            residuals, own = kept if work.is_last else (kept, dy)
            with self.place(work.number):
                dx, captures = work.stage.backward(params, residuals, own)
            known = known + jax.tree.leaves(kept)
            found.append(
                (
                    form_of(dy, self.rows),
                    form_of(dx, self.rows),
                    form_of(captures, self.rows, known),
                )
            )
            return dx

        dx = jax.eval_shape(run, params, kept, dy)
        return dx, found[-1]


def _where(condition: Array, function: Callable, held: Any, before: Array) -> tuple[Any, Array]:
    """(function(held) where the condition is true, and otherwise what is held; False).

    A loop of one turn or none: what it carries is changed in place, while a compiler copies all
    that goes through the branches of a conditional. It would copy a buffer here, too, that this
    loop reads and the next one changes, were it free to run the next one first: so that one is
    given the False that this one ends with, as ``before``.
    """
    after, held = lax.while_loop(
        lambda carried: carried[0],
        lambda carried: (jnp.zeros_like(condition), function(carried[1])),
        (condition | before, held),
    )
    return held, after


def _once(form: Form, known: list, leaves: list) -> list:
    """The leaves, in which one that is another one before it, or known, is that."""
    every = list(known)
    for entry, leaf in zip(form.entries, leaves, strict=True):
        every.append(leaf if entry.known is None else every[entry.known])
    return every[len(known) :]
