"""Checkpoints of a train state, written by orbax: whole or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxnn.training.steps import TrainState


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another network, or cannot be written."""


class Checkpoints:
    """The newest checkpoints in a folder, numbered by the epochs that the state has seen.

        with Checkpoints("run/checkpoints") as checkpoints:
            checkpoints.save(epoch, train_state)
            epoch, train_state = checkpoints.restore(like=train_state)

    Saving goes on in the background; leaving the ``with`` block waits for it.

    Args:
        folder: Where they are; made if it does not exist, unless they are only read.
        keep: How many are kept.
        read_only: Whether the folder must exist, since nothing is to be written.

    Raises:
        ImportError: orbax is missing: ``pip install "jaxnn[experiments]"``.
        CheckpointError: ``read_only``, and there is no such folder.
    """

    def __init__(self, folder: Path | str, keep: int = 3, *, read_only: bool = False):
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError('checkpoints need orbax: pip install "jaxnn[experiments]"') from error
        self._ocp = ocp
        self.folder = Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"checkpoint: expected {self.folder} to be a folder, found none")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=not read_only)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing():
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """The number of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, epoch: int, train_state: TrainState) -> None:
        """Write a checkpoint in the background, unless this epoch has one.

        Raises:
            CheckpointError: It cannot be written, or (then or on leaving the ``with`` block) an
                earlier one could not.
        """
        if epoch == self.latest:
            return
        arguments = self._ocp.args.Composite(
            train_state=self._ocp.args.StandardSave(_plain(train_state)._asdict()),
            shapes=self._ocp.args.JsonSave(_shapes(train_state)),
        )
        with self._writing():
            self._manager.save(epoch, args=arguments)

    def restore(self, like: TrainState) -> tuple[int, TrainState]:
        """The number of the newest checkpoint and its train state.

        Args:
            like: A train state with the shapes and dtypes that are expected.

        Raises:
            CheckpointError: There is none, it cannot be read, or it has other shapes.
        """
        epoch = self.latest
        if epoch is None:
            raise CheckpointError(f"checkpoint: expected one in {self.folder}, found none")
        where = self.folder / str(epoch)
        shapes = self._read(epoch, shapes=self._ocp.args.JsonRestore()).shapes
        expected = json.loads(json.dumps(_shapes(like)))
        if shapes != expected:
            raise CheckpointError(_describe_difference(where, expected, shapes))
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, _plain(like)._asdict())
        arguments = self._ocp.args.StandardRestore(abstract)
        restored = self._read(epoch, train_state=arguments).train_state
        return epoch, TrainState(**restored)._replace(
            key=jax.random.wrap_key_data(restored["key"], impl=jax.random.key_impl(like.key))
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # see _read
            raise CheckpointError(f"checkpoint: cannot write to {self.folder}: {error}") from error

    def _read(self, epoch: int, **arguments: Any) -> Any:
        try:
            return self._manager.restore(epoch, args=self._ocp.args.Composite(**arguments))
        except Exception as error:  # orbax, tensorstore and json each have errors of their own
            raise CheckpointError(
                f"checkpoint: {self.folder / str(epoch)} is damaged and cannot be read: {error}"
            ) from error


def _plain(train_state: TrainState) -> TrainState:
    return train_state._replace(key=jax.random.key_data(train_state.key))


def _shapes(train_state: TrainState) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(_plain(train_state))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _describe_difference(where: Path, expected: dict, given: dict) -> str:
    for name in {**expected, **given}:
        if expected.get(name) != given.get(name):
            return (
                f"checkpoint: {where} is of another network or optimiser: expected {name} to be "
                f"{expected.get(name, 'absent')}, got {given.get(name, 'absent')}"
            )
    raise AssertionError("the shapes are equal")
