"""`map_table`: a table larger than the memory, as a folder of .npy files that training reads from.

Piece by piece its cells are brought to numbers, which go to the disk; and from there, once it is
known what the rows for training are like, to the features of every part.
"""

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.cache import cache_folder, identity_of, unchanged
from jaxnn.data.dataset import Dataset, require_two_classes
from jaxnn.data.digests import digest
from jaxnn.data.encoding import BY_DEFAULT, Embedded
from jaxnn.data.files import (
    examples_like,
    feature_columns,
    kept_as_text,
    require_file,
    require_task,
)
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
from jaxnn.data.tables.columns import Column, may_be_other
from jaxnn.data.tables.features import column_of, read_categories, read_columns
from jaxnn.data.tables.numerals import INTEGER
from jaxnn.data.tables.pieces import ReadAgain
from jaxnn.data.tables.reading import FOUND, Reading
from jaxnn.data.tables.table import table_pieces
from jaxnn.data.tables.targets import are_many, has_fractions, read_target, read_weights
from jaxnn.data.tidying import most_bytes, tidy, unfinished, use

VERSION = 2  # changes when the same file would be mapped to something else
_ROWS = 1 << 16
"""How many rows are brought to features at a time."""


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
        texts, aside = kept_as_text(reading, given, groups, weights)
        options = (given, wanted, reading, groups, prefer_numbers, weights, aside)
        with unchanged(path):
            examples, settled = None, {}
            while examples is None:
                try:
                    examples = _decode(path, work, texts, task, settled, *options)
                except ReadAgain as again:
                    texts, task = (*dict.fromkeys((*texts, *again.as_text)),), again.task or task
                    seeking = (*aside, *(wanted or ()))
                    for name in again.unsettled:
                        settled[name] = column_of(path, reading, texts, seeking, name)
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


def _decode(
    path: Path,
    work: Path,
    texts: tuple[str, ...],
    said: str | None,
    settled: dict[str, Column],
    targets: tuple[str, ...] | None,
    inputs: Sequence[str] | None,
    reading: Reading,
    groups: str | None,
    prefer_numbers: bool,
    weights: str | None,
    aside: tuple[str, ...],
) -> Dataset:
    """The examples, whose cells are in a file that is mapped; or what `ReadAgain` says."""
    task = said
    found: dict[str, list[np.ndarray]] = {"target": [], "groups": [], "weights": []}
    classes, of_groups = _Codes(), _Codes()
    columns: list[Column] = []
    categories: dict[str, _Codes] = {}
    with (work / "cells").open("wb") as file:
        wanted = (*aside, *(inputs or ()))
        pieces = 0
        for piece in table_pieces(path, reading, texts, wanted, aside, _ROWS, [*settled]):
            pieces += 1
            if not columns:
                names = feature_columns(piece, targets, inputs, groups, weights)
                told = read_columns(piece, [name for name in names if name not in settled])[0]
                by_name = {column.name: column for column in told} | settled
                columns = [by_name[name] for name in names if name in by_name]
                empty = [c.name for c in told if c.kind == "category" and not c.values]
                if unsaid := [name for name in empty if not reading.kind_of(name)]:
                    raise ReadAgain(unsettled=unsaid)
                if not columns:
                    raise ValueError(f"{path}: expected columns that are not dropped, got none")
                categories = {c.name: _Codes() for c in columns if c.kind == "category"}
            target, kept = read_target(piece, targets or (), task, prefer_numbers=prefer_numbers)
            task = target.task or task
            x = np.empty((len(kept), len(columns)))
            plain = [place for place, c in enumerate(columns) if c.name not in categories]
            known = [columns[place] for place in plain]
            x[:, plain] = read_columns(piece, [c.name for c in known], known)[1] if known else 0
            for place, column in enumerate(columns):
                if column.name in categories:
                    values, cells = read_categories(piece, column.name)
                    x[:, place] = categories[column.name].renumber(values, cells)
            if not kept.any():
                continue
            file.write(np.ascontiguousarray(x[kept]).data)
            own = target.values
            if target.class_names:
                assert targets is not None
                if said is None and has_fractions(piece, targets[0], target.class_names):
                    raise ReadAgain(task="regression")
                own = classes.renumber(target.class_names, own).astype(np.int32)
            found["target"].append(own)
            if groups:
                names = piece.texts(groups)
                of_groups.renumber([name for name in names if name], np.zeros(0))
                own = np.array([of_groups.values.get(name, -1) for name in names])
                found["groups"].append(own[kept])
            if weights:
                found["weights"].append(read_weights(piece, weights, kept))
    if not found["target"]:
        raise ValueError(f"{path}: expected rows with a target, got none")
    joined = {name: np.concatenate(arrays) for name, arrays in found.items() if arrays}
    labels, class_names, count = joined["target"], (), len(joined["target"])
    if classes.values:
        whole = all(map(INTEGER.fullmatch, classes.values))
        if whole and said is None and are_many(len({*map(int, classes.values)}), count):
            raise ReadAgain(task="regression")
        class_names, places = classes.in_order(whole=whole)
        labels = places[labels].astype(np.int32)
    x = np.memmap(work / "cells", np.float64, "r+", shape=(count, len(columns)))
    for place, column in enumerate(columns):
        if column.name in categories:
            values, places = categories[column.name].in_order()
            columns[place] = column._replace(values=values)
            new = np.append(places.astype(float), np.nan)
            for rows in _slices(count):
                cells = x[rows, place]
                x[rows, place] = new[np.where(np.isnan(cells), -1, cells).astype(int)]
    for column in columns if pieces > 1 else ():
        if column.name in settled or reading.kind_of(column.name) or not may_be_other(column):
            continue
        if column_of(path, reading, texts, wanted, column.name) != column:
            raise ReadAgain(unsettled=(column.name,))
    return Dataset(
        x,
        labels if class_names else labels.reshape(count, -1),
        tuple(column.name for column in columns),
        class_names,
        () if class_names else targets or (),
        "labels" if task == "labels" else "",
        tuple(columns),
        groups=joined.get("groups"),
        weights=joined.get("weights"),
    )


class _Codes:
    """Names in the order in which they are met."""

    def __init__(self):
        self.values: dict[str, int] = {}

    def renumber(self, names: Sequence[str], codes: np.ndarray) -> np.ndarray:
        """Codes of these names as codes of all that have been met; NaN stays."""
        places = [self.values.setdefault(name, len(self.values)) for name in names]
        table = np.append(np.array(places, float), np.nan)
        return table[np.where(np.isnan(codes), -1, codes).astype(int)]

    def in_order(self, *, whole: bool = False) -> tuple[tuple[str, ...], np.ndarray]:
        """The names in the order of the text or of the whole numbers that they are; and the
        place of each code among them."""
        names = [str(int(name)) if whole else name for name in self.values]  # 01 is a 1
        ordered = sorted({*names}, key=int if whole else None)
        place = {name: number for number, name in enumerate(ordered)}
        return tuple(ordered), np.array([place[name] for name in names], int)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


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
        for rows in _slices(count):
            prepared = preparation.inputs(where, x[part.x[rows]])
            for array, values in preparation.apart(prepared).items():
                out[array][rows] = values
    for message in {re.sub(r": [0-9]+ cells", ": cells", str(each.message)) for each in said}:
        warnings.warn(message, stacklevel=3)
    if not part.class_names:
        part = part._replace(target=preparation.targets(where, part.target))
    write_targets(folder, name, part, weighs=weighs)
