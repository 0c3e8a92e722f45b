"""The first thing that a command does: its help, or a line that says what is waited for.

Nothing is imported here but Python itself; JAX alone takes a second or two.
"""

import os
import sys

from experiments.support.calling import command, waiting
from experiments.support.help import help_of, wants_help


def begin(name: str, arguments: list[str]) -> None:
    """Print the help of a command and end the process, where that is all that is wanted; else say
    that JAX is loaded.

    Args:
        name: Of the command, such as train.
        arguments: Behind it.
    """
    # Behind a script that is to be launched, help is that of the script.
    if wants_help(arguments[:1] if name == "launch" else arguments):
        text = help_of(name, arguments, command(name))
        if text is not None:
            try:
                print(text, flush=True)
            except BrokenPipeError:  # of `--help | head`, which has read enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
    waiting(f"{name}: loading JAX")
