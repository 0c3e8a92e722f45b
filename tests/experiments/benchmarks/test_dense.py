import json

import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmarks import convolution, dense, pooling
from experiments.benchmarks.measuring import (
    Contender,
    Settings,
    in_seconds,
    machine,
    save,
    sweep,
    take_turns,
)

STEP = dense.Workload("tiny step", (64, 8, 10), 32, "sgd", "digits")
EPOCH = dense.Workload("tiny epoch", (64, 8, 6, 10), 500, "adam", "digits", epoch=True)
QUICK = Settings(repeats=1, seconds=0.0)


@pytest.mark.parametrize("workload", [STEP, EPOCH], ids=lambda workload: workload.name)
def test_contenders_agree_in_their_losses_and_stand_in_the_table(workload, capsys, monkeypatch):
    names = ("jaxnn manual", "jax.grad + optax", "NumPy", "scikit-learn")
    names += (
        ("jax.grad + optax, scanned",)
        if workload.epoch
        else ("jaxnn autodiff", "Flax NNX", "Equinox")
    )
    monkeypatch.setattr(dense, "WORKLOADS", [workload])
    monkeypatch.setattr(dense, "measure_crosscheck", lambda *given: {})  # has a test of its own
    results = dense.run(Settings(repeats=1, contenders=names))
    figures, losses = (results[workload.name][key] for key in ("figures", "losses"))
    assert set(figures) == set(losses) == set(names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    for own in losses.values():
        np.testing.assert_allclose(own[:2], losses["jaxnn manual"][:2], rtol=1e-4)
    assert all(f.minimum <= f.median for f in figures.values())
    assert figures["jaxnn manual"].ratio == 1
    assert figures["jaxnn manual"].temporary_bytes > 0


def test_pytorch_agrees_in_its_losses():
    pytest.importorskip("torch")
    problem = dense.make_problem(EPOCH)
    trainers = {
        "NumPy": dense.NumPy(problem),
        **{
            implementation: dense.PyTorch(problem, implementation, 1)
            for implementation in ("default", "foreach", "fused")
        },
    }
    assert set(dense.require_same_losses(problem, trainers)) == set(trainers)


def test_a_contender_that_skips_work_is_refused():
    class Lazy(dense.NumPy):
        def update(self, gradients):
            pass

    problem = dense.make_problem(STEP)
    with pytest.raises(
        RuntimeError, match=r"expected all contenders to have the same losses.*lazy"
    ):
        dense.require_same_losses(problem, {"NumPy": dense.NumPy(problem), "lazy": Lazy(problem)})


def test_a_contender_without_its_package_is_skipped_with_the_reason(monkeypatch, capsys):
    def absent(problem):
        raise ModuleNotFoundError("no", name="absent_package")

    monkeypatch.setitem(dense.CONTENDERS, "PyTorch", absent)
    trainers = dict(dense.trainers_of(dense.make_problem(STEP), ["PyTorch", "NumPy"]))
    assert list(trainers) == ["NumPy"]
    assert "PyTorch: skipped, the package absent_package" in capsys.readouterr().out


def test_crosscheck_is_measured_beside_manual():
    figures = dense.measure_crosscheck(EPOCH, QUICK)
    assert list(figures) == ["manual", "crosscheck"]


def test_turns_interleave_and_leave_the_untimed_runs_out():
    calls = []
    contenders = {
        name: Contender(lambda n=name: calls.append(n), lambda n=name: calls.append(n.upper()))
        for name in ("a", "b")
    }
    figures = take_turns(contenders, repeats=2)
    assert calls == ["A", "a", "a", "B", "b", "b"] * 2
    assert list(figures) == ["a", "b"]


def test_the_script_writes_its_figures_and_refuses_to_replace_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dense, "WORKLOADS", [STEP])
    output = tmp_path / "figures.json"
    arguments = ["--repeats", "1", "--contenders", "NumPy", "--output", str(output)]
    benchmark.main(arguments)
    written = json.loads(output.read_text())
    assert written["dense"]["tiny step"]["figures"]["NumPy"]["ratio"] == 1
    assert written["machine"]["versions"]["jax"]
    before = output.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite"):
        benchmark.main(arguments)
    assert output.read_bytes() == before
    benchmark.main([*arguments, "--overwrite"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dens"], "unknown suite 'dens': did you mean 'dense'"),
        (["--contenders", "numpy"], "unknown contender 'numpy': did you mean 'NumPy'"),
        (["--repeats", "0"], "expected repeats to be at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        benchmark.main(arguments)


def test_saving_refuses_to_replace_a_file(tmp_path):
    path = save(tmp_path / "figures.json", {"machine": machine()})
    with pytest.raises(FileExistsError, match=r"figures\.json"):
        save(path, {})


def test_times_are_printed_with_their_unit():
    assert [in_seconds(t) for t in (2.5, 0.0125, 3.3e-5)] == ["2.5 s", "12.5 ms", "33 µs"]


def test_a_sweep_prints_the_worst_ratio_of_every_peer_and_leaves_out_what_is_not_wanted(capsys):
    def contenders():
        return {
            "ours": Contender(lambda: sum(range(9))),
            "theirs": Contender(lambda: sum(range(99))),
        }

    cases = dict.fromkeys(("small", "large", "other"), contenders)
    results = sweep(cases, Settings(repeats=1, only="l"))
    assert list(results) == ["small", "large"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("theirs: geometric mean")
    assert "worst" in last


@pytest.mark.parametrize("suite", [convolution, pooling])
def test_a_sweep_of_shapes_runs_one_of_them(suite, capsys):
    name = str(suite.CASES[-1])
    results = suite.run(Settings(repeats=1, seconds=0.0, only=name))
    assert list(results) == [name]
    assert name in capsys.readouterr().out
