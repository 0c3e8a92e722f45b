"""Columns of a table as features: fitted on the training examples, the same for all others."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import listed
from jaxnn.data.tables.columns import Column
from jaxnn.data.threads import in_threads

MISSING = ("fill", "frequent", "refuse")
"""How gaps are treated: filled by the median (the most frequent truth value; no category) beside a
feature that says so; filled by the most frequent value; refused."""
EMBED_ABOVE = 50
"""A column with more categories becomes an embedding, one with fewer is one-hot."""
_WIDEST = 50
_BLOCK = 1 << 12
_CELLS = 1 << 20
"""How many cells of some columns are looked at together by a thread."""
_DAY = 86400.0
_CYCLES = {"year": 365.2425 * _DAY, "week": 7 * _DAY}


class Embedded(NamedTuple):
    """Which columns of categories become codes, whose vectors a network learns (an embedding)."""

    columns: tuple[str, ...] = ()
    """These,"""
    above: int = EMBED_ABOVE
    """and those of which the file has more categories."""
    width: int = 0
    """The length of a vector; 0 for min(50, (n + 1) // 2) of n categories."""

    def width_of(self, column: Column) -> int:
        """The length of a column's vectors; 0 where it is none of these."""
        is_named, count = column.name in self.columns, len(column.values)
        if column.kind != "category" or not (is_named or count > self.above):
            return 0
        return self.width or max(min(_WIDEST, (count + 1) // 2), 1)


BY_DEFAULT = Embedded()


class Encoder(NamedTuple):
    """How one column becomes features.

    number, boolean   itself
    category          one feature for each value of the training examples, 1 where it is that
    … embedded        no feature, but an integer code: 0 for what no training example has, then one
                      for each category of the file, then one for gaps
    date              days since 1970; sine and cosine of the place in the year, in the week and, if
                      there are times, in the day
    """

    column: Column
    fill: float
    """What stands for a gap; NaN where gaps are refused."""
    says_gaps: bool
    """Whether a further feature is 1 where there was a gap."""
    values: tuple[str, ...] = ()
    """The categories with a feature."""
    has_times: bool = False
    width: int = 0
    """Of the vectors that are learned for its codes, where it is embedded; 0 where it is not."""

    @property
    def codes(self) -> int:
        """How many there are, where it is embedded; by the file, so that folds have the same."""
        return len(self.column.values) + 2

    @property
    def names(self) -> list[str]:
        """Of its features."""
        if self.width:
            return []
        name, gaps = self.column.name, [f"{self.column.name} missing"] * self.says_gaps
        if self.column.kind == "category":
            return [*(f"{name}={value}" for value in self.values), *gaps]
        if self.column.kind == "date":
            ends = [f"{cycle} {wave}" for cycle in self._cycles for wave in ("sine", "cosine")]
            return [f"{name} days", *(f"{name} {end}" for end in ends), *gaps]
        return [name, *gaps]

    @property
    def fills(self) -> bool:
        """Whether a gap gets a value that other cells have."""
        return bool(np.isfinite(self.fill))

    @property
    def _cycles(self) -> Mapping[str, float]:
        return _CYCLES | ({"day": _DAY} if self.has_times else {})

    def require_given(self, where: str, cells: np.ndarray) -> None:
        """Raise ValueError for gaps where they are refused."""
        if np.isnan(self.fill) and (gaps := np.isnan(cells)).any():
            raise ValueError(
                f"{where}: expected column {self.column.name!r} without empty cells, got "
                f"{int(gaps.sum())}, the first in row {int(np.argmax(gaps)) + 1} below the "
                "header: --data.missing fill takes them"
            )

    def write(self, cells: np.ndarray, features: np.ndarray) -> int:
        """The features of the cells into [examples, features]; returns how many of the cells are of
        categories without a feature."""
        gaps = np.isnan(cells)
        filled = np.where(gaps, self.fill, cells)
        if self.says_gaps:
            features[:, -1] = gaps
        if self.column.kind == "category":
            places = self._places
            features[:, : len(places)] = filled[:, np.newaxis] == places
            return int(np.count_nonzero(~(features[:, : len(places)].any(1) | gaps)))
        if self.column.kind == "date":
            features[:, 0] = filled / _DAY
            for place, length in enumerate(self._cycles.values()):
                angle = 2 * np.pi * (filled % length) / length
                features[:, 1 + 2 * place] = np.sin(angle)
                features[:, 2 + 2 * place] = np.cos(angle)
        else:
            features[:, 0] = filled
        return 0

    def look_up(self, cells: np.ndarray) -> tuple[np.ndarray, int]:
        """The codes of the cells, int32, and how many of the cells have that of no value."""
        gaps = np.isnan(cells)
        filled = np.where(gaps, self.fill, cells)
        code_of = np.zeros(len(self.column.values) + 1, np.int32)  # the last of what is not there
        code_of[self._places] = self._places + 1
        codes = code_of[np.where(np.isfinite(filled), filled, -1).astype(int)]
        if self.says_gaps:
            codes[gaps] = self.codes - 1
        return codes, int(np.count_nonzero((codes == 0) & ~gaps))

    @property
    def _places(self) -> np.ndarray:
        """Of ``values`` among those of the column."""
        known = {value: place for place, value in enumerate(self.column.values)}
        return np.array([known[value] for value in self.values], int)

    def describe(self) -> tuple[str, str, str, str]:
        """Name, kind, what becomes of it, and of its gaps, for people."""
        column, count = self.column, len(self.names)
        if self.width:
            gaps = "one of their own" if self.says_gaps else self._filling()
            becomes = f"embedding of {len(self.values)} and of others ({self.width})"
            return column.name, column.kind, becomes, gaps
        becomes = {
            "category": f"{len(self.values)} of one-hot",
            "date": "days, and waves of " + ", ".join(self._cycles),
        }.get(column.kind, "itself")
        gaps = self._filling() + ", and said so" * self.says_gaps
        return column.name, column.kind, f"{becomes} ({count})" if count > 1 else becomes, gaps

    def _filling(self) -> str:
        if not np.isfinite(self.fill):
            return "refused" if np.isnan(self.fill) else "as none"
        match self.column.kind:
            case "category":
                return self.column.values[int(self.fill)]
            case "date":
                return str(np.datetime64(int(self.fill), "s"))
        return f"{self.fill:.6g}"


def fit_encoders(
    x: np.ndarray,
    columns: tuple[Column, ...],
    missing: str,
    embedded: Embedded = BY_DEFAULT,
    index: np.ndarray | None = None,
) -> tuple[Encoder, ...]:
    """One for each column, by these training examples, or by those at ``index``: of some columns at
    a time, as many as are read together without much memory."""
    together = max(_CELLS // max(len(x if index is None else index), 1), 1)

    def fitted(start: int) -> list[Encoder]:
        some = slice(start, start + together)
        cells = x[:, some] if index is None else x[:, some][index]
        pairs = zip(cells.T, columns[some], strict=True)
        return [_fit(own, column, missing, embedded) for own, column in pairs]

    found = in_threads(fitted, range(0, len(columns), together))
    return tuple(encoder for some in found for encoder in some)


def encode(
    where: str, x: np.ndarray, encoders: tuple[Encoder, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Of examples whose columns are as the encoders': the features, float64 [examples, features],
    and the codes of each column that is embedded, int32 [examples]."""
    if is_plain(encoders) and np.isfinite(x).all():
        return x, ()
    has_gaps = np.asarray(np.isnan(x).any(0))
    gaps = [
        encoder.column.name
        for encoder, has in zip(encoders, has_gaps, strict=True)
        if has and not encoder.says_gaps and encoder.fills
    ]
    if gaps:
        warnings.warn(
            f"{where}: there are empty cells in {listed(gaps)}, which get what is typical in "
            "training, and no feature says so",
            stacklevel=2,
        )
    for place in np.flatnonzero(has_gaps):
        encoders[place].require_given(where, x[:, place])
    ends = np.cumsum([0, *(len(encoder.names) for encoder in encoders)])
    features, unknown, codes = np.empty((len(x), ends[-1])), [0] * len(encoders), []
    # Some rows at a time, which stay in the cache while they are written.
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        for place, encoder in enumerate(encoders):
            if not encoder.width:
                own = features[rows, ends[place] : ends[place + 1]]
                unknown[place] += encoder.write(x[rows, place], own)
    for place, encoder in enumerate(encoders):
        if encoder.width:
            own, unknown[place] = encoder.look_up(x[:, place])
            codes.append(own)
    for encoder, count in zip(encoders, unknown, strict=True):
        if count:
            become = "get the vector of others" if encoder.width else "count as none of the known"
            warnings.warn(
                f"{where}: {count} cells of column {encoder.column.name!r} are of categories that "
                f"no training example has: they {become}",
                stacklevel=2,
            )
    return features, tuple(codes)


def is_plain(encoders: tuple[Encoder, ...]) -> bool:
    """Whether every column is its only feature."""
    return all(
        not encoder.says_gaps and encoder.column.kind in ("number", "boolean")
        for encoder in encoders
    )


def _fit(cells: np.ndarray, column: Column, missing: str, embedded: Embedded) -> Encoder:
    gaps = np.isnan(cells)
    given = cells[~gaps]  # a copy, all in one place
    if column.kind == "category":
        counts = np.bincount(given.astype(int), minlength=len(column.values))
        values = tuple(value for value, count in zip(column.values, counts, strict=True) if count)
        fill = float(np.argmax(counts)) if missing == "frequent" and len(given) else np.inf
    else:
        values, fill = (), _typical(given, column.kind, missing)
    if missing == "refuse":
        fill = np.nan
    says_gaps = bool(gaps.any()) and missing == "fill"
    has_times = column.kind == "date" and bool(np.any(given % _DAY))  # in whatever order
    width = embedded.width_of(column)
    return Encoder(column, fill, says_gaps, values, has_times, width)


def _typical(given: np.ndarray, kind: str, missing: str) -> float:
    if not len(given):
        return 0.0
    if missing == "frequent" or kind == "boolean":
        values, counts = np.unique(given, return_counts=True)
        return float(values[np.argmax(counts)])
    return float(np.median(given, overwrite_input=True))


def to_facts(encoders: tuple[Encoder, ...]) -> list[dict[str, Any]]:
    """As JSON holds them."""
    facts = []
    for encoder in encoders:
        column = encoder.column._asdict() | {"values": list(encoder.column.values)}
        fill = (
            "none"
            if np.isinf(encoder.fill)
            else "refuse"
            if np.isnan(encoder.fill)
            else (encoder.fill)
        )
        own = {"fill": fill, "says_gaps": encoder.says_gaps, "has_times": encoder.has_times}
        own["width"] = encoder.width
        facts.append({**column, **own, "features_of": list(encoder.values)})
    return facts


def from_facts(facts: list[dict[str, Any]]) -> tuple[Encoder, ...]:
    """What `to_facts` wrote; raises KeyError, TypeError or ValueError where it is not."""
    fills = {"none": np.inf, "refuse": np.nan}
    return tuple(
        Encoder(
            Column(str(f["name"]), str(f["kind"]), tuple(map(str, f["values"])), str(f["format"])),
            fills[f["fill"]] if isinstance(f["fill"], str) else float(f["fill"]),
            bool(f["says_gaps"]),
            tuple(map(str, f["features_of"])),
            bool(f["has_times"]),
            int(f.get("width", 0)),
        )
        for f in facts
    )
