"""How the scripts are called."""

import os
import sys


def command(script: str) -> str:
    """What one types to run a script, as the person did who started this process."""
    program = os.environ.get("JAXNN_COMMAND")  # set by the command `jaxnn`
    return f"{program} {script}" if program else f"python -m experiments.{script}"


def waiting(what: str) -> None:
    """Say at once what a person is waiting for, beside what the script prints."""
    print(f"{what} …", file=sys.stderr, flush=True)
