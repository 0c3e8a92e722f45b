"""Progress of a training run: a bar on a terminal, elsewhere a plain line every so often."""

import sys

from tqdm import tqdm

from experiments.support.calling import waiting
from experiments.support.processes import is_first

LINES = 10
"""About how many plain lines a run prints."""


class Progress:
    """Shows epochs as they end; a context manager.

    Args:
        seen: The epochs that a resumed run has behind it.
        total: The epochs at the end.
    """

    def __init__(self, seen: int, total: int):
        self._first, self._total = seen + 1, total
        self._every = -(-(total - seen) // LINES)
        is_terminal = sys.stderr.isatty() and is_first()
        self._bar = tqdm(initial=seen, total=total, unit="epoch", disable=not is_terminal)
        self._bar.set_postfix_str("compiling")

    def __enter__(self) -> "Progress":
        if self._bar.disable and is_first():
            waiting("compiling")
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, number: int, text: str) -> None:
        """Epoch ``number`` has ended, with ``text`` to say about it."""
        self._bar.update()
        self._bar.set_postfix_str(text)
        if self._bar.disable and (
            number in (self._first, self._total) or number % self._every == 0
        ):
            print(f"epoch {number:>{len(str(self._total))}}/{self._total}: {text}", flush=True)
