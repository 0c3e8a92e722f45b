"""What the columns of a table hold: kinds, found out or given, and numbers for every cell."""

import re
import shlex
import warnings
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.tables.numerals import LARGEST_EXACT, as_numbers

KINDS = ("number", "boolean", "category", "date", "drop")
MOST_CATEGORIES = 100
"""A column of words with more different ones is text, unless it is said to be a category, or there
are on average"""
ROWS_EACH = 20
"""rows of each."""
MISSING = frozenset(
    ("", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "?", "nat", "#null!", "-")
)
TRUE, FALSE = frozenset(("true", "yes", "t", "y")), frozenset(("false", "no", "f", "n"))
# Day and month first: which of the two a table means must follow from its cells, or be said.
DATE_FORMATS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d")
TIMES = ("", " %H:%M", " %H:%M:%S")
_LONGEST_CATEGORY = 200
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?")


class Column(NamedTuple):
    """One column of a table: what its cells were and which numbers stand for them."""

    name: str
    kind: str
    """One of `KINDS`: numbers as they are, booleans as 0 and 1, categories as their place among
    ``values``, dates as seconds since 1970, durations as seconds. NaN stands for an empty cell."""
    values: tuple[str, ...] = ()
    """Of categories: those of the file, in order."""
    format: str = ""
    """Of dates, where it is not ISO 8601; of numbers, "," where that is decimal, and so 1.234 is no
    fraction in other files of the same columns."""


class BadCell(ValueError):
    """A cell that does not fit its column; who knows the file adds where it is, and its text."""

    def __init__(self, row: int, expected: str, hint: str = ""):
        super().__init__(f"expected {expected}{hint}")
        self.row, self.expected, self.hint = row, expected, hint


def warn_rounded(name: str, numbers: Any) -> None:
    """Warn of whole numbers that float64 cannot tell apart."""
    if len(numbers) and max(abs(int(numbers.min())), abs(int(numbers.max()))) > LARGEST_EXACT:
        warnings.warn(
            f"column {name!r} has whole numbers of more than 15 digits, of which the last are "
            f"lost; --data.kinds {shlex.quote(f'{name}=drop')} leaves it out",
            stacklevel=4,
        )


def read_column(name: str, cells: Any, decimal: str, known: Column | None, kind: str) -> tuple:
    """(`Column`, float64 numbers) of a pandas Series of texts or of values of its own.

    Args:
        name: Its name.
        cells: The Series.
        decimal: "." or ",".
        known: The column of the training data, if these are other examples of it.
        kind: What it is said to be; "" to find out.

    Raises:
        BadCell: A cell is not what the others are.
        ValueError: It is text.
    """
    kind, _, form = (f"{known.kind}:{known.format}" if known else kind).partition(":")
    if kind == "drop":
        return Column(name, kind), None
    if not kind and str(cells.dtype) == "category":
        kind = "category"  # pandas was told so
    if not is_text(cells):
        found = _typed(name, cells)
        if kind in ("", found[0].kind) or (kind, found[0].kind) == ("number", "boolean"):
            return found
        if kind == "boolean" and np.isin(found[1][~np.isnan(found[1])], (0, 1)).all():
            return Column(name, kind), found[1]
        cells = as_texts(cells)
    given, places = _different(cells)
    if kind in ("", "number"):
        numbers = as_numbers(given, decimal)
        bad = ~np.isfinite(numbers)
        share = float(np.mean(bad[places[places >= 0]])) if len(given) else 1.0
        if kind == "number" or share < 0.5:
            _refuse_first(given, bad, "a finite number", kind)
            warn_rounded(name, numbers[np.asarray(given.str.fullmatch(r"[+-]?\d{16,}"), bool)])
            return Column(name, "number"), _scatter(numbers, places)
    if kind in ("", "boolean"):
        words = given.str.lower()
        truth, lie = (
            np.asarray(words.isin([*said, *([number] if kind else [])]), bool)
            for said, number in ((TRUE, "1"), (FALSE, "0"))
        )
        if kind or (len(given) and (truth | lie).all() and truth.any() and lie.any()):
            _refuse_first(given, ~(truth | lie), "true or false, yes or no", kind)
            return Column(name, "boolean"), _scatter(truth.astype(float), places)
    if kind in ("", "date"):
        form, seconds = _dates(name, given, form, required=kind == "date")
        if seconds is not None:
            return Column(name, "date", (), form), _scatter(seconds, places)
    return _category(name, given, places, known, bool(kind))


def _different(cells: Any) -> tuple[Any, np.ndarray]:
    """The texts that there are, without gaps, each once, in the order of their first rows, which
    are the index; and [rows], the place of each cell among them, −1 for a gap."""
    import pandas as pd

    codes, values = pd.factorize(cells)
    first = np.zeros(len(values), int)
    rows = np.flatnonzero(codes >= 0)[::-1]
    first[codes[rows]] = rows  # of several rows the last one that is written stays
    texts = pd.Series(values, index=first).astype("str").str.strip()
    is_given = ~np.asarray(texts.str.lower().isin(MISSING), bool)
    place = np.append(np.where(is_given, np.cumsum(is_given) - 1, -1), -1)
    return texts[is_given], place[codes]


def is_text(cells: Any) -> bool:
    """Whether a Series holds texts (or categories of them) in place of numbers, truth or dates."""
    return cells.dtype.kind not in "biufcmM"


def as_texts(cells: Any) -> Any:
    """Values that stand for categories as their texts, each by itself: a whole number has no
    fraction (3.0 is a 3 between empty cells), and a truth value is a word."""
    if cells.dtype.kind == "f":
        cells = cells.map(
            lambda v: f"{v:.0f}" if float(v).is_integer() else repr(float(v)), na_action="ignore"
        )
    return cells.astype("str")


