"""Data sets larger than the memory: .npy files that are mapped, and read where they are used."""

import json
from pathlib import Path

import numpy as np

from jaxnn.core.validation import listed
from jaxnn.data.dataset import Dataset, as_weights, make_dataset, validate_labels
from jaxnn.data.digests import digest
from jaxnn.data.facts import parse_facts
from jaxnn.data.npy import map_array, read_strings
from jaxnn.data.npz import read_npz
from jaxnn.data.preparation import ARRAYS, Preparation, from_facts
from jaxnn.data.splitting import Source, Splits

PARTS = ("train", "validation", "test")
CLASS_NAMES = "class_names.npy"
PREPARATION = ("preparation.json", "preparation.npz")
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
        np.save(folder / f"{name}_x.npy", part.x, allow_pickle=False)
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
    x, target = map_array(folder / "train_x.npy"), map_array(folder / "train_target.npy")
    _require_inputs(folder / "train_x.npy", x)
    if len(x) != len(target) or len(x) == 0:
        raise ValueError(
            f"{folder / 'train_target.npy'}: expected one target for each of the examples, of "
            f"which there are {len(x)}, got shape {target.shape}"
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
    preparation = _preparation(folder, x.shape[1:], names)
    weighs = (folder / "train_weights.npy").exists()
    weights = _weights(folder, "train", len(x)) if weighs else None
    train = Dataset(x, target, preparation.feature_names, names, weights=weights)
    test = _in_memory(folder, "test", train)
    validation = train._replace(x=np.zeros((0, *x.shape[1:]), x.dtype), target=target[:0])
    validation = validation._replace(weights=None if weights is None else weights[:0])
    if (folder / "validation_x.npy").exists() and len(map_array(folder / "validation_x.npy")):
        validation = _in_memory(folder, "validation", train)
    sampled = x[np.linspace(0, len(x) - 1, _SAMPLED).astype(int)]
    whole = [array for part in (validation, test) for array in part[:2]]
    whole += [part.weights for part in (train, validation, test) if part.weights is not None]
    source = Source(digest(names, x.shape, sampled, target, *whole), digest("mapped", len(x)))
    return Splits(train, validation, test, preparation, source)


def _preparation(folder: Path, shape: tuple[int, ...], names: tuple[str, ...]) -> Preparation:
    found, facts = preparation_of(folder), folder / PREPARATION[0]
    if found is None:
        return Preparation(shape, class_names=names)
    given = found.network_shape
    if given != shape or found.class_names != names:
        raise ValueError(
            f"{facts}: expected a preparation of examples of shape {shape} of the classes "
            f"{listed(names) or 'none'}, got one of {given} and "
            f"{listed(found.class_names) or 'none'}"
        )
    return found


def _in_memory(folder: Path, name: str, train: Dataset) -> Dataset:
    path = folder / f"{name}_x.npy"
    x, target = np.array(map_array(path)), np.array(map_array(folder / f"{name}_target.npy"))
    _require_inputs(path, x)
    expected = train.x.shape[1:]
    if x.shape[1:] != expected:
        raise ValueError(f"{path}: expected examples of shape {expected}, got {x.shape[1:]}")
    found = make_dataset(str(path), x, target, train.feature_names, train.class_names)
    weighs = train.weights is not None
    return found._replace(weights=_weights(folder, name, len(x)) if weighs else None)


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
