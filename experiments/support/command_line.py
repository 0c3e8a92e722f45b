"""The command line that all experiment scripts share: a configuration, and options over it."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from experiments.support.config import CONFIGS, Config, find_config, read_config
from jaxnn.core.validation import printable

Configured = Annotated[Config, tyro.conf.arg(name="")]
"""A field of this type puts the configuration's options beside the script's own."""

LONGEST_MESSAGE = 4000
"""How many characters of an error are printed."""

EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError)


def take_config(arguments: list[str]) -> tuple[str, Config, list[str]]:
    """The configuration that the first argument names (digits_mlp if it names none).

    Returns:
        Its name, its values, and the arguments behind it.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    path = find_config(arguments[0] if named else "digits_mlp")
    return path.stem, read_config(path), arguments[1:] if named else arguments


def parse_options(kind: type, program: str, arguments: list[str], **defaults: Any) -> Any:
    """The options of a script, a dataclass.

    Args:
        kind: The dataclass; its docstring is the description.
        program: The script and what stands before the options: "train [CONFIG]".
        arguments: Those behind it.
        defaults: For fields that need one.
    """
    description = kind.__doc__ or ""
    if "CONFIG" in program:
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.toml")))
        description += (
            f"\n\nCONFIG is {known}, or the path of a .toml file; digits_mlp unless given. It "
            "stands before the options, and the defaults below are its values."
        )
    return tyro.cli(
        kind,
        prog=f"python -m experiments.{program}",
        description=description,
        args=arguments,
        default=kind(**defaults) if defaults else None,
    )


def take_folder(arguments: list[str], script: str) -> tuple[Path, list[str]]:
    """The run folder that the first argument names, and the arguments behind it."""
    if not arguments or arguments[0].startswith("-"):
        if "-h" not in arguments and "--help" not in arguments:
            raise ValueError(f"expected a run folder: python -m experiments.{script} runs/NAME")
        return Path(), arguments
    return Path(arguments[0]), arguments[1:]


def shown(message: object) -> str:
    """An error or warning as the terminal is given it: of a bounded length, and unable to steer it.

    Names in it may come from files that strangers made.
    """
    text = str(message)
    cut = "" if len(text) <= LONGEST_MESSAGE else f"… ({len(text)} characters)"
    return printable(text[:LONGEST_MESSAGE]) + cut


def _hook(hook: Callable) -> Callable:
    """The same hook, for the main thread alone.

    Threads and coroutines of orbax and tensorstore that a failed save or restore leaves behind tell
    of it once more, with a traceback each, under the message that this script prints.
    """

    def show(*error: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            hook(*error)

    return show


def run_script(script: Callable[[list[str]], object]) -> None:
    """Run a script with the process's arguments.

    An error that it expects becomes one readable message and exit status 1.
    """
    warnings.formatwarning = lambda message, *where: f"warning: {shown(message)}\n"
    # Neither JAX's note about tracebacks nor orbax's log adds to the message of an error.
    jax.config.update("jax_traceback_filtering", "off")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.excepthook, sys.unraisablehook = _hook(sys.excepthook), lambda _: None
    try:
        script(sys.argv[1:])
    except EXPECTED_ERRORS as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        print(f"error: {shown(error)}{printable(notes)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
