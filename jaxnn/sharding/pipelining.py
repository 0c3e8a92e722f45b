"""A schedule, executed: the backward pass of each stage in two, deltas first, captures later."""

import functools
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract, in_dtypes_of
from jaxnn.core.combinators import serial
from jaxnn.core.contract import Loss
from jaxnn.core.gradients import (
    of_present,
    of_those_present,
    require_weights,
    shares,
    weighted_mean,
)
from jaxnn.core.mixing import mixing_layers, require_loss_apart
from jaxnn.core.validation import batch_size
from jaxnn.core.value import Value
from jaxnn.kernels.products import sum_dtype
from jaxnn.sharding.lockstep import Run
from jaxnn.sharding.mesh import STAGE
from jaxnn.sharding.pipelines import schedule
from jaxnn.sharding.stages import Cut, Staged, arrange_params, arranged, cut


class pipelined(Value):
    """The gradient of `jaxnn.backprop`, computed task by task in the order of a schedule.

    The network is cut into stages, one behind the other, whose parts are the layers of the `serial`
    and the single copies of a `repeat` among them. D of a stage is its backward pass, whose
    captures are kept; W contracts them, and B does both. Example i is in micro-batch i mod m, which
    draws random numbers of its own: the numbers are those of ``jaxnn.accumulate(backprop, m)``, to
    rounding.

    Under a mesh (`jax.set_mesh`) each device of its axis "stage" runs one stage, and holds the
    parameters and the gradient of that alone where they are `laid_out`; given as they are, they are
    on every device. All stages take one step of a common clock at a time, as `schedule.in_ticks`
    has it, each a task; the other axes of the mesh split the micro-batch and the layers as without
    stages. Without a mesh, one device does all tasks in the order of `schedule.simulate`.

    A stage keeps what its layers keep: `jaxnn.recompute` around some makes that their input.

    Args:
        network: A `serial`.
        loss: The loss.
        order: The schedule.
        cuts: How many layers, and copies of a `repeat`, each stage has. Unless given, as many each;
            or one layer each, where there are as many layers as stages.
        fills: Whether examples without weight fill a batch that m does not divide, such as the last
            of an epoch. It is refused otherwise.

    Raises:
        ValueError: the stages do not divide the network, or the loss compares the examples of a
            batch; when called, a layer mixes the examples or has state, which would pass from one
            micro-batch to the next, m does not divide the batch, the parameters are laid out for
            other stages, or the mesh has no axis "stage" of as many devices as there are stages.
    """

    network: serial
    loss: Loss
    order: schedule
    cuts: tuple[int, ...] | None = None
    fills: bool = False

    def validate(self) -> None:
        """Raise unless the network fits the schedule."""
        self.cut  # noqa: B018
        require_loss_apart("pipelined", self.loss)

    @functools.cached_property
    def cut(self) -> Cut:
        """The network in stages."""
        return cut("pipelined", self.network, self.order.stages, self.cuts)

    def laid_out(self, params: Any) -> Staged:
        """The parameters, or a tree like them, stage by stage."""
        return arranged(params, arrange_params(self.cut, params))

    def __call__(self, params, state, x, target, key=None, weights=None):
        """((value, state), gradients), laid out as the parameters are."""
        is_staged = isinstance(params, Staged)
        whole = jax.eval_shape(params.whole) if is_staged else params
        if is_staged and params.arrangement != arrange_params(self.cut, whole):
            raise ValueError(
                "pipelined: expected params that this gradient has laid out, got those of "
                f"{len(params.arrangement.trees)} stages that are cut otherwise: take "
                "laid_out(unstaged(params)), or the gradient that they were laid out with"
            )
        self._require_apart(whole, state, x, target, key)
        x, target, weights = self._filled(whole, state, x, target, key, weights)
        x, target = of_those_present(self.loss, weights, x, target)
        # The shares of the examples in the weighted mean of the whole batch.
        dtype = jax.eval_shape(self._values, whole, state, x, target, key)
        require_weights(weights, dtype, "pipelined")
        examples = self._cut_up((x, target, shares(weights, dtype)))
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            own = params.whole() if is_staged else params
            values, gradients = self._on_one(own, state, examples, key)
            gradients = arranged(gradients, params.arrangement) if is_staged else gradients
        else:
            self.require_axis(mesh)
            staged = params if is_staged else self.laid_out(params)
            run = Run(self.cut, self.loss, self.order, staged, state, examples, key, self._place)
            sums, values = run()
            gradients = Staged(sums, (), staged.arrangement)
            gradients = gradients if is_staged else gradients.whole()
        values = values.T.reshape(-1)  # example i was the micro-batch's (i div m)-th
        value = weighted_mean(of_present(weights, values), weights)
        return (value, state), in_dtypes_of(params, gradients)

    def _values(self, params, state, x, target, key):
        return self.loss.value(self.network.forward(params, state, x, key)[0], target)

    def _cut_up(self, tree: Any) -> Any:
        """[rows, micro-batches, …]: neighbours go to different micro-batches."""
        m = self.order.micro_batches
        return jax.tree.map(lambda a: a.reshape(-1, m, *a.shape[1:]), tree)

    def _filled(self, params, state, x, target, key, weights) -> tuple:
        """(x, target, weights) of a batch that m divides."""
        size, m = batch_size("pipelined", (x, target)), self.order.micro_batches
        missing = -size % m
        if not missing:
            return x, target, weights
        if weights is None:
            weights = jnp.ones(
                size, jax.eval_shape(self._values, params, state, x, target, key).dtype
            )
        more = lambda a: jnp.concatenate([a, jnp.repeat(a[:1], missing, 0)])  # noqa: E731
        return *jax.tree.map(more, (x, target)), jnp.pad(weights, (0, missing))

    def _on_one(self, params: Any, state: Any, examples: Any, key: Array | None) -> tuple:
        """(values [micro-batches, rows], gradients), of one device."""
        run = _Run(self, params, state, examples, key)
        for step in self.order.simulate().steps:
            run.do(step.stage, *step.task)
        values = jnp.stack([run.values[i] for i in range(self.order.micro_batches)])
        return values, self.cut.together(run.sums)

    @contextmanager
    def _place(self, stage: int):
        """Add to an error in which stage it arose."""
        try:
            yield
        except Exception as error:
            error.add_note(f"in {self.cut.label(stage)}")
            raise

    def require_axis(self, mesh: Any) -> None:
        """Raise ValueError unless the mesh has a device for each stage."""
        if mesh.shape.get(STAGE) != self.order.stages:
            raise ValueError(
                f"pipelined: expected a mesh with an axis {STAGE!r} of {self.order.stages} "
                f"devices, one for each stage, got the axes {dict(mesh.shape)}: make_mesh(…, "
                f"stages={self.order.stages}) makes one"
            )

    def _require_apart(self, params: Any, state: Any, x: Any, target: Any, key: Any) -> None:
        size, m = batch_size("pipelined", (x, target)), self.order.micro_batches
        if not size:
            raise ValueError("pipelined: expected a batch of at least one example, got none")
        if size % m and not self.fills:
            raise ValueError(
                f"pipelined: expected a batch that {m} micro-batches divide, got {size} examples: "
                "fills=True fills it with some without weight"
            )
        for name, part, own in zip(
            self.network.part_names, self.network.layers, state, strict=True
        ):
            if jax.tree.leaves(own):
                raise ValueError(
                    f"pipelined: expected layers without state, which would pass from micro-batch "
                    f"to micro-batch, but {name} {part.name} has some"
                )
        require_loss_apart("pipelined", self.loss, self.network, params, state, x, target, key)
        for layer in mixing_layers(self.network, params, state, x, key):
            raise ValueError(
                f"pipelined: expected layers that take every example by itself, but {layer} mixes "
                "the examples of a batch: of micro-batches it would compute something else"
            )


