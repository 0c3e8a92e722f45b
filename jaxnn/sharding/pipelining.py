"""A schedule, executed: the backward pass of each stage in two, deltas first, captures later."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract, in_dtypes_of
from jaxnn.core.combinators import inside, serial, split
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
from jaxnn.sharding.pipelines import schedule


class pipelined(Value):
    """The gradient of `jaxnn.backprop`, computed task by task in the order of a schedule.

    Every layer of the `serial` is a stage. D of a stage is its backward pass, whose captures are
    kept; W contracts them, and B does both. Example i is in micro-batch i mod m, which draws random
    numbers of its own: the numbers are those of ``jaxnn.accumulate(backprop, m)``, to rounding, on
    one device: the order of the tasks is the schedule's, as `schedule.simulate` has it.

    Args:
        network: A `serial` of the stages.
        loss: The loss.
        order: The schedule.

    Raises:
        ValueError: the network has not as many layers as there are stages, or the loss compares
            the examples of a batch; when called, a layer mixes the examples or has state, which
            would pass from one micro-batch to the next, or m does not divide the batch.
    """

    network: serial
    loss: Loss
    order: schedule

    def validate(self) -> None:
        """Raise unless the network fits the schedule."""
        layers, stages = len(self.network.layers), self.order.stages
        if layers != stages:
            raise ValueError(
                f"pipelined: expected a serial of {stages} layers, one for each stage, got "
                f"{layers}: put layers of one stage together, serial(serial(…), serial(…))"
            )
        require_loss_apart("pipelined", self.loss)

    def __call__(self, params, state, x, target, key=None, weights=None):
        """((value, state), gradients)."""
        self._require_apart(params, state, x, target, key)
        x, target = of_those_present(self.loss, weights, x, target)
        run = _Run(self, params, state, self._cut((x, target)), key)
        size = batch_size("pipelined", (x, target))
        # The shares of the examples in the weighted mean of the whole batch.
        dtype = jax.eval_shape(self._values, params, state, x, target, key)
        require_weights(weights, dtype, "pipelined")
        run.shares = self._cut(shares(weights, dtype))
        for step in self.order.simulate().steps:
            run.do(step.stage, *step.task)
        values = jnp.stack([run.values[i] for i in range(self.order.micro_batches)], 1)
        value = weighted_mean(of_present(weights, values.reshape(size)), weights)
        return (value, state), in_dtypes_of(params, self.network.gather(run.sums))

    def _values(self, params, state, x, target, key):
        return self.loss.value(self.network.forward(params, state, x, key)[0], target)

    def _cut(self, tree: Any) -> list:
        """The tree of each micro-batch."""
        m = self.order.micro_batches
        return [jax.tree.map(lambda a, i=i: a[i::m], tree) for i in range(m)]

    def _require_apart(self, params: Any, state: Any, x: Any, target: Any, key: Any) -> None:
        size, m = batch_size("pipelined", (x, target)), self.order.micro_batches
        if size % m or not size:
            raise ValueError(
                f"pipelined: expected a batch that {m} micro-batches divide, got {size} examples"
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
    """What is there between the tasks."""

    def __init__(self, of: pipelined, params: Any, state: Any, examples: list, key: Array | None):
        self.of, self.params, self.state, self.examples = of, params, state, examples
        self.shares: list = []
        stages = of.order.stages
        micro = [None if key is None else jax.random.fold_in(key, i) for i in range(len(examples))]
        self.keys = [split(own, stages) for own in micro]
        self.entering = {(0, i): x for i, (x, _) in enumerate(examples)}
        self.residuals, self.deltas, self.captures, self.values = {}, {}, {}, {}
        self.sums: list = [None] * stages

    def do(self, stage: int, kind: str, micro_batch: int) -> None:
        """One task."""
        with inside(self.of.network, stage):
            if kind == "F":
                self._forward(stage, micro_batch)
            if kind in "DB":
                self._deltas(stage, micro_batch)
            if kind in "WB":
                self._weights(stage, micro_batch)

    def _forward(self, stage: int, i: int) -> None:
        own = self.params[stage], self.state[stage], self.entering.pop((stage, i))
        y, _, self.residuals[stage, i] = self.of.network.layers[stage].forward(
            *own, self.keys[i][stage]
        )
        if stage < self.of.order.stages - 1:
            self.entering[stage + 1, i] = y
            return
        target = self.examples[i][1]
        self.values[i], self.deltas[stage, i] = self.of.loss.weighted(y, target, self.shares[i])

    def _deltas(self, stage: int, i: int) -> None:
        dx, self.captures[stage, i] = self.of.network.layers[stage].backward(
            self.params[stage], self.residuals.pop((stage, i)), self.deltas.pop((stage, i))
        )
        if stage:
            self.deltas[stage - 1, i] = dx

    def _weights(self, stage: int, i: int) -> None:
        gradients = contract(self.captures.pop((stage, i)))
        wide = jax.tree.map(lambda g: g.astype(sum_dtype(g.dtype)), gradients)
        so_far = self.sums[stage]
        self.sums[stage] = wide if so_far is None else jax.tree.map(jnp.add, so_far, wide)
