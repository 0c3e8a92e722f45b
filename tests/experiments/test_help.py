"""The help of every command: read from the sources, at once, and as tyro would have it."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn_command
from experiments import check, train
from experiments.support.config import Config, flat, load_config, to_table
from experiments.support.help import WIDTH, help_of

ROOT = Path(__file__).parents[2]
COMMANDS = [name for name in jaxnn_command.commands() if "." not in name and name != "gallery"]


def names_of(kind, prefix=""):
    """The options of a dataclass as tyro has them."""
    for field in dataclasses.fields(kind):
        inner = getattr(field.type, "__origin__", field.type)
        if dataclasses.is_dataclass(inner):
            is_flat = getattr(field.type, "__metadata__", None) is not None
            yield from names_of(inner, prefix if is_flat else f"{prefix}{field.name}.")
        elif "Positional" not in str(getattr(field.type, "__metadata__", "")):
            yield prefix + field.name


def shown_in(text):
    found = re.findall(r"^  --(\S+)", text, re.MULTILINE)
    return sorted(name.replace("[no-]", "").replace("-", "_") for name in found)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_every_option_that_there_is(name):
    module = importlib.import_module(f"experiments.{name}")
    options = getattr(sys.modules[module.main.__module__], "Options", None)
    text = help_of(name, [], f"python -m experiments.{name}")
    if name not in (
        "check",
        "memory",
        "map_data",
        "sweep",
        "private",
    ):  # which leave out what they make no use of
        assert shown_in(text) == sorted(names_of(options))
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "\n  --" in text
    assert " …\n" not in text.partition("options:")[0]


def test_the_help_of_train_has_two_screens_and_the_values_of_its_configuration():
    text = help_of("train", ["wine_mlp"], "train")
    assert len(text.splitlines()) <= 100
    values = dict(flat(to_table(load_config("wine_mlp"))))
    assert f"[{values['epochs']}]" in text
    assert f"[{values['data.test_fraction']}]" in text
    assert "{configs,layers,losses,metrics,optimizers,schedules}" in text
    assert "--data.[no-]stratify" in text


def test_the_help_comes_without_jax_and_within_a_second_of_the_processor():
    code = (
        "import sys, runpy, time\n"
        "try: runpy.run_module('experiments.support.starting')['begin']('train', ['--help'])\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules, 'tyro' in sys.modules, time.process_time() < 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False True"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "nothing"},
    )
    assert done.stdout.startswith("usage: python -m experiments.train [CONFIG] [OPTIONS]\n")
    assert done.stderr == ""


def test_a_command_in_this_process_prints_the_same(capsys):
    with pytest.raises(SystemExit, match="0"):
        train.main(["wine_mlp", "--help"])
    assert capsys.readouterr().out.startswith("usage: python -m experiments.train")


def test_an_option_that_a_command_makes_no_use_of_is_not_offered_and_refused():
    text = help_of("check", [], "check")
    assert "--epochs" not in text
    assert "--data.seed" in text
    assert "--examples" in text
    with pytest.raises(ValueError, match="check: expected no --epochs, which has no effect here"):
        check.main(["wine_mlp", "--epochs", "3"])
    used = {name for name, _ in flat(to_table(Config()))}
    assert set(check.USES) <= {name.partition(".")[0] for name in used}


def test_what_a_command_may_need_later_is_not_imported_at_its_start():
    late = ("matplotlib", "scipy.special", "pandas", "sklearn", "orbax", "tensorboardX", "PIL")
    code = f"import sys, experiments.train; print([n for n in {late} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"
