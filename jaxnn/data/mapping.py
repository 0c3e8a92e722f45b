"""`map_images`: more images than fit into the memory, as a folder of .npy files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.core.validation import require_boolean
from jaxnn.data.dataset import require_two_classes
from jaxnn.data.images import Pixels, decode, examples_like, find_examples
from jaxnn.data.loading import (
    AUTO,
    draw,
    require_options,
    require_some_weight,
    standardizing,
)
from jaxnn.data.mapped import PARTS, make_empty, new_mapped, write_preparation, write_targets
from jaxnn.data.preparation import fit, require_standardization
from jaxnn.data.splitting import take
from jaxnn.data.tables.reading import FOUND, Reading

_CHUNK = 256
"""How many images are in memory at a time."""


def map_images(
    name: str | Path,
    folder: str | Path,
    *,
    images: str | None = None,
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    prefer_numbers: bool = False,
    test: str | Path | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    stratify: bool = True,
    groups: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    standardize: str = "none",
    standardize_target: bool = False,
    reading: Reading = FOUND,
    size: tuple[int, int] | None = None,
    colors: str = "",
) -> Path:
    """Write images, split and standardised as `jaxnn.data.load` does it, a few hundred at a time.

    `jaxnn.data.map_splits` reads the folder. Images stay images: nothing is flattened. A file in
    ``test`` is read into memory, as validation and test examples are when the folder is mapped.

    Args:
        name: The folder of the images, or the table of their paths.
        folder: A new or empty folder; the other arguments are those of `jaxnn.data.load`.

    Raises:
        ValueError, FileNotFoundError: As `jaxnn.data.load` does.
        FileExistsError: ``folder`` is not empty.
        OSError: It cannot be written.
    """
    require_options(test_fraction, validation_fraction, seed)
    require_boolean("map_images", "standardize_target", standardize_target)
    if standardize != AUTO:
        require_standardization("map_images", standardize)
    path, columns = Path(name).expanduser(), (target,) if isinstance(target, str) else target
    files, examples, shape, _ = find_examples(
        path,
        images,
        columns,
        size=size,
        colors=colors,
        task=task,
        reading=reading,
        groups=groups,
        prefer_numbers=prefer_numbers,
        weights=weights,
    )
    standardize, standardize_target = standardizing(examples, standardize, standardize_target)
    require_two_classes(f"map_images: {name}", examples)
    own_test = None
    if test is not None:
        other = Path(test).expanduser()
        own_test = examples_like(examples, shape, other, images, columns, reading, weights)
    indices = draw(examples, own_test, test_fraction, validation_fraction, None, seed, stratify)
    numbered = examples._replace(x=np.arange(len(files)))
    parts = [take(numbered, index) for index in indices]
    parts += [] if own_test is None else [own_test]
    require_some_weight(f"map_images: {name}", parts)
    folder = make_empty(folder)
    for place, part in enumerate(PARTS[: len(indices)]):
        own = [files[i] for i in parts[place].x]
        x = _decoded(folder / f"{part}_x.npy", own, shape, examples.images)
        parts[place] = parts[place]._replace(x=x)
    preparation = fit(parts[0], standardize, standardize_target, flatten=False)
    for name, part in zip(PARTS, parts, strict=True):
        if not examples.class_names:
            part = part._replace(target=preparation.targets(str(path), part.target))
        write_targets(folder, name, part, weighs=weights is not None)
        x = part.x
        if not isinstance(x, np.memmap):
            prepared = preparation.standardization.apply(x)
            np.save(folder / f"{name}_x.npy", prepared, allow_pickle=False)
            continue
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            x[rows] = preparation.standardization.apply(x[rows])
        x.flush()
    write_preparation(folder, preparation)
    return folder


def _decoded(
    path: Path, files: Sequence[Path], shape: tuple[int, int, int], pixels: Pixels
) -> np.ndarray:
    """The pixels of images in a file that is mapped; of none, in memory."""
    if not files:
        return np.zeros((0, *shape), np.float32)
    x = new_mapped(path, np.float32, (len(files), *shape))
    for start in range(0, len(files), _CHUNK):
        some = files[start : start + _CHUNK]
        x[start : start + len(some)] = decode(some, shape, pixels)
    return x
