"""Damage what loaders read, at random, and see that they notice.

python -m experiments.fuzz --inputs 20000

Each loader is given a valid file (or text) that was damaged: bits and bytes flipped, cut off,
repeated, swapped, numbers in it made huge or negative. It must give the data that were in the
valid one, or one line of an error of its kind. A traceback, more than ten seconds, or other data
count as failures; so do, of formats without a checksum, data that break the loader's own promises.
"""

import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.support.command_line import parse_options, run_script
from experiments.support.loaders import LOADERS, Loader
from jaxnn.core.validation import require_positive_integer, unknown_name

SLOW = 10.0
"""Seconds from which on a loader hangs."""
LONGEST = 2000
"""Characters of an error."""


@dataclass(frozen=True)
class Options:
    """Damage what loaders read, at random, and see that they notice."""

    inputs: int = 20_000
    """How many damaged files and texts, over all loaders."""
    seed: int = 0
    """Draws the damage."""
    loaders: tuple[str, ...] = ()
    """Only these."""
    output: Path = Path("fuzz-failures")
    """The folder for the inputs that were not handled as they should be, if there are any."""


@dataclass
class Found:
    """What the loaders did."""

    same: Counter[str] = field(default_factory=Counter)
    """How often the data were those of the valid file, by loader."""
    other: Counter[str] = field(default_factory=Counter)
    """How often others, of a format that has no checksum."""
    refused: Counter[str] = field(default_factory=Counter)
    """How often there was one line of an error."""
    failures: list[str] = field(default_factory=list)
    """What else happened."""
    slowest: float = 0.0
    """Seconds."""

    def __str__(self) -> str:
        names = sorted({*self.same, *self.other, *self.refused})
        lines = [
            f"{name:12} {self.same[name]:6} same {self.other[name]:6} other, valid "
            f"{self.refused[name]:6} refused"
            for name in names
        ]
        total = self.same.total() + self.other.total() + self.refused.total()
        lines.append(
            f"{total + len(self.failures)} inputs, {len(self.failures)} failures, the slowest took "
            f"{self.slowest:.2f} s"
        )
        return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print what was found; exit with 1 if anything was not handled."""
    options = parse_options(Options, "fuzz", arguments)
    require_positive_integer("fuzz", "inputs", options.inputs)
    for name in options.loaders:
        if name not in LOADERS:
            raise ValueError(f"fuzz: {unknown_name('loader', name, LOADERS)}")
    found = fuzz(options.inputs, options.seed, options.loaders or tuple(LOADERS), options.output)
    print(found)
    for failure in found.failures:
        print(f"  {failure}")
    if found.failures:
        sys.exit(1)


def fuzz(inputs: int, seed: int, loaders: tuple[str, ...], output: Path | None = None) -> Found:
    """Give the loaders damaged inputs, in proportion to their shares.

    Args:
        inputs: How many, at least one for each loader.
        seed: Draws the damage.
        loaders: Keys of `LOADERS`.
        output: Keeps the inputs that failed.
    """
    found, shares = Found(), sum(LOADERS[name].share for name in loaders)
    for name in loaders:
        draw, loader = random.Random(f"{seed} {name}"), LOADERS[name]
        with _own_folder() as temporary:
            valid = loader.write(Path(temporary))
            expected = loader.read(valid)
            for number in range(max(1, inputs * loader.share // shares)):
                damaged = _damage(valid, draw)
                problem = _try(name, loader, damaged, expected, found)
                if problem:
                    found.failures.append(f"{name} {number}: {problem}")
                    if output is not None:
                        _copy(damaged, output / f"{name}-{number}")
                _remove(damaged)
    return found


@contextmanager
def _own_folder() -> Iterator[str]:
    """A temporary folder, which is that of the cache too."""
    before = os.environ.get("JAXNN_CACHE")
    with tempfile.TemporaryDirectory(prefix="jaxnn-fuzz-") as temporary:
        os.environ["JAXNN_CACHE"] = f"{temporary}/cache"
        try:
            yield temporary
        finally:
            os.environ.pop("JAXNN_CACHE")
            if before is not None:
                os.environ["JAXNN_CACHE"] = before


def _try(name: str, loader: Loader, path: Path, expected: Any, found: Found) -> str | None:
    """Read the path, and count; what went wrong, or None."""
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = loader.read(path)
    except (ValueError, TypeError, OSError) as error:
        problem = _fault_of(error)
        found.refused[name] += not problem
    except BaseException as error:  # whatever there is
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        if isinstance(error, KeyboardInterrupt):
            raise
    else:
        same = _equal(expected, given)
        problem = "other data, without a word" if loader.has_checksum and not same else None
        found.same[name] += same
        found.other[name] += not same and not problem
    seconds = time.monotonic() - began
    found.slowest = max(found.slowest, seconds)
    return f"took {seconds:.1f} s" if seconds > SLOW else problem


def _fault_of(error: Exception) -> str | None:
    """What is wrong with an error as a message, if anything is."""
    text = str(error)
    if len(text) > LONGEST or not text.strip():
        return f"a message of {len(text)} characters: {text[:100]!r}"
    if not isinstance(error, ValueError) and "expected" not in text and "No such" not in text:
        return f"{type(error).__name__}: {text[:300]}"
    return None


def _equal(ours: Any, theirs: Any) -> bool:
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    return len(ours) == len(theirs) and all(map(_equal_leaves, ours, theirs))


def _equal_leaves(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, np.ndarray):
        return type(ours) is type(theirs) and ours == theirs
    return (
        isinstance(theirs, np.ndarray)
        and (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        and ours.tobytes() == theirs.tobytes()
    )


# Damage.


def _damage(valid: Path, draw: random.Random) -> Path:
    """A damaged copy beside the valid file or folder."""
    damaged = valid.parent / f"damaged{draw.randrange(10**9)}{valid.suffix}"
    _copy(valid, damaged)
    files = [damaged]
    if damaged.is_dir():
        files = sorted(path for path in damaged.rglob("*") if path.is_file())
        if draw.random() < 0.1:
            one, other = draw.choice(files), draw.choice(files)
            content = one.read_bytes()
            one.write_bytes(other.read_bytes())
            other.write_bytes(content)
            return damaged
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(DAMAGES)(content, draw)
    file.write_bytes(content)
    return damaged


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _place(content: bytearray, draw: random.Random) -> int:
    """Headers are at the beginning and directories at the end: there more often than elsewhere."""
    last = max(len(content) - 1, 0)
    near = min(draw.randrange(200), last)
    return draw.choice((near, last - near, draw.randint(0, last)))


def _flip(content: bytearray, draw: random.Random) -> bytearray:
    if content:
        content[_place(content, draw)] ^= 1 << draw.randrange(8)
    return content


def _overwrite(content: bytearray, draw: random.Random) -> bytearray:
    place, size = _place(content, draw), draw.choice((1, 2, 4, 8))
    content[place : place + size] = draw.choice((b"\0", b"\xff", b"\x7f", b"9", b"\n"))[:1] * size
    return content


def _cut(content: bytearray, draw: random.Random) -> bytearray:
    return content[: _place(content, draw)]


def _remove_some(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    del content[place : place + draw.choice((1, 2, 8, 64))]
    return content


def _insert(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    content[place:place] = draw.choice(WORDS) * draw.choice((1, 1, 1, 20, 3000))
    return content


def _repeat(content: bytearray, draw: random.Random) -> bytearray:
    first, second = sorted((_place(content, draw), _place(content, draw)))
    return content + content[first:second]


def _swap(content: bytearray, draw: random.Random) -> bytearray:
    a, b, size = _place(content, draw), _place(content, draw), draw.choice((1, 4, 30))
    a, b = min(a, b), max(a, b, min(a, b) + size)
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    return content


def _change_number(content: bytearray, draw: random.Random) -> bytearray:
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if digits:
        place = draw.choice(digits)
        content[place : place + 1] = draw.choice(
            (b"-1", b"0", b"999999999999", b"1e400", b"nan", b"0x9", b"1" * 5000, b"\xd9\xa3")
        )
    return content


WORDS = (b" ", b"\0", b"(", b"[", b'"', b",", b"\n", b"-", b"\x1b[2J", b"\xff", b"=1", b"{'a': 1}")
DAMAGES = (_flip, _flip, _overwrite, _cut, _remove_some, _insert, _repeat, _swap, _change_number)


if __name__ == "__main__":
    run_script(main)
