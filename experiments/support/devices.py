"""On how many devices a script runs, and how parameters are laid out over them."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.support.config import Config
from jaxnn.core.validation import require_integer, require_positive_integer, unknown_name
from jaxnn.data import Splits
from jaxnn.data.dataset import rows_of
from jaxnn.sharding import SCHEDULES, balanced_cuts, find_layout, make_mesh, pipelined
from jaxnn.training import TrainState, place

MOST_DEVICES = 1024
"""Of one process: as many virtual devices are made of a processor, each with memory of its own."""


@dataclass(frozen=True)
class DeviceOptions:
    """None of them changes what is computed: a run may go on with others."""

    devices: int | None = None
    """1 unless given; in several processes all. Virtual on a processor."""
    layout: str = "replicated"
    """replicated, fully_sharded (each array is split over all), or tensor_parallel (dense layers
    over model_devices)."""
    model_devices: int = 1
    """Over how many of them layers are split, for tensor_parallel."""
    stages: int = 1
    """In how many the network is cut, each on devices of its own."""
    pipeline: str = "zero_bubble"
    """gpipe, 1f1b or zero_bubble: the order of work on --micro-batches."""
    cuts: tuple[int, ...] = ()
    """How many layers each stage has; even in operations unless given."""

    def make_mesh(self) -> Mesh | None:
        """The mesh; None for a single device without one.

        Raises:
            ValueError: The devices are not there, or the options do not fit together.
        """
        find_layout(self.layout)
        require_positive_integer("devices", "model_devices", self.model_devices)
        if (self.model_devices > 1) != (self.layout == "tensor_parallel"):
            raise ValueError(
                "devices: expected model_devices to be more than 1 for layout tensor_parallel and "
                f"for that alone, got {self.model_devices} for {self.layout}"
            )
        if self.devices is not None:
            require_integer("devices", "devices", self.devices, 1, MOST_DEVICES)
        require_integer("devices", "stages", self.stages, 1, MOST_DEVICES)
        if self.pipeline not in SCHEDULES:
            raise ValueError(f"devices: {unknown_name('pipeline', self.pipeline, SCHEDULES)}")
        if self.stages > 1 and self.layout != "replicated":
            raise ValueError(
                "devices: expected layout replicated with stages, whose parameters are divided "
                f"already, got --layout {self.layout}"
            )
        if (self.devices or self.stages) % self.stages:
            raise ValueError(
                f"devices: expected devices to be a multiple of the {self.stages} stages, got "
                f"{self.devices}"
            )
        available = self._available()
        if self.stages > 1 and jax.process_count() > 1:
            raise ValueError(
                "devices: expected stages to be 1 in several processes, whose parameters one alone "
                f"could not save, got {self.stages}"
            )
        if self.devices is None and jax.process_count() > 1:
            count = len(available)
        else:
            count = self.devices or self.stages
        if count > len(available) or (jax.process_count() > 1 and count < len(available)):
            bound = "all" if jax.process_count() > 1 else "at most"
            raise ValueError(
                f"devices: expected devices to be {bound} {len(available)} of platform "
                f"{available[0].platform}, got {count}"
            )
        if count == 1 and self.layout == "replicated":
            return None
        return make_mesh(
            max(count // (self.model_devices * self.stages), 1),
            self.model_devices,
            stages=self.stages if self.stages > 1 else None,
            devices=available[:count],
        )

    def gradient(self, config: Config, splits: Splits) -> pipelined | None:
        """That of a network in stages; None where it has one.

        Raises:
            ValueError: The configuration cannot be trained in stages.
        """
        if self.stages == 1:
            return None
        known = (("gradient", "manual"), ("precision", "float32"), ("in_backward", False))
        for name, expected in known:
            if getattr(config, name) != expected:
                raise ValueError(
                    f"devices: expected {name} to be {expected} with --stages {self.stages}, got "
                    f"{getattr(config, name)}"
                )
        if config.batch_size % config.micro_batches:
            raise ValueError(
                f"devices: expected batch_size to be a multiple of the {config.micro_batches} "
                f"micro_batches that go through {self.stages} stages, got {config.batch_size}"
            )
        network: Any = config.fused_layers
        loss, _ = config.supervised(splits.train, config.task(splits))
        cuts = self.cuts or balanced_cuts(network, rows_of(splits.train.x, slice(1)), self.stages)
        order = SCHEDULES[self.pipeline](self.stages, config.micro_batches)
        return pipelined(network, loss, order, cuts, fills=True)

    def place(
        self, train_state: TrainState, mesh: Mesh, config: Config, splits: Splits
    ) -> TrainState:
        """The train state of a configuration, on the mesh."""
        optimizer = config.make_update(len(splits.train.target))
        return place(train_state, mesh, config.layers, optimizer, find_layout(self.layout))

    def _available(self) -> list[Any]:
        wanted = self.devices or (self.stages if self.stages > 1 else None)
        if wanted is not None and not jax.distributed.is_initialized():
            with contextlib.suppress(RuntimeError):  # JAX runs already, with what devices it has
                jax.config.update("jax_num_cpu_devices", wanted)
        return jax.devices()


def all_devices(where: str, count: int | None) -> Sequence[Any]:
    """Among which small trainings are divided: all unless a count is given, and of a processor as
    many virtual ones as it has cores. It must be called before JAX starts."""
    if count is not None:
        require_positive_integer(where, "devices", count)
    with contextlib.suppress(RuntimeError):  # JAX runs already, with what devices it has
        jax.config.update("jax_num_cpu_devices", count or os.cpu_count() or 1)
    available = jax.devices()
    if count is not None and count > len(available):
        raise ValueError(f"{where}: expected at most {len(available)} devices, got {count}")
    return available[:count]
