"""Pairs of a text and what it becomes, as tokens: what an encoder and a decoder are given."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxnn.data.tones import fill_up

END = "\n"
"""The token behind the last one of a target, where targets differ in length."""

Tokens = Sequence[str]
"""A text cut in pieces; a string is cut in its characters."""


class Pairs(NamedTuple):
    """Texts with their targets, as ids of tokens."""

    texts: tuple[Tokens, ...]
    """What is given."""
    source: np.ndarray
    """int32 [examples, longest], ids of ``alphabet``; 0 behind the end."""
    lengths: np.ndarray
    """int32 [examples], how many tokens each text has."""
    target: np.ndarray
    """int32 [examples, longest], ids of ``symbols``; 0, which then stands for `END`, behind it."""
    alphabet: Tokens
    """The tokens of the texts; the id of the first is 1."""
    symbols: Tokens
    """Those of the targets; the id of the first is 0."""

    @property
    def start(self) -> int:
        """The id that a decoder is given in front of the first token."""
        return len(self.symbols)

    @property
    def given(self) -> np.ndarray:
        """int32 [examples, longest], what a decoder sees at each place: `start` and those before
        it."""
        first = np.full((len(self.target), 1), self.start, np.int32)
        return np.concatenate([first, self.target[:, :-1]], 1)

    def read(self, target: np.ndarray) -> Tokens:
        """The tokens of one row of a target, up to its `END`."""
        tokens = [self.symbols[int(token)] for token in target]
        return tokens[: tokens.index(END)] if END in tokens else tokens


def encode_pairs(
    parts: Sequence[Sequence[tuple[Tokens, Tokens]]], symbols: Tokens = ()
) -> list[Pairs]:
    """Each part of (text, target) as ids, by one alphabet and to one length.

    Args:
        parts: Such as those for training and those held out.
        symbols: The tokens of the targets, which all have one length; unless given, those that
            there are, with `END` behind each target.
    """
    end = () if symbols else (END,)
    texts = [text for part in parts for text, _ in part]
    targets = [(*target, *end) for part in parts for _, target in part]
    alphabet, symbols = _tokens(texts), symbols or _tokens(targets)
    source, target = _ids(texts, alphabet, 1), _ids(targets, symbols, 0)
    lengths = np.array([*map(len, texts)], np.int32)
    pairs, first = [], 0
    for part in parts:
        of = slice(first, first := first + len(part))
        rows = tuple(texts[of]), source[of], lengths[of], target[of]
        pairs.append(Pairs(*rows, alphabet, symbols))
    return pairs


def _tokens(texts: Sequence[Tokens]) -> tuple[str, ...]:
    return tuple(sorted({token for text in texts for token in text}))


def _ids(texts: Sequence[Tokens], tokens: Tokens, first: int) -> np.ndarray:
    place = {token: number for number, token in enumerate(tokens, first)}
    return fill_up([np.array([place[t] for t in text], np.int32) for text in texts], 0)
