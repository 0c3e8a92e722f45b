"""Runs of several processes, each started as a user would."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments import launch, train
from experiments.support import processes
from experiments.support.command_line import parse_options, take_config

ROOT = Path(__file__).parent.parent.parent
TRAIN = ["train", "wine_mlp", "--epochs", "2", "--batch-size", "16", "--gradient", "manual"]


def start(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.launch", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True, **options
    )


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for line in lines if "loss" in (record := json.loads(line))]


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """The folder and the output of a run of two processes with two devices each."""
    folder = tmp_path_factory.mktemp("two")
    process = start("--processes", 2, "--cpu-devices", 2, *TRAIN, "--output", "run", cwd=folder)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder / "run", output


def test_two_processes_have_the_losses_of_one_and_only_the_first_prints(run_of_two, tmp_path):
    folder, output = run_of_two
    train.main([*TRAIN[1:], "--output", "alone"])
    assert losses(folder) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert output.count("epoch 2/2") == output.count("test: ") == 1
    assert (folder / "confusion_matrix.png").exists()


def test_a_run_of_two_processes_goes_on_in_one_with_other_devices(run_of_two, capsys):
    folder, _ = run_of_two
    options = ["--devices", "2", "--layout", "fully_sharded", "--epochs", "3"]
    train.main(["--resume", str(folder), *options])
    assert "resumed after epoch 2" in capsys.readouterr().out
    assert len(losses(folder)) == 3


def test_a_process_that_is_lost_ends_the_others_with_a_message(tmp_path):
    process = start("--processes", 2, *TRAIN[:2], "--epochs", 10**6, cwd=tmp_path)
    while not list(tmp_path.glob("runs/*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list the children of a process")
    os.kill(int(children.read_text().split()[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"error: launch: .*process 1 was ended by SIGKILL", errors)


def test_a_coordinator_that_cannot_be_reached_is_named(capsys):
    options = launch.Options(processes=2, process=1, coordinator="127.0.0.1:9", timeout=0.3)
    with pytest.raises(TimeoutError, match=r"coordinator at 127\.0\.0\.1:9.* within 0\.3 s"):
        launch._await_coordinator(options.coordinator, options.timeout)


def test_a_port_in_use_is_named_with_one_that_is_free():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OSError, match=rf"coordinator {address} to be free .* such as \d+"):
            launch._require_free_port(address)
    launch._require_free_port(address)


def test_processes_must_agree_on_options_and_data_but_not_on_paths():
    def facts(*arguments):
        _, config, rest = take_config(["wine_mlp", *arguments])
        options = parse_options(train.Options, "train", rest, config=config)
        return train._agreed(options, options.config.data.load())

    assert facts() == facts("--output", "elsewhere")
    for other, name in [
        (("--epochs", "3"), "epochs"),
        (("--save-seconds", "1"), "save_seconds"),
        (("--data.seed", "1"), "the digest of the split"),
    ]:
        different = facts(*other)
        assert {key for key, value in facts().items() if different[key] != value} >= {name}


def test_a_process_that_does_not_come_ends_the_wait_of_the_others():
    address = f"127.0.0.1:{launch._free_port()}"
    options = ["--processes", 2, "--process", 0, "--coordinator", address, "--timeout", 1]
    process = start(*options, *TRAIN)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"expected 2 processes to meet at {address} within 1 s" in errors
    assert "stack trace" not in errors


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"jax": "0.9", "numpy": "2"}, "same versions in all .* jax '0.10' in process 0 and '0.9'"),
        ({"jax": "0.10"}, "got numpy '2' in process 0 and None in process 1"),
        ({"jax": "0.10", "numpy": "2", "x": "1"}, "got x None in process 0 and '1' in process 1"),
    ],
)
def test_processes_that_differ_are_refused_by_what_differs(there, message, monkeypatch):
    here = {"jax": "0.10", "numpy": "2"}
    monkeypatch.setattr(processes, "_count", lambda: 2)
    monkeypatch.setattr(processes, "texts_of_all", lambda text: [text, json.dumps(there)])
    with pytest.raises(RuntimeError, match=message):
        processes.require_agreement("versions", lambda: here)
    monkeypatch.setattr(processes, "texts_of_all", lambda text: [text, text])
    processes.require_agreement("versions", lambda: here)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0", "train"], "expected processes to be at least 1, got 0"),
        (["--processes", "9999999", "train"], "expected processes to be at most 256"),
        (
            ["--processes", "2", "--cpu-devices", "9999999", "train"],
            "cpu_devices to be at most 1024",
        ),
        (["--processes", "2", "trian"], "unknown script 'trian': did you mean 'train'"),
        (["--processes", "2", "--process", "1", "train"], "--processes alone, or"),
        (
            ["--processes", "2", "--process", "2", "--coordinator", "a:1", "train"],
            "process to lie in 0 … 1, got 2",
        ),
        (
            ["--processes", "2", "--process", "1", "--coordinator", "here", "train"],
            "coordinator to be HOST:PORT, a port of .* got 'here'",
        ),
        (["--timeout", "0", "train"], r"timeout to lie in \(0, ∞|timeout to lie in \(0, inf"),
    ],
)
def test_wrong_options_of_launch_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        launch.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "5"], "expected devices to be at most 4 .* got 5"),
        (["--devices", "0"], "expected devices to be at least 1, got 0"),
        (["--devices", "1000000"], "expected devices to be at most 1024, got 1000000"),
        (["--devices", "3"], "batch_size to be a multiple of the 3 devices"),
        (["--layout", "split"], "unknown layout 'split'"),
        (["--layout", "tensor_parallel"], "model_devices to be more than 1 for .* got 1"),
        (["--devices", "2", "--model-devices", "2"], "for that alone, got 2 for replicated"),
        (["--devices", "3", "--stages", "2"], "a multiple of the 2 stages, got 3"),
        (["--stages", "2", "--layout", "fully_sharded"], "layout replicated with stages"),
        (["--stages", "2", "--precision", "bfloat16"], "precision to be float32 with --stages 2"),
        (["--stages", "2", "--micro-batches", "5"], "batch_size to be a multiple of the 5 micro"),
        (["--stages", "2", "--clip-norm", "1"], "needs the whole gradient: the update of"),
        (["--stages", "2", "--cuts", "1", "1"], "cuts to be 2 numbers above 0"),
        (["--folds", "2", "--stages", "2"], "folds, which are trained side by side, without"),
    ],
)
def test_wrong_options_of_devices_are_named(arguments, message):
    jax.devices()  # four, from here on
    with pytest.raises(ValueError, match=message):
        train.main([*TRAIN[1:], *arguments])


def test_a_run_in_four_stages_has_the_losses_of_one_device_and_goes_on_with_two(tmp_path):
    network = ["dense(8)", "dropout(0.2)", "relu()", "dense(8)", "dense(3)"]
    common = ["wine_mlp", "--network", *network, "--epochs", "1", "--micro-batches", "4"]

    train.main([*common, "--output", "one"])
    train.main(["--resume", "one", "--epochs", "2"])
    train.main([*common, "--stages", "4", "--output", "four"])
    train.main(["--resume", "four", "--epochs", "2", "--stages", "2"])
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
