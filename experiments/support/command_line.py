"""The command line that all experiment scripts share: a configuration, and options over it."""

import argparse
import dataclasses
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from experiments.support.calling import command
from experiments.support.compiled import keep_compiled_programs
from experiments.support.config import (
    AUTO,
    Config,
    DataConfig,
    find_config,
    flat,
    read_config,
    to_table,
)
from experiments.support.help import help_of, wants_help
from jaxnn.core.validation import printable
from jaxnn.data import is_mapped
from jaxnn.data.mapped import preparation_of

Configured = Annotated[Config, tyro.conf.arg(name="")]
"""A field of this type puts the configuration's options beside the script's own."""

LONGEST_MESSAGE = 4000
"""How many characters of an error are printed."""

FOLLOWING = Config(
    network=("columns", "dense(64)", "relu()", "dense(32)", "relu()", "dense(outputs)"),
    loss=AUTO,
    optimizer="adamw()",
    learning_rate=3e-3,
    schedule="cosine()",
    weight_decay=1.0,
    epochs=0,
    batch_size=0,
    data=DataConfig(standardize=AUTO, validation_fraction=0.1),
)
"""What follows from the data; see `Config.resolved`."""
FOLLOWING_IMAGES = dataclasses.replace(
    FOLLOWING,
    network=(AUTO,),
    learning_rate=1e-3,
    weight_decay=1e-3,
    data=dataclasses.replace(FOLLOWING.data, flatten=False),
)
"""The same of images."""
EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError)


def take_config(arguments: list[str], *, auto: bool = False) -> tuple[str, Config, list[str]]:
    """The configuration that the first argument names (digits_mlp if it names none).

    Args:
        arguments: Of the script.
        auto: Whether, where none is named but data are, it is to follow from these.

    Returns:
        Its name, its values, and the arguments behind it.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and auto and (data := option_of("--data.name", arguments)) not in (None, "digits"):
        following, column = FOLLOWING, option_of("--data.images", arguments)
        if DataConfig(name=str(data), images=column).are_images:
            following = FOLLOWING_IMAGES
        elif is_mapped(str(data)):  # whose splits are drawn
            kept = preparation_of(str(data))
            following = FOLLOWING_IMAGES if kept is not None and kept.images else FOLLOWING
            known = dataclasses.replace(following.data, validation_fraction=0.0)
            following = dataclasses.replace(following, data=known)
        following = _decaying_alike(following, option_of("--learning-rate", arguments))
        return Path(str(data)).stem, following, arguments
    path = find_config(arguments[0] if named else "digits_mlp")
    return path.stem, read_config(path), arguments[1:] if named else arguments


def _decaying_alike(config: Config, learning_rate: str | None) -> Config:
    """The same with the decay for another learning rate that is the same in a step, of which it is
    the product of the two."""
    try:
        rate = float(learning_rate or config.learning_rate)
    except ValueError:  # which is refused where the options are read
        return config
    decay = config.weight_decay * config.learning_rate / rate if rate > 0 else config.weight_decay
    return dataclasses.replace(config, weight_decay=float(f"{decay:.3g}"))


def option_of(name: str, arguments: list[str]) -> str | None:
    """What an option is given, while others wait for what depends on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, nargs="?", dest="value")
    return parser.parse_known_args(arguments)[0].value


def parse_options(
    kind: type, program: str, arguments: list[str], uses: Sequence[str] = (), **defaults: Any
) -> Any:
    """The options of a script, a dataclass.

    Args:
        kind: The dataclass; its docstring is the description.
        program: The script and what stands before the options: "train [CONFIG]".
        arguments: Those behind it.
        uses: Of a configuration, the fields that the script makes use of, where these are not all;
            the constant USES of the script, from which its help has them.
        defaults: For fields that need one.

    Raises:
        ValueError: An option is given that the script makes no use of.
    """
    name = program.split()[0]
    if wants_help(arguments) and (text := help_of(name, [], command(name))) is not None:
        print(text)
        sys.exit(0)
    options: Any = tyro.cli(
        kind,
        prog=command(program),
        description=kind.__doc__ or "",
        args=arguments,
        default=kind(**defaults) if defaults else None,
    )
    if uses:
        before, after = (dict(flat(to_table(c))) for c in (defaults["config"], options.config))
        for option, value in after.items():
            if value != before.get(option) and option.partition(".")[0] not in uses:
                shown = option.replace("_", "-")
                raise ValueError(f"{name}: expected no --{shown}, which has no effect here")
    return options


def take_folder(arguments: list[str], script: str) -> tuple[Path, list[str]]:
    """The run folder that the first argument names, and the arguments behind it."""
    if not arguments or arguments[0].startswith("-"):
        if "-h" not in arguments and "--help" not in arguments:
            raise ValueError(f"expected a run folder: {command(script)} runs/NAME")
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
    keep_compiled_programs()
    try:
        script(sys.argv[1:])
    except EXPECTED_ERRORS as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        print(f"error: {shown(error)}{printable(notes)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
