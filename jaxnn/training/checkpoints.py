"""Checkpoints of a train state, written by orbax: whole or not at all, and checked when read."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.training.checksums import checksums
from jaxnn.training.steps import TrainState


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another network, or cannot be written."""


class _Damaged(Exception):
    pass


class Checkpoints:
    """The newest checkpoints in a folder, numbered by the epochs that the state has seen.

        with Checkpoints("run/checkpoints") as checkpoints:
            checkpoints.save(epoch, train_state)
            epoch, train_state = checkpoints.restore(like=train_state)

    Saving goes on in the background; leaving the ``with`` block waits for it. A checkpoint has a
    checksum for each of its arrays, so that restoring gives back every bit or notices. What a save
    that was cut off has left is removed when the folder is opened, unless it is only read.

    Args:
        folder: Where they are; made if it does not exist, unless they are only read.
        keep: How many are kept.
        read_only: Whether the folder must exist, since nothing is to be written.

    Raises:
        ImportError: orbax is missing: ``pip install "jaxnn[checkpoints]"``.
        CheckpointError: ``read_only``, and there is no such folder.
    """

    def __init__(self, folder: Path | str, keep: int = 3, *, read_only: bool = False):
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError('checkpoints need orbax: pip install "jaxnn[checkpoints]"') from error
        self._ocp = ocp
        self.folder = Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"checkpoint: expected {self.folder} to be a folder, found none")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=not read_only, cleanup_tmp_directories=not read_only
        )
        with self._writing():
            self._manager = ocp.CheckpointManager(self.folder, options=options)
            # Who is killed behind a save has not yet removed those that are too many by then.
            for old in sorted(self._manager.all_steps())[:-keep] if not read_only else ():
                self._manager.delete(old)

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
            contents=self._ocp.args.JsonSave(_sealed(_contents(epoch, train_state))),
        )
        with self._writing():
            # Where orbax cannot make a folder, its threads wait for it for minutes. One by this
            # name it removes itself, should this process be killed before it does.
            with TemporaryDirectory(suffix=".orbax-checkpoint-tmp", dir=self.folder):
                pass
            self._manager.save(epoch, args=arguments)

    def wait(self) -> None:
        """Wait until what is being saved is on the disk.

        Raises:
            CheckpointError: It cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def discard_after(self, epoch: int) -> None:
        """Remove the checkpoints of later epochs, so that these can be trained and saved anew.

        Raises:
            CheckpointError: One cannot be removed.
        """
        with self._writing():
            for later in self._manager.all_steps():
                if later > epoch:
                    self._manager.delete(later)

    def restore(self, like: TrainState) -> tuple[int, TrainState]:
        """The number of the newest checkpoint and its train state.

        Where that is damaged, a warning says so, and the newest one that is not takes its place.

        Args:
            like: A train state with the shapes and dtypes that are expected.

        Raises:
            CheckpointError: There is none, all are damaged, or it has other shapes or was saved
                for another epoch.
        """
        epochs = sorted(self._manager.all_steps(), reverse=True)
        if not epochs:
            raise CheckpointError(f"checkpoint: expected one in {self.folder}, found none")
        damages = []
        for epoch in epochs:
            try:
                restored = self._restore(epoch, like)
            except _Damaged as damage:
                damages.append(
                    f"{self.folder / str(epoch)} is damaged and cannot be read: {damage}"
                )
                continue
            for damage in damages:
                warnings.warn(f"checkpoint: {damage}; going back to {epoch}", stacklevel=2)
            return epoch, restored
        raise CheckpointError("checkpoint: " + "\nand ".join(damages))

    def _restore(self, epoch: int, like: TrainState) -> TrainState:
        contents = _unsealed(self._read(epoch, contents=self._ocp.args.JsonRestore()).contents)
        where = self.folder / str(epoch)
        saved = contents.get("epoch", epoch)  # jaxnn 0.1 did not write it
        if saved != epoch:
            raise CheckpointError(
                f"checkpoint: expected {where} to be of epoch {epoch}, as its name says, got epoch "
                f"{saved}: it was renamed; rename it to {saved}, or remove it"
            )
        expected = _shapes(like)
        if contents["shapes"] != expected:
            raise CheckpointError(_describe_difference(where, expected, contents["shapes"]))
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, _plain(like)._asdict())
        arguments = self._ocp.args.StandardRestore(abstract)
        restored = TrainState(**self._read(epoch, train_state=arguments).train_state)
        restored = jax.tree.map(_with_keys, restored, like)
        for name, checksum in _checksums(restored).items():
            if checksum != contents["checksums"].get(name):
                raise _Damaged(f"the checksum of {name} is not the one that it was saved with")
        return restored

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
            # tensorstore adds everything that it knows, a page of it, in brackets.
            raise _Damaged(str(error).split(" [", 1)[0]) from error


def _plain(train_state: TrainState) -> TrainState:
    """The same with the numbers of its keys, of which an optimiser may have some too."""
    return jax.tree.map(lambda a: jax.random.key_data(a) if _is_key(a) else a, train_state)


def _with_keys(plain: Any, like: Any) -> Any:
    if not _is_key(like):
        return plain
    return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(like))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _contents(epoch: int, train_state: TrainState) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "shapes": _shapes(train_state),
        "checksums": _checksums(train_state),
    }


def _shapes(train_state: TrainState) -> dict[str, str]:
    return {
        name: f"{leaf.dtype}{list(leaf.shape)}"
        for name, leaf in _named(_plain(train_state)).items()
    }


def _checksums(train_state: TrainState) -> dict[str, int]:
    leaves = _named(_plain(train_state))
    return dict(zip(leaves, checksums(list(leaves.values())), strict=True))


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _sealed(contents: dict[str, Any]) -> dict[str, Any]:
    return {"contents": contents, "sha256": _digest(contents)}


def _unsealed(sealed: Any) -> dict[str, Any]:
    if not isinstance(sealed, dict) or sealed.keys() != {"contents", "sha256"}:
        raise _Damaged("its table of contents is not one of this library")
    if sealed["sha256"] != _digest(sealed["contents"]):
        raise _Damaged("its table of contents has another digest than it was saved with")
    return sealed["contents"]


def _digest(contents: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _describe_difference(where: Path, expected: dict, given: dict) -> str:
    for name in {**expected, **given}:
        if expected.get(name) != given.get(name):
            return (
                f"checkpoint: {where} is of another network or optimiser: expected {name} to be "
                f"{expected.get(name, 'absent')}, got {given.get(name, 'absent')}"
            )
    raise AssertionError("the shapes are equal")
