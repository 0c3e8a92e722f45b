"""Threads, for work on arrays and files during which Python lets others go on."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], stop: Event | None = None
) -> list[Result]:
    """function(item) for each, in their order: for what lets other threads go on.

    Where one of them fails, or this is interrupted, ``stop`` is set, by which the others may end.
    """
    items, stop = list(items), stop or Event()
    workers = min(processors(), len(items))
    if workers < 2:
        return list(map(function, items))

    def run(item: Item) -> Result:
        try:
            return function(item)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers) as threads:
        try:
            return list(threads.map(run, items))
        except BaseException:
            stop.set()
            raise
