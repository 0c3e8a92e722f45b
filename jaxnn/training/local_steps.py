"""Local steps: every device trains by itself, and the parameters are averaged now and then (local
SGD: Stich, 2019; McMahan et al., 2017).

With θ_i the parameters of device i, g_i the gradient of the mean over its own examples and U the
optimiser's update,

    θ_i ← θ_i + U(g_i),  and after every H steps  θ_i ← mean_j θ_j.

In a ring a device sends 2 (n − 1)/n of the bytes of the parameters every H steps, in place of the
gradient's, which are as many, in every step. Where U is linear in the gradients, as of SGD with and
without momentum, H = 1 is training by the mean of the gradients.
"""

import dataclasses
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from jaxnn.core.gradients import backprop
from jaxnn.core.mixing import mixing_layers, require_loss_apart
from jaxnn.core.networks import label, walk
from jaxnn.core.validation import require_positive_integer
from jaxnn.kernels.parts import DATA, data_parts, parts_of
from jaxnn.sharding.mesh import require_data_axis
from jaxnn.training.steps import (
    Step,
    TrainState,
    mean_over_copies,
    require_copies,
    require_unscaled,
)


class LocalState(NamedTuple):
    """What the devices have by themselves, each array [devices, …]."""

    params: Any
    inner: Any
    """The optimisers' own."""


class local_steps(Step):
    """A step of every device on its own examples; each ``every``-th one averages the parameters.

    The params of the train state, which are evaluated, are those of the last average. Optimisers'
    states are not averaged. A batch that cannot be split evenly is taken by every device. Dropout
    draws on each device from another key. Example weights count among the examples of a device, and
    a device whose examples all have weight 0 takes no step.

    Args:
        network: The network.
        loss: The loss, whose weighted mean over a device's part of the batch is minimised.
        optimizer: An optax transformation; each device has one.
        every: H.

    Raises:
        ValueError: ``every`` is not positive; a policy in float16 is in the network; at ``start``
            and when called, a layer mixes the examples of a batch or has state, or the loss
            compares the examples: of a device's own they would be others; when called, under a mesh
            without the axis "data".
    """

    _: dataclasses.KW_ONLY
    every: Annotated[int, require_positive_integer] = 8

    def validate(self) -> None:
        """Raise where deltas are scaled, or the loss compares examples."""
        require_unscaled(self.name, self.network)
        require_loss_apart(self.name, self.loss)

    def start(self, params: Any, state: Any, x: Any) -> LocalState:
        """The params, and the optimiser's state, of one device."""
        self._require_apart(params, state, x)
        copies = jax.tree.map(lambda a: jnp.array(a)[None], (params, self.optimizer.init(params)))
        return LocalState(*copies)

    def for_devices(self, optimizer_state: LocalState, devices: int) -> LocalState:
        """The mean over the devices that there were, on each."""
        return mean_over_copies(optimizer_state, devices)

    def specs(self, optimizer_state: LocalState) -> LocalState:
        """Each device has its own."""
        return jax.tree.map(lambda _: P(DATA), optimizer_state)

    def sent_bytes(self, params: Any, devices: int) -> float:
        """What a device sends in a ring for the parameters, in the mean over the steps."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        return 2 * (devices - 1) / devices * size / self.every

    def __call__(
        self, train_state: TrainState, x: Any, target: Any, weights: Array | None = None
    ) -> tuple[TrainState, Array]:
        """One step."""
        require_data_axis(self.name)
        averaged, state, copies, key, count = train_state
        self._require_apart(averaged, state, x)
        devices = data_parts()
        require_copies(self.name, copies, devices)
        gradient = backprop(self.network, self.loss)
        step_key = jax.random.fold_in(key, count)

        def mean(tree: Any) -> Any:
            return tree if devices == 1 else lax.pmean(tree, DATA)

        def own_step(averaged, copies, x, target, weights, key, count):
            params, inner = jax.tree.map(lambda a: a[0], copies)
            if devices > 1:
                key = jax.random.fold_in(key, lax.axis_index(DATA))
            (value, _), gradients = gradient(params, state, x, target, key, weights)
            moved = self.updated(gradients, inner, params, value)
            if weights is None:
                params, inner = moved
            else:  # of no examples there is no mean, and no step
                some = jnp.any(weights != 0)
                params, inner = jax.tree.map(partial(jnp.where, some), moved, (params, inner))
                share = some.astype(value.dtype)
                value = jnp.where(some, value, 0) / mean(share)
            if self.every == 1:
                averaged = params = mean(params)
            else:
                averaged, params = lax.cond(
                    (count + 1) % self.every == 0,
                    lambda: (mean(params),) * 2,
                    lambda: (averaged, params),
                )
            return averaged, jax.tree.map(lambda a: a[None], (params, inner)), mean(value)

        if devices > 1:
            rows = P(DATA) if parts_of(jax.tree.leaves(x)[0].shape[0]) > 1 else P()
            own_step = jax.shard_map(
                own_step,
                in_specs=(P(), P(DATA), rows, rows, rows, P(), P()),
                out_specs=(P(), P(DATA), P()),
                axis_names={DATA},
                check_vma=False,
            )
        arguments = (averaged, tuple(copies), x, target, weights, step_key, count)
        averaged, copies, value = own_step(*arguments)
        return TrainState(averaged, state, LocalState(*copies), key, count + 1), value

    def _require_apart(self, params: Any, state: Any, x: Any) -> None:
        for path, layer, own in walk(self.network, state):
            if jax.tree.leaves(own):
                raise ValueError(
                    f"local_steps: expected layers without state, of which each device would have "
                    f"another, but {label(path, layer)} has some"
                )
        for layer in mixing_layers(self.network, params, state, x, jax.random.key(0)):
            raise ValueError(
                f"local_steps: expected layers that take every example by itself, but {layer} "
                "mixes the examples of a batch: of a device's own it would compute something else"
            )
