"""SIGTERM and Ctrl-C: a loop comes to a good place, and stops there within a bounded time."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """Notes SIGTERM and Ctrl-C; a context manager, for the main thread.

        with Stopping(seconds=10, save=save) as stopping:
            for epoch in epochs:
                ...
                if stopping.requested:
                    break

    Python's own handlers have to wait for a compiled program to end, which can take any time. So a
    thread waits too: after ``seconds``, or at a second signal, it calls ``save``, which has as long
    again, and ends the process with the status 128 + the signal's number.

    Args:
        seconds: How long the loop has to end.
        save: Called in that thread.
    """

    def __init__(self, seconds: float, save: Callable[[], object]):
        self.requested: int | None = None
        """The number of the signal that was received."""
        self._seconds, self._save = seconds, save

    def __enter__(self) -> "Stopping":
        self._received, self._sending = os.pipe()
        os.set_blocking(self._sending, False)
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        # The one thing that a signal does at once, whatever the main thread is at.
        self._wakeup = signal.set_wakeup_fd(self._sending, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._sending)
        self._thread.join()
        os.close(self._received)

    def _note(self, number: int, frame: object) -> None:
        self.requested = number

    def _watch(self) -> None:
        first = self._receive()
        if first is None:
            return
        if select.select([self._received], [], [], self._seconds)[0] and self._receive() is None:
            return
        saving = threading.Thread(target=self._save, daemon=True)
        saving.start()
        saving.join(self._seconds)
        sys.stdout.flush()
        os._exit(128 + first)

    def _receive(self) -> int | None:
        """The number of the next signal; None once the ``with`` block has ended."""
        while byte := os.read(self._received, 1):
            if byte[0] in SIGNALS:
                return byte[0]
        return None
