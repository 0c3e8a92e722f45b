"""Texts as the characters of a language model: somebody's own, or that of Python's help()."""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnn.core.validation import listed, require_number, require_positive_integer

_CODE_POINTS = 0x110000


class Text(NamedTuple):
    """A text cut into windows; the target of every character is the one behind it."""

    x: np.ndarray
    """int32 [windows, length], ids of ``alphabet``."""
    target: np.ndarray
    """int32 [windows, length]."""
    alphabet: str
    """The characters by id."""

    def decode(self, ids: np.ndarray) -> str:
        """The characters of a row of ids."""
        return "".join(self.alphabet[i] for i in ids)


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """The characters of a file as they are, ends of lines included, without a byte order mark.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, or not in that encoding; the place of the first wrong byte is said.
        LookupError: There is no such encoding.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: expected a text, got {found}")
    try:
        text = path.read_bytes().decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected {encoding}, got other bytes at byte {error.start}: say another "
            "--encoding, such as latin-1 or utf-16"
        ) from None
    except LookupError:
        raise ValueError(f"{path}: unknown encoding {encoding!r}") from None
    if not text:
        raise ValueError(f"{path}: expected characters, got an empty file")
    return text


def encode_text(text: str, alphabet: str, where: str = "text") -> np.ndarray:
    """int32 [characters], the ids of a text.

    Raises:
        ValueError: There are characters that the alphabet does not have; they are named.
    """
    ids = np.full(_CODE_POINTS, -1, np.int32)
    ids[[ord(c) for c in alphabet]] = np.arange(len(alphabet), dtype=np.int32)
    found = ids[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
    if (found < 0).any():
        unknown = sorted(set(text) - set(alphabet))
        shown = listed(f"{c!r} (U+{ord(c):04X})" for c in unknown)
        raise ValueError(
            f"{where}: expected characters of the text that it was trained on, got {shown}"
        )
    return found


def split_text(
    text: str, length: int = 128, held_out: float = 0.05, where: str = "text"
) -> tuple[Text, Text]:
    """A text for training, and its end, which is held out. The alphabet is that of both.

    Args:
        text: The characters.
        length: The characters of one window; windows do not overlap.
        held_out: The share at the end of the text that is kept for the test.
        where: For errors.

    Raises:
        ValueError: A part is too short for one window with the character behind it.
    """
    require_positive_integer(where, "length", length)
    require_number(where, "held_out", held_out, minimum=0, maximum=0.5, open_minimum=True)
    alphabet = "".join(sorted(set(text)))
    ids = encode_text(text, alphabet)
    cut = round(len(ids) * (1 - held_out))
    if len(ids) - cut <= length:
        raise ValueError(
            f"{where}: expected length to be below the {len(ids) - cut} characters held out of "
            f"{len(ids)}, got {length}: take a longer text, a smaller --length or a larger "
            "--held-out"
        )
    first, second = (_windows(part, length, alphabet) for part in (ids[:cut], ids[cut:]))
    return first, second


def windows_of(text: str, length: int, alphabet: str, where: str) -> Text:
    """Another text in the characters that an alphabet has; raises as `split_text` does."""
    ids = encode_text(text, alphabet, where)
    if len(ids) <= length:
        raise ValueError(f"{where}: expected more than {length} characters, got {len(ids)}")
    return _windows(ids, length, alphabet)


def python_topics(length: int = 128, held_out: float = 0.05) -> tuple[Text, Text]:
    """The reference topics of Python's help(), some 450,000 characters: for training, and held out.

    Args:
        length: The characters of one window; windows do not overlap.
        held_out: The share at the end of the text that is kept for the test.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    text = "".join(topics[name] for name in sorted(topics))
    return split_text(text, length, held_out, "python_topics")


def _windows(ids: np.ndarray, length: int, alphabet: str) -> Text:
    count = (len(ids) - 1) // length
    x, target = (ids[i : i + count * length].reshape(count, length) for i in (0, 1))
    return Text(x, target, alphabet)
