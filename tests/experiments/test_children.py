"""Processes that start together and end together; none of them needs JAX to show it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

CHILD = """
import os, signal, sys, time
from experiments.support.children import is_child
assert is_child() and __name__ == "__main__"
number = int(sys.argv[1])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, f"{os.getpid()}\\n".encode())  # whole: three of them write
time.sleep(0.3)
if number == 1 and "fails" in sys.argv:
    sys.exit("error: of process 1")
if "short" not in sys.argv:
    time.sleep(60)
"""
PARENT = """
import sys
from experiments.support.children import run_together
try:
    run_together([["child", str(i), *sys.argv[1:]] for i in range(3)])
except RuntimeError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def start(tmp_path):
    """Starts a parent of three children; returns it and their numbers."""
    (tmp_path / "child.py").write_text(CHILD)
    started = []

    def start(*how):
        command = [sys.executable, "-c", PARENT, *how]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
        parent = subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
        started.append(parent)
        return parent, [int(parent.stdout.readline()) for _ in range(3)]

    yield start
    for parent in started:
        parent.kill()
        parent.communicate()


def is_alive(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists() and _answers(number)
    return state != "Z"  # ended, and nobody has asked how


def _answers(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def all_end(children, seconds=10):
    deadline = time.monotonic() + seconds
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, children))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_children_end_with_their_parent_whatever_ends_it(start, number):
    parent, children = start()
    parent.send_signal(number)
    assert all_end(children)
    expected = 128 + number if number in (signal.SIGTERM, signal.SIGINT) else -number
    assert parent.wait(10) == expected


def test_a_second_signal_does_not_wait_for_children_that_take_their_time(start):
    parent, children = start("deaf")
    parent.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert any(map(is_alive, children))
    parent.send_signal(signal.SIGTERM)
    assert all_end(children)
    assert parent.wait(10) == 143


def test_a_child_that_fails_ends_the_others_with_one_message_and_its_last_lines(start):
    parent, children = start("fails")
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode == 1
    assert all_end(children)
    assert errors.startswith("error: launch: process 1 ended with status 1 (its messages are in ")
    assert errors.endswith("the others were stopped\n  process 1: error: of process 1\n")
    log = Path(errors.partition("messages are in ")[2].partition(")")[0])
    assert log.read_text() == "error: of process 1\n"


def test_a_child_that_is_killed_ends_the_others_with_one_message(start):
    parent, children = start()
    os.kill(children[0], signal.SIGKILL)
    _, errors = parent.communicate(timeout=30)
    assert all_end(children)
    assert "was ended by SIGKILL" in errors
    assert len(errors.splitlines()) == 1


def test_where_all_end_well_nothing_is_left(start, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    parent, _ = start("short")
    assert parent.wait(30) == 0
    assert not list(tmp_path.glob("jaxnn-launch-*"))
