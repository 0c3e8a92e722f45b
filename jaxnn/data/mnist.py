"""MNIST and Fashion-MNIST: four IDX files each, from a folder or downloaded."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnn.data import idx
from jaxnn.data.cache import cached
from jaxnn.data.dataset import Dataset, make_dataset
from jaxnn.data.optional import require_library


class Files(NamedTuple):
    """One for each of the four files of such a data set."""

    train_images: str
    train_labels: str
    test_images: str
    test_labels: str


class _Source(NamedTuple):
    url: str
    sha256: Files
    class_names: tuple[str, ...]
    installed: Path | None = None


FILES = Files(
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

MNIST = {
    "mnist": _Source(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        Files(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        tuple("0123456789"),
    ),
    "fashion_mnist": _Source(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        Files(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        Path("/usr/share/datasets/fashion-mnist"),  # Debian's dataset-fashion-mnist
    ),
}

_SIDE = 28
_LARGEST_PIXEL = 255


def read_mnist(name: str, folder: str | Path | None) -> tuple[Dataset, Dataset]:
    """(training examples, test examples) with images [n, 28, 28, 1] in [0, 1].

    The files, gzip-compressed or not, are looked for in ``folder``, or if that is None in the
    folder $JAXNN_DATA and then where a Debian package installs them; in each of these first in a
    folder called ``name``. Found nowhere, they are downloaded and checked by their SHA-256.

    Raises:
        FileNotFoundError: no files and no network; or some of the four files are missing.
        ValueError: a file is not what its name says.
    """
    files = [Path(file) for file in _find(name, folder) or _download(name)]
    train, test = (_read_pair(name, *pair) for pair in (files[:2], files[2:]))
    return train, test


def _find(name: str, folder: str | Path | None) -> list[Path] | None:
    if folder is not None:
        folder = Path(folder).expanduser()
        found = _files_in(name, folder)
        if found is None:
            raise FileNotFoundError(
                f"{name}: expected {FILES.train_images}[.gz] and its three companions in "
                f"{folder} or {folder / name}, got a folder without them"
                if folder.is_dir()
                else f"{name}: expected a folder, got {folder}, which is none"
            )
        return found
    chosen, installed = os.environ.get("JAXNN_DATA"), MNIST[name].installed
    places = [Path(chosen).expanduser()] if chosen else []
    if chosen and not places[0].is_dir():
        raise FileNotFoundError(f"{name}: expected JAXNN_DATA to name a folder, got {chosen!r}")
    places += [installed] if installed else []
    return next((found for place in places if (found := _files_in(name, place))), None)


def _files_in(name: str, folder: Path) -> list[Path] | None:
    """The four files in ``folder/name`` or ``folder``; None where there is none of them."""
    for place in (folder / name, folder):
        # Some copies have ".idx3-ubyte" in place of "-idx3-ubyte".
        names = [(file, file.replace("-idx", ".idx")) for file in FILES]
        candidates = [[place / f"{n}{end}" for n in pair for end in ("", ".gz")] for pair in names]
        found = [next((c for c in few if c.is_file()), None) for few in candidates]
        missing = [file for file, path in zip(FILES, found, strict=True) if path is None]
        if not missing:
            return [path for path in found if path is not None]
        if len(missing) < len(FILES):
            raise FileNotFoundError(
                f"{name}: expected four files in {place}, got all but "
                f"{', '.join(missing)} (each may end in .gz)"
            )
    return None


def _download(name: str) -> list[str]:
    pooch = require_library("pooch", f"downloading {name}")
    source, folder = MNIST[name], Path(pooch.os_cache("jaxnn")) / name
    try:
        return [
            pooch.retrieve(
                f"{source.url}{file}.gz",
                known_hash=f"sha256:{sha256}",
                fname=f"{file}.gz",
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=10),
            )
            for file, sha256 in zip(FILES, source.sha256, strict=True)
        ]
    except OSError as error:
        raise FileNotFoundError(_how_to_get(name, folder, error)) from error


def _how_to_get(name: str, downloads: Path, error: OSError) -> str:
    ways = [
        f"{name}: found no files and could not download them ({error}). Any of these helps:",
        f"- a network: they are downloaded once, from {MNIST[name].url} to {downloads}",
        f"- the files {', '.join(FILES)} (each may end in .gz) in a folder that the argument "
        f"`folder` or the environment variable JAXNN_DATA names, or in its subfolder {name}",
        "- for fashion_mnist, on Debian and Ubuntu: apt-get install dataset-fashion-mnist",
    ]
    return "\n".join(ways)


def _read_pair(name: str, images_path: Path, labels_path: Path) -> Dataset:
    images = _read_cached(images_path, rank=3)
    labels = _read_cached(labels_path, rank=1)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{images_path}: expected images of {_SIDE} by {_SIDE} pixels, got {images.shape[1:]}"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_path}: expected {len(images)} labels, one for each image of {images_path}, "
            f"got {len(labels)}"
        )
    x = np.divide(images, _LARGEST_PIXEL, dtype=np.float32)[..., np.newaxis]
    return make_dataset(str(labels_path), x, labels, (), MNIST[name].class_names)


def _read_cached(path: Path, rank: int) -> np.ndarray:
    def decode():
        return {"array": idx.read_idx(path, rank=rank, dtype="uint8")}

    return cached(path, decode, "idx", idx.VERSION, rank)["array"]
