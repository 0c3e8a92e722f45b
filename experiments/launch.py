"""Run a script in several processes, on one machine or on many.

python -m experiments.launch --processes 2 train digits_mlp       # start both on this machine
python -m experiments.launch --processes 2 --process 0 --coordinator node0:8476 train digits_mlp
srun python -m experiments.launch train digits_mlp                # Slurm, Open MPI, TPU pods

Behind the script's name stands its own command line. Process 0 prints and writes; when a process
fails, the others are stopped.
"""

import importlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from experiments.support.children import OTHERS_SECONDS, is_child, run_together
from experiments.support.command_line import parse_options, run_script
from experiments.support.devices import MOST_DEVICES
from experiments.support.processes import is_first, require_agreement, versions
from jaxnn.core.validation import LARGEST_SIZE, require_integer, require_number, unknown_name

SCRIPTS = ("train",)
"""Those that know of several processes."""
MOST_PROCESSES = 256
"""Of those started on one machine."""


@dataclass(frozen=True)
class Options:
    """Run a script, with its own command line behind its name, in several processes.

    With --processes alone, all are started on this machine. With --process and --coordinator too,
    this is one of them, and the others are started in the same way. With none of the three, the
    cluster's own environment says who takes part: Slurm, Open MPI, Kubernetes or a TPU pod.
    """

    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """The number of this one, from 0."""
    coordinator: str | None = None
    """HOST:PORT, a free port of process 0's machine."""
    cpu_devices: int = 1
    """How many virtual devices each process makes of its processor, where it has no others."""
    timeout: float = 60.0
    """For how many seconds processes wait for each other at the start, and for a lost one later."""


def main(arguments: list[str]) -> None:
    """Start all processes, or be one of them."""
    own, script, rest = _split(arguments)
    options = parse_options(Options, "launch", own)
    if script not in SCRIPTS:
        raise ValueError(f"launch: {unknown_name('script', script, SCRIPTS)}")
    _require_valid(options)
    if options.processes is not None and options.process is None:
        start_all(options, [script, *rest])
    else:
        join(options)
        module = importlib.import_module(f"experiments.{script}")
        try:
            module.main(rest)
        except jax.errors.JaxRuntimeError as error:
            error.add_note("if another process has ended, its own messages say why")
            raise


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """The options of this script, the other script's name, and what stands behind it."""
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        place += 1 if "=" in arguments[place] or arguments[place] in ("-h", "--help") else 2
    if place >= len(arguments):
        return arguments, SCRIPTS[0], []
    return arguments[:place], arguments[place], arguments[place + 1 :]


def _require_valid(options: Options) -> None:
    require_integer("launch", "cpu_devices", options.cpu_devices, 1, MOST_DEVICES)
    require_number("launch", "timeout", options.timeout, minimum=0, open_minimum=True)
    if options.processes is not None:
        most = MOST_PROCESSES if options.process is None else LARGEST_SIZE
        require_integer("launch", "processes", options.processes, 1, most)
    if (options.process is None) != (options.coordinator is None) or (
        options.process is not None and options.processes is None
    ):
        raise ValueError(
            "launch: expected --processes alone, or --processes, --process and --coordinator, or "
            "none of them in a cluster that tells them"
        )
    if options.process is not None and not 0 <= options.process < (options.processes or 0):
        raise ValueError(
            f"launch: expected process to lie in 0 … {(options.processes or 0) - 1}, "
            f"got {options.process}"
        )
    if options.coordinator is not None:
        _address(options.coordinator)


def start_all(options: Options, command: Sequence[str]) -> None:
    """Start every process on this machine, and wait for them; see `run_together`."""
    count = options.processes or 1
    shared = ["--processes", str(count), "--coordinator", f"127.0.0.1:{_free_port()}"]
    shared += ["--cpu-devices", str(options.cpu_devices), "--timeout", str(options.timeout)]
    start = ["experiments.launch", *shared]
    run_together([[*start, "--process", str(number), *command] for number in range(count)])


def join(options: Options) -> None:
    """Make this process one of several, whose devices `jax.devices` then lists together.

    Raises:
        TimeoutError: The coordinator could not be reached in time. Where another process does not
            come in time, this one ends with a message and status 1.
        OSError: This process is the first, and the coordinator's port is not free.
        RuntimeError: The processes have different versions of packages.
        ValueError: Nothing says which processes take part.
    """
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    # It would take SIGTERM from `Stopping`, for a protocol of its own.
    jax.config.update("jax_enable_preemption_service", False)
    if options.process:
        _await_coordinator(options.coordinator or "", options.timeout)
    elif options.coordinator:
        _require_free_port(options.coordinator)
    seconds = max(round(options.timeout), 1)
    # JAX's own timeout ends the process with a trace of its internals.
    giving_up = threading.Timer(options.timeout, _give_up, [options])
    giving_up.start()
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=seconds,
        )
    except ValueError as error:
        raise ValueError(
            "launch: expected --processes, or a cluster that tells how many there are (Slurm, "
            f"Open MPI, Kubernetes, a TPU pod): {error}"
        ) from error
    finally:
        giving_up.cancel()
    require_agreement("versions of packages", versions)
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, for good


def _give_up(options: Options) -> None:
    print(
        f"error: launch: expected {options.processes or 'all'} processes to meet at "
        f"{options.coordinator or 'the coordinator'} within {options.timeout:g} s",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def run_as_process() -> None:
    """Run this script; one of several processes that fails ends at once.

    At a normal end the processes wait for each other, but the others cannot come to theirs when
    this one fails: they are in the midst of a computation that it takes part in.
    """

    def script(arguments: list[str]) -> None:
        try:
            main(arguments)
        except Exception:
            if is_child() and jax.distributed.is_initialized():
                time.sleep(OTHERS_SECONDS)
            raise

    try:
        run_script(script)
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def _await_coordinator(address: str, seconds: float) -> None:
    """Wait until something listens there; JAX would wait without a word, then end the process."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(_address(address), timeout=max(seconds, 1)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"launch: expected the coordinator at {address}, could not reach it within "
                    f"{seconds:g} s: {error}"
                ) from error
        time.sleep(0.2)


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"launch: expected coordinator to be HOST:PORT, a port of 1 to 65535, got "
            f"{coordinator!r}"
        )
    return host.strip("[]"), int(port)


def _require_free_port(coordinator: str) -> None:
    _, port = _address(coordinator)
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise OSError(
            f"launch: expected the port of coordinator {coordinator} to be free on this machine, "
            f"got: {error.strerror}; choose another, such as {_free_port()}, for all processes"
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    run_as_process()
