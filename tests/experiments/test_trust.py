"""Nothing is lost: runs that are stopped, killed, damaged, run twice, or have no room."""

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import error_of

from experiments import crash, train
from experiments.support.command_line import run_script
from experiments.support.runs import new_run, open_run

ROOT = Path(__file__).parent.parent.parent
TRAINING = [*crash.TRAINING, "--epochs", "4"]


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def contents(folder):
    """Every file by name, what it holds."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def status_of(arguments, monkeypatch):
    """The exit status of training, run as from the command line."""
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    with pytest.raises(SystemExit) as info:
        run_script(train.main)
    return info.value.code


@contextmanager
def after_epoch(number, act, monkeypatch):
    shown = train.Progress.show

    def show(progress, epoch, text):
        shown(progress, epoch, text)
        if epoch == number:
            act()

    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "show", show)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing happened to; it has the checkpoints 2, 3 and 4."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.main([*TRAINING, "--output", str(folder)])
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def uncached(monkeypatch):
    """Every process compiles for itself, which is part of what is compared."""
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")


def test_killed_runs_end_bit_for_bit_as_one_that_was_not(uncached, capsys):
    crash.main(["--kills", "2", "--epochs", "3"])
    out = capsys.readouterr().out
    assert "2 kills in" in out
    assert "0 lost, 0 different" in out


def test_the_crash_test_notices_another_bit(whole, run):
    expected = crash._outcome(whole)
    assert crash._difference(expected, crash._outcome(run)) is None
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(
        text.replace('"epoch": 2, "loss": ', '"epoch": 2, "loss": 1')
    )
    assert crash._difference(expected, crash._outcome(run)).startswith("metrics is")
    shutil.rmtree(run / "checkpoints" / "4")
    assert crash._difference(expected, crash._outcome(run)).startswith("checkpoints is")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_the_epoch_and_goes_on_with_the_same_numbers(
    whole, tmp_path, number, status, monkeypatch, capsys
):
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with after_epoch(2, lambda: signal.raise_signal(number), monkeypatch):
        assert status_of([*TRAINING, "--output", folder], monkeypatch) == status
    out = capsys.readouterr().out
    assert f"{number.name}: stopped and saved after epoch 2" in out
    assert f"python -m experiments.train --resume {folder}" in out
    assert [record["epoch"] for record in metrics(folder)] == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before
    train.main(["--resume", str(folder)])
    assert metrics(folder) == metrics(whole)


WAITING = """
import hashlib, sys, time
from experiments.support.stopping import Stopping

def save():
    print("saved", flush=True)
    time.sleep(float(sys.argv[1]))

with Stopping(0.5, save):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # no signal handler of Python runs in this
"""


@pytest.mark.parametrize("saving", ["0", "60"], ids=["at once", "too slowly"])
def test_an_epoch_that_does_not_end_is_given_up_in_a_bounded_time(saving):
    command = [sys.executable, "-c", WAITING, saving]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 143
            assert process.stdout.read() == "saved\n"
        finally:
            process.kill()


def test_a_second_run_on_the_same_folder_is_refused(whole, run, monkeypatch, capsys):
    before = contents(run)
    with open_run(run) as first:
        first.lock()
        error = error_of(train.main, ["--resume", run], monkeypatch, capsys)
        assert f"expected {run} to be free: another process is training in it" in error
    assert contents(run) == before
    train.main(["--resume", str(run)])
    assert metrics(run) == metrics(whole)


def test_a_lock_ends_with_its_process(run):
    program = f"""
from pathlib import Path
from experiments.support.runs import open_run
run = open_run(Path({str(run)!r}))
run.lock()
print("locked", flush=True)
input()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with open_run(run) as second, pytest.raises(RuntimeError, match="to be free"):
            second.lock()
        process.kill()
        process.wait()
    with open_run(run) as third:
        third.lock()


def test_two_new_runs_of_one_name_have_two_folders():
    with new_run("name", None) as first, new_run("name", None) as second:
        assert first.folder == Path("runs/name")
        assert second.folder == Path("runs/name-2")


