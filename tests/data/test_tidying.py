import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from jaxnn.data import cache, chunks, tidying
from jaxnn.data.cache import cached
from jaxnn.data.tidying import tidy, unfinished, use


def entry(name, size, age, kind="file"):
    """Something of the cache, used so many seconds ago."""
    folder = cache.cache_folder()
    path = folder / f"{name}-{'0' * 32}"
    if kind == "file":
        folder.mkdir(parents=True, exist_ok=True)
        path = path.with_name(path.name + ".npz")
        path.write_bytes(bytes(size))
    else:
        path.mkdir(parents=True)
        (path / "train_x.npy").write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def left():
    return {path.name.partition("-")[0] for path in cache.cache_folder().iterdir()}


def test_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNN_CACHE_BYTES", "2500")
    for place, name in enumerate(("old", "used", "new")):
        entry(name, 1000, 300 - 100 * place, "folder" if name == "old" else "file")
    (cache.cache_folder() / "compiled").mkdir()
    source = tmp_path / "source"
    source.write_text("")
    for _ in range(2):  # it is written, and read
        cached(source, lambda: {"x": np.zeros(10)})
        assert left() == {"new", "compiled", "source"}


def test_what_is_used_is_not_thrown_away(monkeypatch):
    mapped, other = entry("mapped", 1000, 200, "folder"), entry("other", 1000, 100, "folder")
    assert use(mapped)
    os.utime(mapped, (0, 0))
    monkeypatch.setenv("JAXNN_CACHE_BYTES", "0")
    tidy(cache.cache_folder(), newest=other)
    assert left() == {"mapped", "other"}


def test_a_long_name_is_thrown_away_and_a_folder_of_another_kind_is_not(monkeypatch):
    sounds = entry("speech", 1000, 200, "folder")
    (sounds / "train_x.npy").rename(sounds / "1.wav")
    entry("n" * 215, 1000, 300, "folder")
    monkeypatch.setenv("JAXNN_CACHE_BYTES", "0")
    tidy(cache.cache_folder(), newest=entry("other", 1000, 100))
    assert left() == {"speech", "other"}


def test_a_folder_on_a_file_system_without_locks_is_used(monkeypatch):
    class Unlocked:
        LOCK_SH = LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(*_):
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(tidying, "fcntl", Unlocked)
    folder = entry("mapped", 1000, 200, "folder")
    assert use(folder)
    monkeypatch.setenv("JAXNN_CACHE_BYTES", "0")
    tidy(cache.cache_folder(), newest=entry("other", 1000, 100))
    assert left() == {"mapped", "other"}


def test_a_bound_that_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNN_CACHE_BYTES", "20 GB")
    source = tmp_path / "source"
    source.write_text("")
    with pytest.raises(ValueError, match=r"JAXNN_CACHE_BYTES: expected a number of bytes, such as"):
        cached(source, lambda: {"x": np.zeros(10)})


WRITER = """
import sys, time
from pathlib import Path
from jaxnn.data.tidying import unfinished
with unfinished(Path(sys.argv[1])) as path:
    (path / "cells").write_text("")
    print(path, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_swept_and_what_another_writes_is_not(tmp_path):
    def start():
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    (killed, left_by_it), (alive, written) = start(), start()
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for path in (left_by_it, written):
            os.utime(path, (0, 0))
        with unfinished(tmp_path) as own:
            assert {str(path) for path in tmp_path.iterdir()} == {written, str(own)}
        assert [str(path) for path in tmp_path.iterdir()] == [written]
    finally:
        alive.kill()
        alive.wait()


def table(rows=300):
    path = cache.cache_folder().with_name("t.csv")
    lines = (f"{row},{row % 7},{row % 2}" for row in range(rows))
    path.write_text("a,b,y\n" + "\n".join(lines) + "\n")
    return path


def test_of_two_writers_of_one_entry_the_first_stays(monkeypatch):
    path, original, found = table(), chunks.map_table, []

    def interrupted(*arguments, **options):
        made = original(*arguments, **options)
        if not found:  # another writes the same in between
            found.append(None)
            found[0] = chunks.load_table(path, target="y")
        return made

    monkeypatch.setattr(chunks, "map_table", interrupted)
    splits = chunks.load_table(path, target="y")
    assert splits.source == found[0].source
    assert len([*cache.cache_folder().iterdir()]) == 1


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    path = table()
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "a file" / "folder"))
    with pytest.raises(OSError, match=r"t.csv: expected a folder .*a file/folder.*JAXNN_CACHE"):
        chunks.load_table(path, target="y")


def test_a_table_that_cannot_be_read_is_named_by_itself(monkeypatch):
    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = table()
    monkeypatch.setattr(chunks, "map_table", refused)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*t\.csv'$"):
        chunks.load_table(path, target="y")


def test_a_file_system_that_cannot_set_room_aside_is_written_all_the_same(monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert len(chunks.load_table(table(), target="y").train.target)


def test_a_full_disk_is_an_error_before_anything_is_mapped(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = table()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device: say another with"):
        chunks.load_table(path, target="y")
    assert [*cache.cache_folder().iterdir()] == []
