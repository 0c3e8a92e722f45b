"""Call a function of somebody's file in a process of its own, for so long and no longer.

What it returns comes back as numbers in a text, so that nothing of it is run in this process.
"""

import faulthandler
import inspect
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.support.help import HOME

START_SECONDS = 30
"""How long the process may take beside what the file takes."""
LARGEST = 1_000_000
"""How many elements an array that is returned may have."""
LONGEST = 600
"""How many characters of an error are told."""


class Unanswered(ValueError):
    """The function could not be called at all; the message says why."""


class Call(NamedTuple):
    """What a call came to."""

    outputs: tuple[np.ndarray | str, ...]
    """What was returned, each an array of floating-point numbers, or a word on what it is else."""
    error: str = ""
    """In place of outputs: what went wrong, and where."""


def call(function: Callable, arguments: Sequence[Any], names: Sequence[str], path: Path) -> Call:
    """Call a function of the file at ``path``, which is to return one value for each name."""
    try:
        returned = function(*arguments)
    except BaseException as error:  # sys.exit() too
        return Call((), describe(error, path))
    if inspect.isgenerator(returned):
        return Call((), f"it yields in place of returning {', '.join(names)}")
    if len(names) == 1:
        return Call((_array(returned),))
    if not isinstance(returned, tuple | list) or len(returned) != len(names):
        count = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        what = (
            "nothing" if returned is None else f"a value of type {type(returned).__name__}{count}"
        )
        return Call((), f"it returned {what}, in place of {len(names)} values: {', '.join(names)}")
    return Call(tuple(map(_array, returned)))


def _array(value: Any) -> np.ndarray | str:
    if value is None:
        return "None"
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever there is
        return f"a value of type {type(value).__name__}, which is no array ({str(error)[:100]})"
    if array.dtype.kind not in "biuf":
        return f"a value of type {type(value).__name__} of {array.dtype}"
    if array.size > LARGEST:
        return f"an array of shape {array.shape}"
    return array if array.dtype in (np.float16, np.float32) else array.astype(float)


def describe(error: BaseException, path: Path) -> str:
    """An error with the line of the file that it comes from."""
    told = f"{type(error).__name__}: {error}".rstrip(": ")
    told = told if len(told) <= LONGEST else f"{told[:LONGEST]} …"
    if isinstance(error, SyntaxError) and error.filename == str(path):
        told = f"{type(error).__name__}: {error.msg}"
        return f"{path.name}, line {error.lineno}: {(error.text or '').strip()}\n{told}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path.name}, line {frames[-1].lineno}: {frames[-1].line}\n{told}" if frames else told


def answer(
    path: Path, function: str, cases: Sequence[Sequence[Any]], names: Sequence[str]
) -> list[Call]:
    """Run the file in this process, and call its function with the arguments of each case.

    Raises:
        Unanswered: the file cannot be run, or has no such function.
    """
    sys.path.append(str(path.parent))  # behind all else, so that no file there hides a package
    try:
        found = runpy.run_path(str(path), run_name=path.stem).get(function)
    except BaseException as error:
        raise Unanswered(f"it cannot be run\n{describe(error, path)}") from None
    else:
        if not callable(found):
            raise Unanswered(f"it has no function {function}, whose name and arguments are to stay")
        return [call(found, arguments, names, path) for arguments in cases]
    finally:
        sys.path.remove(str(path.parent))


def answer_apart(
    path: Path,
    function: str,
    cases: Sequence[Sequence[Any]],
    names: Sequence[str],
    seconds: float,
) -> list[Call]:
    """The same in a process of its own, which is ended after so many seconds.

    Raises:
        Unanswered: also, it took longer, or the process ended otherwise.
    """
    path, paths = path.resolve(), [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    request = {
        "path": str(path),
        "function": function,
        "cases": [[_to_json(a) for a in arguments] for arguments in cases],
        "names": list(names),
        "seconds": seconds,
    }
    with tempfile.TemporaryDirectory(prefix="jaxnn-apart-") as folder:
        trace, answered = Path(folder, "trace"), Path(folder, "answer")
        Path(folder, "request").write_text(json.dumps(request), encoding="utf-8")
        try:
            status = subprocess.run(
                [sys.executable, "-BP", "-m", "experiments.support.apart", folder],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join(paths)},
                timeout=seconds + START_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        if answered.exists():
            told = json.loads(answered.read_text(encoding="utf-8"))
            if "unanswered" in told:
                raise Unanswered(told["unanswered"])
            calls = [(map(_from_json, outputs), error) for outputs, error in told["calls"]]
            return [Call(tuple(outputs), error) for outputs, error in calls]
        raise Unanswered(_end(path, status, trace, seconds))


def _end(path: Path, status: int | None, trace: Path, seconds: float) -> str:
    """Why there is no answer."""
    text = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
    if text or status is None:
        shown = str(path).encode("ascii", "backslashreplace").decode()
        at = re.search(rf'"{re.escape(shown)}", line (\d+)', text)
        where = f"{path.name}, line {at[1]}:" if at else "it"
        return f"{where} was still at work after {seconds:g} s: a loop without an end?"
    if status < 0:
        return f"the process that ran it was ended by {signal.Signals(-status).name}"
    return f"it ended the process that ran it, with status {status}"


def _to_json(value: Any) -> Any:
    """An array as numbers; a text or a number of Python as it is."""
    if isinstance(value, np.ndarray):
        return {"shape": value.shape, "dtype": value.dtype.name, "values": value.ravel().tolist()}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return np.array(value["values"], value["dtype"]).reshape(value["shape"])
    return value


def _answer_request(folder: Path) -> None:
    request = json.loads((folder / "request").read_text(encoding="utf-8"))
    path, cases = Path(request["path"]), request["cases"]
    sys.argv = [str(path)]
    with (folder / "trace").open("w", encoding="utf-8") as trace:
        faulthandler.dump_traceback_later(request["seconds"], exit=True, file=trace)
        try:
            arguments = [[_from_json(a) for a in case] for case in cases]
            calls = answer(path, request["function"], arguments, request["names"])
            told = {"calls": [([_to_json(a) for a in c.outputs], c.error) for c in calls]}
        except Unanswered as error:
            told = {"unanswered": str(error)}
        faulthandler.cancel_dump_traceback_later()
    unnamed = folder / "unnamed"
    unnamed.write_text(json.dumps(told), encoding="utf-8")
    unnamed.rename(folder / "answer")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever threads it has started


if __name__ == "__main__":
    _answer_request(Path(sys.argv[1]))