def test_a_run_killed_before_its_configuration_is_started_again_in_its_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".123-config.toml").write_text("[da")
    with new_run("name", folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_run_killed_before_its_first_checkpoint_starts_again(whole, run, capsys):
    shutil.rmtree(run / "checkpoints")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(f"{lines[0]}\n{lines[1][:20]}")
    train.main(["--resume", str(run)])
    out = capsys.readouterr().out
    assert "resumed after epoch 0: it was stopped before its first checkpoint" in out
    assert metrics(run) == metrics(whole)


def test_a_damaged_newest_checkpoint_is_said_and_trained_anew(whole, run, recwarn):
    manifest = run / "checkpoints" / "4" / "train_state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    train.main(["--resume", str(run)])
    said = [str(warning.message) for warning in recwarn]
    assert any(f"{run}/checkpoints/4 is damaged" in s and "going back to 3" in s for s in said)
    assert metrics(run) == metrics(whole)
    assert crash._difference(crash._outcome(whole), crash._outcome(run)) is None


def test_where_all_checkpoints_are_damaged_nothing_is_touched(run, monkeypatch, capsys):
    for path in run.glob("checkpoints/*/contents/metadata"):
        path.write_text("{")
    before = contents(run)
    error = error_of(train.main, ["--resume", run], monkeypatch, capsys)
    assert all(f"{run}/checkpoints/{epoch} is damaged" in error for epoch in (2, 3, 4))
    assert contents(run) == before


@contextmanager
def no_file_above(size):
    """The kernel refuses to write on, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# A checkpoint has files of 6 KB, four epochs half a KB of metrics.
@pytest.mark.parametrize(
    ("size", "save_seconds", "where"),
    [(2000, "0", "cannot write to {}/checkpoints"), (300, "1000", "cannot write {}/metrics.jsonl")],
)
def test_where_there_is_no_room_the_last_checkpoint_stays(
    whole, tmp_path, size, save_seconds, where, monkeypatch, capsys
):
    folder = tmp_path / "run"
    full = no_file_above(size)
    try:
        with after_epoch(2, full.__enter__, monkeypatch):
            arguments = [*TRAINING, "--save-seconds", save_seconds, "--output", folder]
            error = error_of(train.main, arguments, monkeypatch, capsys)
    finally:
        full.__exit__(None, None, None)
    assert where.format(folder) in error
    assert "file too large" in error.lower()
    gc.collect()  # orbax's coroutines are reported when they are freed: not in the midst of a parse
    train.main(["--resume", str(folder)])
    assert "resumed after epoch" in capsys.readouterr().out
    assert metrics(folder) == metrics(whole)


def test_a_read_only_folder_is_named(run, monkeypatch, capsys):
    before = contents(run)
    run.chmod(0o500)
    try:
        if os.access(run, os.W_OK):
            pytest.skip("nothing is read-only for this user")
        error = error_of(train.main, ["--resume", run], monkeypatch, capsys)
        assert f"cannot write {run}" in error
        error = error_of(train.main, ["wine_mlp", "--output", run / "new"], monkeypatch, capsys)
        assert "expected output to be a folder that can be made" in error
    finally:
        run.chmod(0o700)
    assert contents(run) == before


DETERMINISM = """
import hashlib, jax, numpy as np
import jaxnn as nn
from jaxnn.training import create_state, make_optimizer, train

network = nn.fuse(
    nn.serial(
        *(nn.conv(4, 3), nn.relu(), nn.max_pool(2), nn.conv(8, 3), nn.flatten()),
        *(nn.dense(32), nn.batch_norm(), nn.relu(), nn.dropout(0.1), nn.dense(10)),
    )
)
loss, optimizer = nn.softmax_cross_entropy(), make_optimizer("adam", 1e-2)
x = np.random.default_rng(0).normal(size=(300, 8, 8, 1)).astype(np.float32)
state = create_state(network, optimizer, jax.random.key(1), x[:1])
*_, last = train(network, loss, optimizer, state, x, np.arange(300) % 10, epochs=2, batch_size=32)
leaves = jax.tree.leaves((last.train_state.params, last.train_state.optimizer_state))
print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())
"""


def test_two_processes_train_the_same_bits(uncached):
    command = [sys.executable, "-c", DETERMINISM]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0] for process in processes)
    assert len(first.strip()) == 64
    assert first == second
