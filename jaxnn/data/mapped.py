"""Data sets larger than the memory: .npy files that are mapped, and read where they are used."""

from pathlib import Path

import numpy as np

from jaxnn.data.dataset import Dataset, make_dataset, validate_labels
from jaxnn.data.npy import map_array, read_strings
from jaxnn.data.splitting import IDENTITY, Splits

CLASS_NAMES = "class_names.npy"


def write_mapped(splits: Splits, folder: str | Path) -> Path:
    """Write splits as .npy files that `map_splits` reads: {train,validation,test}_{x,target}.npy.

    Each split is written by itself, so that a part of it can be larger than the memory if it is a
    `numpy.memmap`. The standardisation of the splits is in their x, and not kept apart.

    Raises:
        FileExistsError: ``folder`` exists and is not empty.
        OSError: it cannot be written.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"write_mapped: expected {folder} to be a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        np.save(folder / f"{name}_x.npy", part.x, allow_pickle=False)
        np.save(folder / f"{name}_target.npy", part.target, allow_pickle=False)
    if splits.train.class_names:
        np.save(folder / CLASS_NAMES, np.asarray(splits.train.class_names), allow_pickle=False)
    return folder


def map_splits(folder: str | Path) -> Splits:
    """Splits from a folder as `write_mapped` leaves it, whose training examples stay on disk.

    x must be float32 [examples, ...], targets int32 labels (there is class_names.npy) or float32
    [examples, outputs]. Validation may be missing; it and the test are read into memory, and all
    labels are checked. That training inputs are finite is not: it would read them all.

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
    train = Dataset(x, target, (), names)
    test = _in_memory(folder, "test", x, names)
    validation = train._replace(x=np.zeros((0, *x.shape[1:]), x.dtype), target=target[:0])
    if (folder / "validation_x.npy").exists() and len(map_array(folder / "validation_x.npy")):
        validation = _in_memory(folder, "validation", x, names)
    return Splits(train, validation, test, IDENTITY, IDENTITY)


def _in_memory(folder: Path, name: str, like: np.ndarray, class_names: tuple) -> Dataset:
    path = folder / f"{name}_x.npy"
    x, target = np.array(map_array(path)), np.array(map_array(folder / f"{name}_target.npy"))
    _require_inputs(path, x)
    if x.shape[1:] != like.shape[1:]:
        raise ValueError(f"{path}: expected examples of shape {like.shape[1:]}, got {x.shape[1:]}")
    return make_dataset(str(path), x, target, (), class_names)


def _require_inputs(path: Path, x: np.ndarray) -> None:
    if x.dtype != np.float32 or x.ndim < 2:
        raise TypeError(
            f"{path}: expected float32 of shape [examples, ...], got {x.dtype} of shape {x.shape}"
        )
