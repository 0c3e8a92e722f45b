"""Programs that are told of a run: what they are called with, and that they cannot lose it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from commands import error_of

from experiments import train
from experiments.support.hooks import Hooks, find_hooks

QUICK = ["wine_mlp", "--epochs", "2", "--network", "dense(3)"]


class Recorder:
    """A module, a run or whatever: every call of it is written down."""

    def __init__(self, said, prefix=""):
        self.said, self.prefix = said, prefix

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.said.append((f"{self.prefix}{name}", *arguments, *options.items()))
            return Recorder(self.said, "run.")

        return call

    def __setitem__(self, name, value):
        self.said.append((f"{self.prefix}{name}=", value))


@pytest.fixture
def package(monkeypatch):
    def add(name):
        said = []
        module = ModuleType(name)
        recorder = Recorder(said)
        module.__getattr__ = recorder.__getattr__
        monkeypatch.setitem(sys.modules, name, module)
        return said

    return add


CALLS = {
    "wandb": [
        ("init", ("project", "jaxnn"), ("name", "run"), ("config", {"epochs": 2})),
        ("run.log", {"loss": 0.5, "f1/a b*": 1}, ("step", 3)),
        ("run.finish", ("exit_code", 0)),
    ],
    "mlflow": [
        ("set_experiment", "jaxnn"),
        ("start_run", ("run_name", "run")),
        ("log_params", {"epochs": 2}),
        ("log_metrics", {"loss": 0.5, "f1/a b_": 1}, ("step", 3)),
        ("end_run", "FINISHED"),
    ],
    "aim": [
        ("Run", ("experiment", "run")),
        ("run.config=", {"epochs": 2}),
        ("run.track", 0.5, ("name", "loss"), ("step", 3)),
        ("run.track", 1, ("name", "f1/a b*"), ("step", 3)),
        ("run.status=", "finished"),
        ("run.close",),
    ],
}


@pytest.mark.parametrize("name", CALLS)
def test_a_package_is_called_as_it_wants_to_be(name, package, tmp_path):
    said = package(name)
    with Hooks(find_hooks([name]), tmp_path / "run", {"epochs": 2}) as hooks:
        hooks.tell({"epoch": 3, "loss": 0.5, "f1": {"a b*": 1}, "note": "text"})
    assert said == CALLS[name]


class Mine:
    """A hook of one's own, which can be made to fail."""

    def __init__(self, failing=""):
        self.said, self.failing = [], failing

    def __getattr__(self, name):
        def call(*arguments):
            self.said.append((name, *arguments))
            if name == self.failing:
                raise RuntimeError("no network")

        return call


@pytest.fixture
def mine(monkeypatch):
    def add(failing=""):
        hook = Mine(failing)
        made = SimpleNamespace(make=lambda folder: hook)
        monkeypatch.setitem(sys.modules, "mine", made)
        return hook.said

    return add


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (SystemExit, "stopped")])
def test_the_end_is_told_as_it_was(error, status, mine, tmp_path):
    said = mine()
    with pytest.raises(error), Hooks(find_hooks(["mine:make"]), tmp_path, {}):
        raise error
    assert said == [("start", {}), ("finish", status)]


@pytest.mark.parametrize("method", ["start", "scalars", "finish"])
def test_a_hook_that_fails_is_warned_of_once_and_left_out(method, mine, tmp_path):
    said = mine(method)

    def run():
        with Hooks(find_hooks(["mine:make"]), tmp_path, {}) as hooks:
            hooks.tell({"epoch": 1, "loss": 1.0})
            hooks.tell({"epoch": 2, "loss": 1.0})

    message = "mine:make failed .*: RuntimeError: no network"
    with pytest.warns(UserWarning, match=message) as warned:
        run()
    assert len(warned) == 1
    assert said[-1][0] == method


def test_a_run_tells_its_options_its_epochs_and_its_test(mine, tmp_path):
    said, folder = mine(), tmp_path / "run"
    train.main([*QUICK, "--output", str(folder), "--log", "mine:make", "tensorboard"])
    assert said[0][1]["data.name"] == "wine"
    assert [call[:2] for call in said[1:]] == [
        *(("scalars", 1), ("scalars", 2), ("scalars", 2)),
        ("finish", "finished"),
    ]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert said[1][2]["loss"] == records[0]["loss"]
    assert said[3][2]["test/accuracy"] == records[2]["test"]["accuracy"]
    assert len([*(folder / "tensorboard").iterdir()]) == 1
    said = mine("scalars")
    with pytest.warns(UserWarning, match="is told nothing more"):
        train.main(["--resume", str(folder), "--epochs", "3", "--log", "mine:make"])
    assert said[1][1] == 3
    assert "test" in (folder / "metrics.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", "--log wandb needs wandb: pip install wandb"),
        ("wandbb", "unknown log 'wandbb': did you mean 'wandb'? "),
        ("not_there:make", "module:function that can be imported, got 'not_there:make': No module"),
        ("json:make", "got 'json:make': module 'json' has no attribute 'make'"),
    ],
)
def test_what_is_not_there_is_refused_before_any_work(name, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.chdir(tmp_path)
    error = error_of(train.main, [*QUICK, "--log", name], monkeypatch, capsys)
    assert message in error
    assert not (tmp_path / "runs").exists()
