"""`map_table`: a table larger than the memory, as a folder of .npy files that training reads from.

Piece by piece its cells are brought to numbers, which go to the disk; and from there, once it is
known what the rows for training are like, to the features of every part.
"""

import contextlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.cache import cache_folder, identity_of, unchanged
from jaxnn.data.dataset import Dataset, require_two_classes
from jaxnn.data.digests import digest
from jaxnn.data.encoding import BY_DEFAULT, Embedded
from jaxnn.data.files import examples_like, require_file, require_task
from jaxnn.data.loading import (
    AUTO,
    draw,
    require_embedded,
    require_options,
    require_prepared,
    require_some_weight,
    standardizing,
    told,
)
from jaxnn.data.mapped import (
    PARTS,
    SOURCE,
    make_empty,
    map_splits,
    new_mapped,
    write_preparation,
    write_targets,
)
from jaxnn.data.preparation import Preparation, fit_at
from jaxnn.data.splitting import Splits, take
from jaxnn.data.tables.piecewise import decode_pieces, slices
from jaxnn.data.tables.reading import FOUND, Reading
from jaxnn.data.tidying import most_bytes, tidy, unfinished, use

VERSION = 2  # changes when the same file would be mapped to something else


def load_table(path: str | os.PathLike[str], **options: Any) -> Splits:
    """The splits of a table, mapped from a folder in the cache that `map_table` writes once.

    It belongs to the file's path, size and time of modification, and to the options.
    """
    path = Path(path).expanduser()
    require_file(path)
    cache, test = cache_folder(), options.get("test")
    other = () if test is None else (str(test), Path(test).expanduser().stat().st_mtime_ns)

    def folder_of(options: dict[str, Any]) -> Path:
        facts = ("mapped", VERSION, *other, sorted(options.items()))
        return cache / identity_of(path, facts)

    folder = folder_of(options)
    while not use(folder):  # from now on nobody throws it away
        _write_entry(path, folder, options)
    splits = map_splits(folder)
    if options.get("standardize") == AUTO:  # a run that is resumed says what that has become
        scaled = not splits.preparation.target_standardization.is_identity
        found = folder_of(options | {"standardize": "features", "standardize_target": scaled})
        with contextlib.suppress(OSError):
            found.symlink_to(folder.name, target_is_directory=True)
    return splits


def _write_entry(path: Path, folder: Path, options: dict[str, Any]) -> None:
    cache = folder.parent
    most_bytes()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with unfinished(cache) as work:
            made = map_table(path, work / "mapped", **options)
            with contextlib.suppress(FileNotFoundError):
                if folder.is_symlink():  # to what has been deleted
                    folder.unlink()
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
        tidy(cache, folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.filename in (str(path), str(options.get("test"))):  # which cannot be read
            raise
        raise OSError(
            f"{path}: expected a folder that can be written for what is mapped of it, got {cache}: "
            f"{error.strerror or error}: say another with $JAXNN_CACHE"
        ) from error


def map_table(
    path: str | os.PathLike[str],
    folder: str | Path,
    *,
    target: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    task: str | None = None,
    prefer_numbers: bool = False,
    test: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    stratify: bool = True,
    groups: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    standardize: str = "none",
    standardize_target: bool = False,
    missing: str = "fill",
    embedded: Embedded = BY_DEFAULT,
    reading: Reading = FOUND,
) -> Path:
    """Write a table, split and prepared as `jaxnn.data.load` does it, a piece at a time.

    What the columns are is found out on the first piece (65,536 rows), and so is whether whole
    numbers are too many to be classes; what does not fit it below is refused with its line. The
    table is read from the start again where a piece shows that those before it were read otherwise
    than it has to be: where numbers follow words, say, or fractions whole targets.
    `jaxnn.data.map_splits` reads the folder. In memory are a few pieces, the targets, and some
    columns at a time; on the disk, beside the folder, the cells as float64 until it is done. A file
    in ``test`` is read into memory, as validation and test examples are when the folder is mapped.

    Args:
        path: The table.
        folder: A new or empty folder; the other arguments are those of `jaxnn.data.load`.

    Raises:
        ValueError, FileNotFoundError: As `jaxnn.data.load` does.
        FileExistsError: ``folder`` is not empty.
        OSError: It cannot be written.
    """
    path, columns = Path(path).expanduser(), (target,) if isinstance(target, str) else target
    require_options(test_fraction, validation_fraction, seed)
    require_task(path, task)
    require_prepared("load", standardize, missing, embedded)
    folder = make_empty(folder)
    reading = reading.saying_categories(embedded.columns)
    with unfinished(folder.parent) as work:
        given = tuple(columns) if columns else None
        wanted = (inputs,) if isinstance(inputs, str) else inputs
        how = given, wanted, task, reading, groups, prefer_numbers, weights
        with unchanged(path):
            examples = decode_pieces(path, work / "cells", *how)
        standardize, standardize_target = standardizing(examples, standardize, standardize_target)
        require_two_classes(f"load: {path}", examples)
        own_test = None
        if test is not None:
            other = Path(test).expanduser()
            own_test = examples_like(examples, other, target, inputs, reading, weights)
        indices = draw(examples, own_test, test_fraction, validation_fraction, None, seed, stratify)
        facts = {"data": digest(*told(examples), *([] if own_test is None else told(own_test)))}
        facts["split"] = digest(*indices)
        numbered = examples._replace(x=np.arange(len(examples.target)))
        parts = [take(numbered, index) for index in indices]
        require_some_weight(f"load: {path}", [*parts, *([] if own_test is None else [own_test])])
        require_embedded(path, examples.columns, embedded.columns)
        how = standardize, standardize_target
        preparation = fit_at(examples, indices[0], *how, missing, embedded)
        for name, part in zip(PARTS, parts, strict=False):
            weighs = weights is not None
            _write(str(path), folder, name, examples.x, part, preparation, weighs=weighs)
        if own_test is not None:
            prepared = preparation.apply(str(test), own_test)
            for array, x in preparation.apart(prepared.x).items():
                np.save(folder / f"test_{array}.npy", x, allow_pickle=False)
            write_targets(folder, "test", prepared, weighs=weights is not None)
        write_preparation(folder, preparation)
        (folder / SOURCE).write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _write(
    where: str,
    folder: Path,
    name: str,
    x: np.ndarray,
    part: Dataset,
    preparation: Preparation,
    *,
    weighs: bool,
) -> None:
    """The features of a part, whose x are numbers of rows."""
    out: dict[str, Any] = {}
    count = len(part.target)
    for array, one in preparation.apart(preparation.sample()).items():
        file, shape = folder / f"{name}_{array}.npy", (count, *one.shape[1:])
        if count:
            out[array] = new_mapped(file, one.dtype, shape)
        else:
            np.save(file, np.zeros(shape, one.dtype), allow_pickle=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for rows in slices(count):
            prepared = preparation.inputs(where, x[part.x[rows]])
            for array, values in preparation.apart(prepared).items():
                out[array][rows] = values
    for message in {re.sub(r": [0-9]+ cells", ": cells", str(each.message)) for each in said}:
        warnings.warn(message, stacklevel=3)
    if not part.class_names:
        part = part._replace(target=preparation.targets(where, part.target))
    write_targets(folder, name, part, weighs=weighs)
