"""Data sets larger than the memory: .npy files that are mapped, and read where they are used."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.core.validation import batch_size, listed
from jaxnn.data.dataset import Dataset, as_weights, make_dataset, validate_labels
from jaxnn.data.digests import digest
from jaxnn.data.facts import parse_facts
from jaxnn.data.npy import map_array, read_strings
from jaxnn.data.npz import read_npz
from jaxnn.data.preparation import ARRAYS, Preparation, from_facts
from jaxnn.data.splitting import Source, Splits, take

PARTS = ("train", "validation", "test")
CLASS_NAMES = "class_names.npy"
PREPARATION = ("preparation.json", "preparation.npz")
SOURCE = "source.json"
"""Digests of the whole data and of the split, where they were found out as it was written."""
_SAMPLED = 256
"""How many training examples, evenly apart, the digest of a folder is of."""


def write_mapped(splits: Splits, folder: str | Path) -> Path:
    """Write splits as .npy files that `map_splits` reads: {train,validation,test}_{x,target}.npy.

    Each split is written by itself, so that a part of it can be larger than the memory if it is a
    `numpy.memmap`. What was done to x and target (they are standardised, say) is written beside
    them, in preparation.json and preparation.npz.

    Raises:
        FileExistsError: ``folder`` exists and is not empty.
        OSError: it cannot be written.
    """
    folder = make_empty(folder)
    for name in PARTS:
        part = getattr(splits, name)
        for array, x in splits.preparation.apart(part.x).items():
            np.save(folder / f"{name}_{array}.npy", x, allow_pickle=False)
        write_targets(folder, name, part, weighs=splits.train.weights is not None)
    write_preparation(folder, splits.preparation)
    return folder


def write_targets(folder: Path, name: str, part: Dataset, *, weighs: bool) -> None:
    """Write the targets of a part and, where training ``weighs`` examples, what each of it counts:
    1 where the part says nothing."""
    np.save(folder / f"{name}_target.npy", part.target, allow_pickle=False)
    if weighs:
        ones = np.ones(len(part.target), np.float32)
        weights = ones if part.weights is None else part.weights
        np.save(folder / f"{name}_weights.npy", weights, allow_pickle=False)


def make_empty(folder: str | Path) -> Path:
    """The folder, made; raises FileExistsError where something is in it."""
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"write_mapped: expected {folder} to be a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array in a new .npy file, mapped to be written; raises OSError where the disk has no room
    for it, in place of a signal that ends the process when it is full."""
    x = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:  # a file system need not have it
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
    return x


def write_preparation(folder: Path, preparation: Preparation) -> None:
    """Write the files beside the arrays."""
    if preparation.class_names:
        np.save(folder / CLASS_NAMES, np.asarray(preparation.class_names), allow_pickle=False)
    facts, arrays = preparation.facts()
    np.savez(folder / PREPARATION[1], **arrays)  # pyright: ignore[reportArgumentType]
    (folder / PREPARATION[0]).write_text(json.dumps(facts), encoding="utf-8")


def preparation_of(folder: str | Path) -> Preparation | None:
    """The preparation in a mapped folder, if there is one."""
    facts, arrays = (Path(folder).expanduser() / name for name in PREPARATION)
    if not facts.exists():
        return None
    return from_facts(str(facts), parse_facts(facts, facts.read_bytes()), read_npz(arrays, ARRAYS))


