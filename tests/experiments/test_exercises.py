"""The exercises: every right answer, every typical mistake, and files that do anything else."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import error_of

from experiments import exercises
from experiments.lessons import EXERCISES
from experiments.lessons.judging import Verdict, judge
from experiments.support.apart import Unanswered, answer

ROOT = Path(__file__).parents[2]
NAMES = list(EXERCISES)
MISTAKES = [
    pytest.param(exercise, mistake, id=f"{name} {number}")
    for name, exercise in EXERCISES.items()
    for number, mistake in enumerate(exercise.mistakes)
]


def verdict_of(name, source):
    """What is said about a file of this text."""
    exercise, path = EXERCISES[name], Path(f"{name}.py").resolve()
    path.write_text(source, encoding="utf-8")
    cases = [[*case.values()] for case in exercise.arguments]
    with np.errstate(all="ignore"):
        return judge(exercise, answer(path, exercise.function.name, cases, exercise.names))


def written(name, body):
    """The stub of an exercise, completed."""
    stub = EXERCISES[name].stub("")
    return stub.replace("    raise NotImplementedError\n", body)


def test_there_are_exercises_from_the_step_function_to_attention():
    assert len(EXERCISES) >= 12
    assert NAMES[0] == "step"
    assert NAMES[-3:] == ["rnn", "lstm", "attention"]
    assert {path.stem for path in (ROOT / "experiments/lessons/solutions").iterdir()} >= {*NAMES}
    assert not {*NAMES} & {*sys.stdlib_module_names}


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_is_right_and_a_stub_has_nothing_of_it(name):
    exercise = EXERCISES[name]
    assert verdict_of(name, exercise.solution) == Verdict()
    stub = exercise.stub("the command")
    function = ast.parse(stub).body[-1]
    assert [ast.unparse(part) for part in function.body[1:]] == ["raise NotImplementedError"]
    assert all(f"{n}" in ast.get_docstring(function) for n in [*exercise.arguments[0]])
    assert all(f"{n}" in ast.get_docstring(function) for n in exercise.names)
    faults, hints = verdict_of(name, stub)
    assert faults == ("it is still the stub: write its body, in place of the last line",)
    assert not hints


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES)
def test_a_typical_mistake_has_its_own_hint(exercise, mistake):
    faults, hints = verdict_of(exercise.name, exercise.with_mistakes(mistake))
    assert faults
    assert hints == (mistake.hint,)
    assert mistake.right not in mistake.hint


@pytest.mark.parametrize("name", NAMES)
def test_the_cases_have_sizes_that_show_a_transpose_and_what_is_given_is_not_changed(name):
    exercise = EXERCISES[name]
    shapes = [[np.shape(a) for a in case.values()] for case in exercise.arguments]
    assert len(shapes) > 1
    before = [{n: np.copy(a) for n, a in case.items()} for case in exercise.arguments]
    exercise.calls_of(exercise.solution)
    for case, kept in zip(exercise.arguments, before, strict=True):
        assert all(np.array_equal(case[n], kept[n]) for n in kept)


def hint_of(name, words):
    """The one that has these words."""
    (hint,) = (m.hint for m in EXERCISES[name].mistakes if words in m.hint)
    return hint


def test_independent_mistakes_have_a_hint_each():
    body = "    return dy @ weight, dy.T @ x, dy\n"
    wanted = ("W has to be transposed", "[out, in], its transpose", "db lacks the sum over")
    assert verdict_of("dense", written("dense", body)).hints == tuple(
        hint_of("dense", words) for words in wanted
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layer_norm", ("projection, the mean of d", "lacks the scale")),
        ("layer_norm", ("projection, x̂ times", "lacks the division")),
        ("batch_norm", ("lacks the scale", "lacks the division")),
        ("mean_squared_error", ("gradient lacks the 1/N", "The sign is that of")),
        ("cross_entropy", ("lacks the 1/batch: the loss is", "gradient has the wrong sign")),
    ],
)
def test_two_mistakes_in_the_same_output_are_told_apart(name, words):
    exercise, hints = EXERCISES[name], tuple(hint_of(name, w) for w in words)
    both = [mistake for mistake in exercise.mistakes if mistake.hint in hints]
    assert set(verdict_of(name, exercise.with_mistakes(*both)).hints) == {*hints}


def test_a_mistake_and_a_wrong_sign_are_told_apart():
    body = "    return -dy @ weight, x.T @ dy, dy.sum(0)\n"
    wanted = (hint_of("dense", "W has to be transposed"), "dx has the wrong sign.")
    assert verdict_of("dense", written("dense", body)).hints == wanted


def test_of_mistakes_that_explain_as_much_the_one_is_told_that_contradicts_nothing():
    body = "    a, o, n, _ = x.all(1), x.any(1), ~x.all(1), 0\n    return a, o, n, o\n"
    assert verdict_of("gates", written("gates", body)).hints == (
        hint_of("gates", "No single gate does that"),
    )


@pytest.mark.parametrize(
    ("returned", "hint"),
    [
        ("-dx, dweight, dbias", "dx has the wrong sign."),
        ("dx, x, dbias", None),
        ("dx, 2 * dweight, dbias", "dweight is 2 times what it should be: look for"),
        ("dx, dweight, dy[:, None].sum(0)", "dbias has the right numbers in another shape."),
        ("dx, x[:, :, None] * dy[:, None, :], dbias", "dweight lacks a sum over its axis 0."),
        ("dweight, dx, dbias", "What you return as dx is dweight: return dx, dweight, dbias."),
    ],
)
def test_what_is_done_to_a_right_result_is_seen(returned, hint):
    body = f"    dx, dweight, dbias = dy @ weight.T, x.T @ dy, dy.sum(0)\n    return {returned}\n"
    hints = verdict_of("dense", written("dense", body)).hints
    assert hints[0].startswith(hint) if hint else not hints


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("dx = dy @ weight.T", "it returned nothing, in place of 3 values: dx, dweight, dbias"),
        ("return dy", "it returned a value of type ndarray, in place of 3 values"),
        ("return dy, dy", "it returned a value of type tuple of 2, in place of 3"),
        (
            "return dy @ weight.T, None, 'a'",
            "dweight is None, in place of an array of shape (3, 3)",
        ),
        ("return [[1], [2, 3]], 1, 2", "dx is a value of type list, which is no array"),
        ("return 1j * dy, 1, 2", "dx is a value of type ndarray of complex128, in place of an"),
        ("return dy[0, 0], 1, 2", "dx has the shape () in place of (3, 3), with x (3, 3), weight"),
        ("return dy @ weight.T / 0 * 0, 1, 2", "dx is wrong and not finite: 9 of its 9 elements"),
        ("return x + 1e300 * 1e300, 1, 2", "dx is wrong and not finite"),
        ("return (dy @ weight.T).astype('f4'), 1, 2", "dx is right, but in float32: keep to"),
        ("return 0 * x, 1, 2", "dx is wrong: 9 of its 9 elements are, 0 at ["),
        ("yield dy", "it yields in place of returning dx, dweight, dbias"),
        ("return dx", "dense.py, line 19: return dx\nNameError: name 'dx' is not defined\nwith x"),
        ("raise SystemExit(0)", "dense.py, line 19: raise SystemExit(0)\nSystemExit: 0\nwith x"),
        ("return backward(x, weight, dy)", "RecursionError"),
        ("return [0] * 10**7", "it returned a value of type list of 10000000, in place of"),
    ],
)
def test_what_else_a_function_does_is_told(body, fault):
    faults, hints = verdict_of("dense", written("dense", f"    {body}\n"))
    assert fault in faults[0]
    assert not hints


def test_a_function_that_fails_for_some_sizes_alone_says_which():
    body = "    return dy @ weight.T, x.T @ dy, dy.sum(0) + [0, 0, 0]\n"
    (fault,), hints = verdict_of("dense", written("dense", body))
    assert fault.startswith("dense.py, line 19: return")
    assert fault.endswith("with x (4, 5), weight (5, 2), dy (4, 2)")
    assert not hints


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "it has no function backward"),
        ("backward = 3", "it has no function backward"),
        ("import nowhere", "dense.py, line 1: import nowhere\nModuleNotFoundError"),
        ("def backward(:\n", "dense.py, line 1: def backward(:\nSyntaxError"),
        ("x = 1\0", "SyntaxError"),
        ("raise SystemExit('bye')", "dense.py, line 1: raise SystemExit('bye')\nSystemExit: bye"),
    ],
)
def test_a_file_that_cannot_be_run_is_told(source, message):
    with pytest.raises(Unanswered, match=re.escape(message)):
        verdict_of("dense", source)


def run(*arguments):
    """The command in this process; its exit status."""
    try:
        exercises.main([*map(str, arguments)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def backward(x, weight, dy):\n    while True: pass\n", "dense.py, line 2: was still at"),
        ("import time\ntime.sleep(99)\n", "dense.py, line 2: was still at work after 0.5 s"),
        ("import os\nos._exit(3)\n", "it ended the process that ran it, with status 3"),
        ("import ctypes\nctypes.string_at(0)\n", "ended by SIGSEGV"),
        ("input()", "EOFError"),
    ],
)
def test_a_file_that_hangs_or_ends_its_process_is_told(source, message, capsys):
    Path("演習").mkdir()
    Path("演習/dense.py").write_text(source)
    assert run("dense", "--seconds", 0.5, "--folder", "演習") == 1
    assert message in capsys.readouterr().out


def test_from_the_stub_to_the_next_exercise(capfd):
    assert run("start", "step") == 0
    path = Path("exercises/step.py")
    assert run("step") == 1
    assert "step: not yet\n  it is still the stub" in capfd.readouterr().out

    path.write_text(
        "import jax.numpy as jnp, jaxnn\nfrom helper import one\n"
        "def step(x, dy):\n    print('here')\n"
        "    return jnp.where(x >= 0, one, 0.0), jnp.zeros_like(dy)\n"
    )
    Path("exercises/helper.py").write_text("one = 1.0")
    assert run("check", "step") == 1
    out = capfd.readouterr().out
    assert "here" in out
    assert "  hint: Look at x = 0: the step comes behind it.\n" in out

    path.write_text(path.read_text().replace(">=", ">"))
    assert run("step") == 0
    out = capfd.readouterr().out
    assert out.endswith("step: right\nnext: python -m experiments.exercises start gates\n")
    assert run() == 0
    out = capfd.readouterr().out
    assert out.startswith(f"1 of {len(EXERCISES)} are solved in the folder exercises\n")
    assert re.search("^  step +solved  The step function", out, re.MULTILINE)
    path.write_text(path.read_text() + "\n")
    assert run() == 0
    assert re.search("^  step +begun ", capfd.readouterr().out, re.MULTILINE)
    Path("exercises/.solved.json").write_text("[")
    assert run() == 0
    assert sorted(p.name for p in Path("exercises").iterdir()) == [
        ".solved.json",
        "helper.py",
        "step.py",
    ]


def test_several_are_checked_and_the_solution_of_one_is_printed(capfd):
    assert run("start", "dense", "relu", "--folder", "my own") == 0
    assert "then: python -m experiments.exercises relu --folder 'my own'" in capfd.readouterr().out
    assert run("solution", "dense") == 0
    Path("my own/dense.py").write_text(capfd.readouterr().out, encoding="utf-8")
    assert run("relu", "dense", "--folder", "my own") == 1
    out = capfd.readouterr().out
    assert "relu: not yet" in out
    assert "dense: right" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denes"], "exercises: unknown exercise 'denes': did you mean 'dense'"),
        (["start"], "expected a name behind start, such as start dense"),
        (["check", "start"], "unknown exercise 'start'"),
        (["start", "../x"], "unknown exercise '../x'"),
        (["dense"], "expected exercises/dense.py: python -m experiments.exercises start dense"),
        (["start", "dense", "relu"], "exercises/relu.py is there already and stays as it is"),
        (["start", "tanh", "--folder", "exercises/relu.py"], "cannot write exercises/relu.py"),
        (["dense", "--seconds", "0"], "expected seconds to lie in [0.1, 86400"),
    ],
)
def test_what_cannot_be_done_is_told(arguments, message, monkeypatch, capsys):
    Path("exercises").mkdir()
    Path("exercises/relu.py").write_text("mine")
    assert message in error_of(exercises.main, arguments, monkeypatch, capsys)
    assert [path.read_text() for path in Path("exercises").iterdir()] == ["mine"]


def test_the_command_itself():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jaxnn_command", "exercises", "start", "lstm"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "wrote exercises/lstm.py: complete it, then: jaxnn exercises lstm\n"
    assert "then: jaxnn exercises lstm\n" in Path("exercises/lstm.py").read_text(encoding="utf-8")


def test_the_page_lists_every_exercise():
    page = (ROOT / "docs/exercises.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert rows == [(name, exercise.title) for name, exercise in EXERCISES.items()]


def test_the_example_of_the_page_is_told_what_the_page_says(capsys):
    page = (ROOT / "docs/exercises.md").read_text(encoding="utf-8")
    body, told = re.findall(r"by\n\n```python\n(.*?)```.*?```\n(.*?)```", page, re.DOTALL)[0]
    Path("exercises").mkdir()
    Path("exercises/layer_norm.py").write_text(written("layer_norm", body), encoding="utf-8")
    assert run("layer_norm") == 1
    assert capsys.readouterr().out == told