class _Run:
    """What is there between the tasks, on one device."""

    def __init__(self, of: pipelined, params: Any, state: Any, examples: Any, key: Array | None):
        self.of, self.stages = of, of.cut.stages
        numbers = range(len(self.stages))
        self.params = [of.cut.of(stage, params) for stage in numbers]
        self.states = [of.cut.of(stage, state) for stage in numbers]
        micro_batches = range(of.order.micro_batches)
        self.examples = [jax.tree.map(lambda a, i=i: a[:, i], examples) for i in micro_batches]
        self.keys = [
            of.cut.keys(None if key is None else jax.random.fold_in(key, i)) for i in micro_batches
        ]
        self.entering = {(0, i): x for i, (x, _, _) in enumerate(self.examples)}
        self.residuals, self.deltas, self.captures, self.values = {}, {}, {}, {}
        self.sums: list = [None] * len(self.stages)

    def do(self, stage: int, kind: str, micro_batch: int) -> None:
        """One task."""
        with self.of._place(stage):
            if kind == "F":
                self._forward(stage, micro_batch)
            if kind in "DB":
                self._deltas(stage, micro_batch)
            if kind in "WB":
                self._weights(stage, micro_batch)

    def _forward(self, stage: int, i: int) -> None:
        own = self.params[stage], self.states[stage], self.entering.pop((stage, i))
        keys = self.of.cut.keys_of(stage, self.keys[i])
        y, _, self.residuals[stage, i] = self.stages[stage].forward(*own, keys)
        if stage < self.of.order.stages - 1:
            self.entering[stage + 1, i] = y
            return
        _, target, counted = self.examples[i]
        self.values[i], self.deltas[stage, i] = self.of.loss.weighted(y, target, counted)

    def _deltas(self, stage: int, i: int) -> None:
        dx, self.captures[stage, i] = self.stages[stage].backward(
            self.params[stage], self.residuals.pop((stage, i)), self.deltas.pop((stage, i))
        )
        if stage:
            self.deltas[stage - 1, i] = dx

    def _weights(self, stage: int, i: int) -> None:
        gradients = contract(self.captures.pop((stage, i)))
        wide = jax.tree.map(lambda g: g.astype(sum_dtype(g.dtype)), gradients)
        so_far = self.sums[stage]
        self.sums[stage] = wide if so_far is None else jax.tree.map(jnp.add, so_far, wide)