def map_splits(folder: str | Path) -> Splits:
    """Splits from a folder as `write_mapped` leaves it, whose training examples stay on disk.

    x must be float32 [examples, ...], targets int32 labels (there is class_names.npy) or float32
    [examples, outputs]. Validation may be missing; it and the test are read into memory, and all
    labels are checked. That training inputs are finite is not: it would read them all. Where the
    folder says nothing of a preparation, x is taken to be what the network is to be given. The
    digest is of all labels and of a few hundred training examples.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError, TypeError: a file is no array, or not of that dtype and shape.
    """
    folder = Path(folder).expanduser()
    names_file = folder / CLASS_NAMES
    names = ()
    if names_file.exists():
        names = read_strings(str(folder), CLASS_NAMES, map_array(names_file))
    known = preparation_of(folder)
    x, target = _map_x(folder, "train", known), map_array(folder / "train_target.npy")
    count = batch_size("map_splits", x)
    if count != len(target) or count == 0:
        raise ValueError(
            f"{folder / 'train_target.npy'}: expected one target for each of the examples, of "
            f"which there are {count}, got shape {target.shape}"
        )
    if names:
        validate_labels(target, len(names), str(folder / "train_target.npy"))
    expected = np.int32 if names else np.float32
    if target.dtype != expected or target.ndim != (1 if names else 2):
        raise TypeError(
            f"{folder / 'train_target.npy'}: expected {np.dtype(expected)} "
            f"{'labels [examples]' if names else '[examples, outputs]'}, got {target.dtype} of "
            f"shape {target.shape}"
        )
    preparation = Preparation(x.shape[1:], class_names=names) if known is None else known
    shapes = [array.shape[1:] for array in preparation.apart(x).values()]
    # Of no examples, since a stranger's file may say that there are any number of features.
    given = [array.shape[1:] for array in preparation.apart(preparation.sample(0)).values()]
    if given != shapes or preparation.class_names != names:
        raise ValueError(
            f"{folder / PREPARATION[0]}: expected a preparation of examples of shape "
            f"{listed(map(str, shapes))} of the classes {listed(names) or 'none'}, got one of "
            f"{listed(map(str, given))} and {listed(preparation.class_names) or 'none'}"
        )
    weighs = (folder / "train_weights.npy").exists()
    weights = _weights(folder, "train", count) if weighs else None
    train = Dataset(x, target, preparation.feature_names, names, weights=weights)
    test = _in_memory(folder, "test", train, preparation)
    validation = take(train, slice(0))
    first = folder / f"validation_{preparation.x_names[0]}.npy"
    if first.exists() and len(map_array(first)):
        validation = _in_memory(folder, "validation", train, preparation)
    sampled = take(train, np.linspace(0, count - 1, _SAMPLED).astype(int)).x
    whole = [*preparation.apart(sampled).values(), target]
    for part in (validation, test):
        whole += [*preparation.apart(part.x).values(), part.target]
    whole += [part.weights for part in (train, validation, test) if part.weights is not None]
    split = digest("mapped", count)
    if (folder / SOURCE).exists():
        said = parse_facts(folder / SOURCE, (folder / SOURCE).read_bytes())
        whole, split = [*whole, said.get("data")], digest(said.get("split"), count)
    source = Source(digest(names, (count, *shapes[0]), *whole), split)
    return Splits(train, validation, test, preparation, source)


def _map_x(folder: Path, part: str, known: Preparation | None) -> Any:
    """What the network takes, mapped: numbers, and codes whose range is checked."""
    if known is None:
        known = Preparation(())
    arrays = {name: map_array(folder / f"{part}_{name}.npy") for name in known.x_names}
    codes = dict(zip(known.x_names[::-1], known.embedded[::-1], strict=False))
    for name, x in arrays.items():
        path = folder / f"{part}_{name}.npy"
        if name not in codes:
            _require_inputs(path, x)
            continue
        if x.dtype != np.int32:
            raise TypeError(f"{path}: expected codes of int32, got {x.dtype}")
        validate_labels(x, codes[name].codes, str(path))
    return known.joined(arrays)


def _in_memory(folder: Path, name: str, train: Dataset, preparation: Preparation) -> Dataset:
    mapped = preparation.apart(_map_x(folder, name, preparation if preparation.encoders else None))
    arrays = {key: np.array(array) for key, array in mapped.items()}
    target = np.array(map_array(folder / f"{name}_target.npy"))
    first = preparation.x_names[0]
    path, x = folder / f"{name}_{first}.npy", arrays[first]
    expected = preparation.apart(train.x)[first].shape[1:]
    if x.shape[1:] != expected:
        raise ValueError(f"{path}: expected examples of shape {expected}, got {x.shape[1:]}")
    if not preparation.network_shape[0]:
        x = x[:, np.newaxis]  # of codes alone
    found = make_dataset(str(path), x, target, train.feature_names, train.class_names)
    weights = None if train.weights is None else _weights(folder, name, len(x))
    return found._replace(x=preparation.joined(arrays), weights=weights)


def _weights(folder: Path, name: str, count: int) -> np.ndarray:
    path = folder / f"{name}_weights.npy"
    try:
        return as_weights(map_array(path), count)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _require_inputs(path: Path, x: np.ndarray) -> None:
    if x.dtype != np.float32 or x.ndim < 2:
        raise TypeError(
            f"{path}: expected float32 of shape [examples, ...], got {x.dtype} of shape {x.shape}"
        )
