"""Write backward passes yourself, and have them checked: exercises with hints.

python -m experiments.exercises                  # lists them
python -m experiments.exercises start dense      # writes exercises/dense.py, to be completed
python -m experiments.exercises dense            # right, or what is missing
"""

import hashlib
import itertools
import json
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.lessons import EXERCISES
from experiments.lessons.exercise import Exercise
from experiments.lessons.judging import Verdict, judge
from experiments.support.apart import Unanswered, answer_apart
from experiments.support.calling import command
from experiments.support.command_line import parse_options, run_script
from experiments.support.help import WIDTH
from jaxnn.core.files import write_file
from jaxnn.core.validation import printable, require_number, unknown_name

SOLVED = ".solved.json"
"""In the folder: the digest of every file as it was when it was right, by the exercise's name."""


@dataclass(frozen=True)
class Options:
    """Write backward passes yourself, and have them checked.

    "start NAME" writes NAME.py, a stub that says what is given and what is to be returned. "check
    NAME", or NAME alone, runs your file in a process of its own and says whether it is right, or
    else which term is missing. "solution NAME" prints a right answer.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Of exercises: one or several; none for a list of all."""
    folder: Path = Path("exercises")
    """Where your files are."""
    seconds: float = 20.0
    """How long a file may run."""


def main(arguments: list[str]) -> None:
    """List, start or check; exit with 1 where an answer is not right."""
    options = parse_options(Options, "exercises [start|check|solution]", arguments)
    require_number("exercises", "seconds", options.seconds, minimum=0.1, maximum=86_400)
    verb, *names = options.names or ("list",)
    if options.names and verb not in ("start", "check", "solution"):
        verb, names = "check", [*options.names]
    for name in names:
        if name not in EXERCISES:
            raise ValueError(f"exercises: {printable(unknown_name('exercise', name, EXERCISES))}")
    if verb == "list":
        print(listing(options.folder))
    elif not names:
        raise ValueError(f"exercises: expected a name behind {verb}, such as {verb} dense")
    exercises = [EXERCISES[name] for name in names]
    if verb == "solution":
        print("\n\n".join(exercise.solution for exercise in exercises), end="")
        return
    paths = {options.folder / f"{exercise.name}.py": exercise for exercise in exercises}
    for path, exercise in paths.items():
        if verb == "start" and path.exists():
            raise FileExistsError(
                f"exercises: {path} is there already and stays as it is: complete it, or rename it "
                "to begin anew"
            )
        if verb == "check" and not path.is_file():
            starting = _command(f"start {exercise.name}", options.folder)
            raise FileNotFoundError(f"exercises: expected {path}: {starting}")
    if verb == "start":
        for path, exercise in paths.items():
            start(exercise, path)
    elif not all([check(e, path, options.seconds) for path, e in paths.items()]):
        sys.exit(1)


def listing(folder: Path) -> str:
    """Every exercise with what it is about, and how far a person is with it."""
    states = _states(folder)
    width = max(map(len, EXERCISES))
    rows = [f"  {n:{width}}  {states[n]:6}  {e.title}" for n, e in EXERCISES.items()]
    count = list(states.values()).count("solved")
    heading = f"{count} of {len(rows)} are solved in the folder {folder}"
    return "\n".join([heading, *rows, *_next_step(folder)])


def _states(folder: Path) -> dict[str, str]:
    """Of every exercise: solved, begun, or nothing."""
    solved, states = _solved(folder), {}
    for name in EXERCISES:
        path = folder / f"{name}.py"
        states[name] = "begun" if path.is_file() else ""
        if path.is_file() and solved.get(name) == _digest(path):
            states[name] = "solved"
    return states


def _next_step(folder: Path) -> list[str]:
    """What to type for the first exercise that is not solved."""
    for name, state in _states(folder).items():
        if state != "solved":
            return [f"next: {_command(name if state else f'start {name}', folder)}"]
    return ["all exercises are solved"]


def _command(words: str, folder: Path) -> str:
    where = "" if folder == Options.folder else f" --folder {shlex.quote(str(folder))}"
    return f"{command('exercises')} {words}{where}"


def start(exercise: Exercise, path: Path) -> None:
    """Write the stub."""
    checking = _command(exercise.name, path.parent)
    stub = exercise.stub(checking)
    write_file(path, lambda temporary: temporary.write_text(stub, encoding="utf-8"))
    print(f"wrote {path}: complete it, then: {checking}")


def check(exercise: Exercise, path: Path, seconds: float) -> bool:
    """Say whether the file is right, or what is missing."""
    digest, verdict = _digest(path), judgement(exercise, path, seconds)
    if verdict.faults:
        print(f"{exercise.name}: not yet")
        for text in (*verdict.faults, *(f"hint: {hint}" for hint in verdict.hints)):
            print(_indented(printable(text)))
        return False
    _note(path.parent, exercise.name, digest)
    print("\n".join([f"{exercise.name}: right", *_next_step(path.parent)]))
    return True


def judgement(exercise: Exercise, path: Path, seconds: float) -> Verdict:
    """What is to be said about a file."""
    cases = [[*case.values()] for case in exercise.arguments]
    try:
        calls = answer_apart(path, exercise.function.name, cases, exercise.names, seconds)
    except Unanswered as error:
        return Verdict((str(error),))
    return judge(exercise, calls)


def _indented(text: str) -> str:
    """Each of its lines in the width of the terminal, those behind the first further in."""
    first, *others = text.splitlines()
    margins = itertools.chain(["  "], itertools.repeat("    "))
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent=margin, subsequent_indent="    ")
        for line, margin in zip((first, *others), margins, strict=False)
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _solved(folder: Path) -> dict[str, str]:
    """What has been noted; nothing where that cannot be read."""
    try:
        noted = json.loads((folder / SOLVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(folder: Path, name: str, digest: str) -> None:
    text = json.dumps(_solved(folder) | {name: digest}, indent=1)
    write_file(
        folder / SOLVED, lambda path: path.write_text(text, encoding="utf-8"), overwrite=True
    )


if __name__ == "__main__":
    run_script(main)
