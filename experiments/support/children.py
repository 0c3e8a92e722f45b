"""Processes of this machine that start together, and end together however one of them does."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

LIFELINE = "JAXNN_LIFELINE"
"""The environment variable that gives a child the number of its end of the pipe."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_SECONDS = 30.0
"""How long children have to save and end after a signal."""
OTHERS_SECONDS = 1.0
"""How long a child with an error keeps it to itself: if another was lost, that is the reason."""
TOGETHER_SECONDS = 0.2
"""Children that end within this time of each other are told of together."""
LAST_LINES = 20
"""Of the messages of a child that failed."""


def run_together(modules: Sequence[Sequence[str]]) -> None:
    """Run modules as ``python -m``, each in its own process, until all end or one has failed.

    The first writes its messages here; those of the others go to files, which are kept if one
    failed. SIGTERM and SIGINT are handed on, and this process then ends as the signal wants it. The
    children do not outlive this process, however it ends: each waits in a thread for the end of a
    pipe that this process alone can write to.

    Args:
        modules: For each process the name of a module, and its arguments.

    Raises:
        RuntimeError: A process failed; the message says which, how, and where its messages are.
    """
    logs = Path(tempfile.mkdtemp(prefix="jaxnn-launch-"))
    paths = [logs / f"process-{number}.log" for number in range(len(modules))]
    children: list[subprocess.Popen] = []
    received: list[int] = []
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in SIGNALS}
    reading, writing = os.pipe()
    environment = os.environ | {LIFELINE: str(reading)}
    try:
        for module, path in zip(modules, paths, strict=True):
            with path.open("wb") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "experiments.support.children", *module],
                    stderr=log if children else None,
                    env=environment,
                    pass_fds=[reading],
                    process_group=0,  # Ctrl-C is for this process, which hands it on
                )
            children.append(child)
        failed = _wait(children, received)
    finally:
        for child in children:
            child.kill()
            child.wait()
        for end in (reading, writing):
            os.close(end)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed and not received:
        raise RuntimeError(_describe(failed, paths))
    shutil.rmtree(logs, ignore_errors=True)
    if received:
        sys.exit(128 + received[0])


def _wait(children: Sequence[subprocess.Popen], received: Sequence[int]) -> dict[int, int]:
    """Wait for the end of all, or the failure of one: number and status of those that failed."""
    handed_on, deadline = 0, float("inf")
    while True:
        statuses = [child.poll() for child in children]
        if None not in statuses or (any(statuses) and not received):
            time.sleep(TOGETHER_SECONDS)
            return {number: s for number, child in enumerate(children) if (s := child.poll())}
        if len(received) > 1 or time.monotonic() > deadline:
            return {}
        if len(received) > handed_on:
            handed_on, deadline = 1, time.monotonic() + STOP_SECONDS
            for child in children:
                child.send_signal(received[0])
        time.sleep(0.05)


def _describe(failed: dict[int, int], logs: Sequence[Path]) -> str:
    # The coordinator's end, JAX answers with an abort.
    culprits = {n: s for n, s in failed.items() if s != -signal.SIGABRT} or failed
    told = []
    for number, status in culprits.items():
        how = f"ended with status {status}"
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        if number > 0:
            how += f" (its messages are in {logs[number]})"
        told.append(f"process {number} {how}")
    if len(failed) < len(logs):
        told.append("the others were stopped")
    text = f"launch: {'; '.join(told)}"
    number, status = next(iter(culprits.items()))
    if number > 0 and status > 0:  # the first has shown its own, and a signal leaves no words
        lines = logs[number].read_text(encoding="utf-8", errors="replace").splitlines()
        text += "".join(f"\n  process {number}: {line}" for line in lines[-LAST_LINES:])
    return text


def is_child() -> bool:
    """Whether `run_together` has started this process."""
    return LIFELINE in os.environ


def follow_parent() -> None:
    """End this process, a child, as soon as the one that called `run_together` has ended."""
    lifeline = int(os.environ[LIFELINE])
    threading.Thread(target=_follow, args=[lifeline], daemon=True).start()


def _follow(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody writes: it returns when nobody can
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":  # a module and its arguments: imports may take long, so follow first
    follow_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
