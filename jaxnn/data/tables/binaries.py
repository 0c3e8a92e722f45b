"""Tables in Parquet, Feather or a sheet of Excel, at once or so many rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.optional import require_library
from jaxnn.data.tables.errors import not_whole, require_distinct
from jaxnn.data.tables.reading import BINARIES, suffix_of


def read_binary(path: Path) -> Any:
    """The whole as pandas has it; raises ValueError where a column is not of single values."""
    import pandas as pd

    read = BINARIES[suffix_of(path)]
    library = "openpyxl" if read == "read_excel" else "pyarrow"
    require_library(library, f"reading the table {path}")
    try:
        frame = getattr(pd, read)(path)
    except Exception as error:  # each of these libraries has errors of its own
        raise not_whole(path, error) from error
    return _checked(path, frame)


def binary_frames(path: Path, rows: int) -> Iterator[Any]:
    """The same in frames of at most so many rows."""
    import pandas as pd

    match BINARIES[suffix_of(path)]:
        case "read_parquet":
            batches = _parquet_batches(path, rows)
        case "read_feather":
            batches = _arrow_batches(path, rows)
        case _:  # a sheet has no more than 1,048,576 rows, and is read at once
            whole = read_binary(path)
            for start in range(0, len(whole), rows):
                yield whole.iloc[start : start + rows].reset_index(drop=True)
            return
    try:
        for batch in batches:
            yield _checked(path, batch.to_pandas())
    except (OSError, ArithmeticError, pd.errors.OutOfBoundsDatetime) as error:
        raise not_whole(path, error) from error


def _parquet_batches(path: Path, rows: int) -> Iterator[Any]:
    parquet = require_library("pyarrow.parquet", f"reading the table {path}")
    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches(rows)


def _arrow_batches(path: Path, rows: int) -> Iterator[Any]:
    arrow = require_library("pyarrow", f"reading the table {path}")
    try:
        with arrow.OSFile(str(path)) as file, arrow.ipc.open_file(file) as reader:
            for place in range(reader.num_record_batches):
                batch = reader.get_batch(place)
                for start in range(0, len(batch), rows):
                    yield batch.slice(start, rows)
    except arrow.ArrowException as error:
        raise not_whole(path, error) from error


def _checked(path: Path, frame: Any) -> Any:
    """The frame, once its columns are found to be as a table has them."""
    import pandas as pd

    names = [str(name) for name in frame.columns]
    require_distinct(path, names)
    for place, name in enumerate(names):
        cells = frame.iloc[:, place]
        first = cells.first_valid_index() if cells.dtype == object else None
        if isinstance(of := cells.get(first), list | tuple | dict | set | np.ndarray):
            raise ValueError(
                f"{path}: column {name!r}: expected single values, got {type(of).__name__}: leave "
                "it out when the file is written"
            )
    frame.columns = pd.Index(names, dtype=object)
    return frame.reset_index(drop=True)