def _typed(name: str, cells: Any) -> tuple[Column, np.ndarray]:
    """Of a Series that is no text."""
    kind = cells.dtype.kind
    if kind == "M":
        import pandas as pd

        return Column(name, "date"), _seconds(pd.to_datetime(cells, utc=True))
    if kind == "m":
        import pandas as pd

        return Column(name, "number"), np.asarray(cells / pd.Timedelta(seconds=1), np.float64)
    if kind == "c":
        way_out = shlex.quote(f"{name}=drop")
        raise ValueError(
            f"column {name!r}: expected numbers, words or dates, got {cells.dtype}; leave it out "
            f"with --data.kinds {way_out}"
        )
    if kind in "iu":
        warn_rounded(name, cells.dropna())
    numbers = cells.to_numpy(np.float64, na_value=np.nan)
    bad = np.isinf(numbers)
    if bad.any():
        raise BadCell(int(np.argmax(bad)), "a finite number")
    return Column(name, "boolean" if kind == "b" else "number"), numbers


def _refuse_first(given: Any, bad: np.ndarray, expected: str, kind: str) -> None:
    if bad.any():
        place = int(np.argmax(bad))
        hint = (
            ""
            if kind
            else (
                "; if its cells are words, say so, --data.kinds NAME=category, or leave the column "
                "out, NAME=drop"
            )
        )
        raise BadCell(int(given.index[place]), expected, hint)


def _scatter(numbers: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The number of each cell, NaN of a gap."""
    return np.append(numbers, np.nan)[places]


def _seconds(times: Any) -> np.ndarray:
    """Since 1970, of times in UTC."""
    import pandas as pd

    # Nanoseconds reach from 1677 to 2262 alone.
    start, second = pd.Timestamp(0, tz="UTC").as_unit("s"), pd.Timedelta(seconds=1).as_unit("s")
    return np.asarray((times - start) / second, np.float64)


def _dates(name: str, given: Any, form: str, *, required: bool) -> tuple[str, np.ndarray | None]:
    import pandas as pd

    def parsed(form: str) -> Any:
        how = form or "ISO8601"
        try:
            return pd.to_datetime(given, format=how, errors="coerce", utc=True)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"column {name!r}: expected dates, got: {error}") from None

    if not len(given):
        return form, np.zeros(0) if required else None
    if form or given.str.fullmatch(_ISO.pattern).all():
        times = parsed(form)
        _refuse_first(given, np.asarray(times.isna()), f"a date {form or 'such as 2024-12-31'}", "")
        return form, _seconds(times)
    # The first cell tells which forms are worth a try of the whole column.
    first, found = given.iloc[:1], {}
    for base in DATE_FORMATS:
        for time in TIMES:
            if pd.to_datetime(first, format=base + time, errors="coerce").notna().all() or (
                base.startswith(("%d", "%m"))
                and len(str(first.iloc[0])) > 5
                and re.match(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{4}", str(first.iloc[0]))
            ):
                times = parsed(base + time)
                if times.notna().all():
                    found[base + time] = times
    if len(found) > 1 and len({tuple(_seconds(times)) for times in found.values()}) > 1:
        raise ValueError(
            f"column {name!r}: expected dates that can be read in one way, got "
            f"{given.iloc[0]!r}, which {' and '.join(found)} both fit: say which, "
            f"--data.kinds '{name}=date:{next(iter(found))}'"
        )
    if found:
        form, times = next(iter(found.items()))
        return form, _seconds(times)
    if required:
        bad = ~np.asarray(given.str.fullmatch(_ISO.pattern), bool)
        _refuse_first(given, bad, "a date such as 2024-12-31", "date")
    return "", None


def may_be_other(column: Column) -> bool:
    """Whether a column that was told by a part of its cells, with the values of all of them, may be
    something else by all of its cells."""
    import pandas as pd

    if column.kind == "date":
        return bool(column.format)
    if column.kind != "category":
        return False
    values = pd.Series(column.values, dtype="str")
    return (
        not len(values)
        or len(values) > MOST_CATEGORIES
        or bool(values.str.lower().isin(TRUE | FALSE).all())
        or any(np.isfinite(as_numbers(values, decimal)).any() for decimal in ".,")
    )


def _category(
    name: str, given: Any, places: np.ndarray, known: Column | None, is_said: bool
) -> tuple[Column, np.ndarray]:
    import pandas as pd

    if known is not None and known.kind == "category":
        codes = pd.Index(known.values).get_indexer(given)
        return known, _scatter(np.where(codes < 0, np.inf, codes), places)
    codes, values = pd.factorize(given, sort=True)
    longest = max((len(value) for value in values), default=0)
    # Few words for many rows are categories; otherwise nearly every row has its own.
    count = int(np.count_nonzero(places >= 0))
    few = MOST_CATEGORIES if count >= 2 * MOST_CATEGORIES else max(count // 2, 10)
    most = max(few, count // ROWS_EACH)
    if longest > _LONGEST_CATEGORY or (len(values) > most and not is_said):
        found = (
            f"words of up to {longest} characters"
            if longest > _LONGEST_CATEGORY
            else (f"{len(values)} different ones, such as {str(given.iloc[0])!r}")
        )
        way_out = f"; leave it out with --data.kinds {shlex.quote(f'{name}=drop')}"
        if longest <= _LONGEST_CATEGORY:
            way_out += f", or take each as a category with {shlex.quote(f'{name}=category')}"
        raise ValueError(
            f"column {name!r}: expected numbers, dates or at most {most} different words of up to "
            f"{_LONGEST_CATEGORY} characters, got text: {found}{way_out}"
        )
    return Column(name, "category", tuple(map(str, values))), _scatter(codes.astype(float), places)
